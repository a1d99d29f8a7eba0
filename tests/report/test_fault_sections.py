"""The sections of fault campaigns, memory errors and targeted flips."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from synthetic_run import HOSTILE, REASON, TENSORS, UNAVAILABLE, VOLTAGES

from hwbench.report.sections import faults, memory_errors, worst_case
from hwbench.report.tensors import STEPS, labels
from hwbench.report.view import View
from hwbench.table import Row, condition, to_frame


def view_of(*rows):
    return View({}, to_frame(replace(row, profile=row.profile or "p") for row in rows), [])


def rate(value, n=100, metric="sdc_rate", interval=True, **setting):
    bounds = {"ci_low": max(0.0, value - 0.1), "ci_high": min(1.0, value + 0.1), "ci_level": 0.95} if interval else {}
    return Row("faults", metric, condition(**setting), value=value, unit="ratio", n=n, **bounds)


def points(chart):
    return chart.spec["data"]["values"]


@pytest.fixture(scope="module")
def view(run, table, verdicts):
    return View(run, table, verdicts)


def test_overall_rates_stand_first_with_interval_and_n(view):
    section = faults.section(view)
    (overall,) = section.first
    assert overall.columns[:4] == ("Profile", "SDC rate", "DUE rate", "Mean accuracy drop")
    assert [column.replace("\u00a0", " ") for column in overall.columns[4:]] == [
        "SDC beyond top 5",
        "SDC, confidence down > 10 %",
        "SDC, confidence down > 20 %",
    ]
    rows = {row[0].text: row[1] for row in overall.rows}
    assert rows["cpu-int8"].text == "0.0123"
    assert rows["cpu-int8"].notes == ("[0.0093, 0.0162]", "n\u00a04\u202f000")
    assert (rows[UNAVAILABLE].tone, rows[UNAVAILABLE].notes) == ("unavailable", (REASON,))
    assert "cpu-int4" not in rows


def test_of_many_tensors_the_riskiest_are_drawn_in_the_order_of_the_graph_and_all_are_listed(view):
    chart = next(chart for chart in faults.section(view).charts if chart.title == "SDC rate by layer: cpu-int8")
    drawn = [point["tensor"] for point in points(chart)]
    assert len(drawn) == faults.SHOWN
    assert drawn == [tensor for tensor in TENSORS["cpu-int8"] if tensor in set(drawn)]
    listed = {row[0].text: row for row in chart.figures.rows}
    assert tuple(listed) == TENSORS["cpu-int8"]
    assert "30 of 36" in chart.caption
    rows = {row.condition: row for row in view.of("cpu-int8", "faults") if row.metric == "sdc_rate"}
    bounds = {tensor: rows[condition(tensor=tensor)].ci_high for tensor in TENSORS["cpu-int8"]}
    assert min(bounds[tensor] for tensor in drawn) >= max(bounds[t] for t in TENSORS["cpu-int8"] if t not in drawn)
    assert chart.figures.folded


def test_a_cell_of_the_heat_map_is_a_tensor_and_a_bit(view):
    chart = next(chart for chart in faults.section(view).charts if chart.title == "SDC rate by layer and bit: cpu-fp32")
    cells = {(point["tensor"], point["bit"]): point for point in points(chart)}
    assert cells.keys() == {(tensor, bit) for tensor in TENSORS["cpu-fp32"] for bit in range(32)}
    assert cells[HOSTILE, 31]["step"] == STEPS[-1] == "≥ 0.3"
    assert cells[HOSTILE, 0]["step"] == "< 0.001"
    assert chart.figures.columns == ("Tensor", *(f"Bit {bit}" for bit in range(32)))
    assert [key.text for key in chart.keys] == list(STEPS)


def test_a_rate_on_a_bound_belongs_to_the_darker_shade():
    rows = [rate(value, tensor="w", bit=bit) for bit, value in enumerate((0.0, 0.001, 0.0999, 0.1, 0.3, 1.0))]
    (chart,) = faults.section(view_of(rate(0.1), *rows)).charts
    assert [point["step"] for point in points(chart)] == ["< 0.001", "< 0.003", "< 0.1", "< 0.3", "≥ 0.3", "≥ 0.3"]


def test_bits_are_drawn_by_number_format_and_detected_failures_only_where_there_are(view):
    titles = [chart.title for chart in faults.section(view).charts]
    assert titles[-3:] == [
        "SDC rate by bit of float32 numbers",
        "DUE rate by bit of float32 numbers",
        "SDC rate by bit of int8 numbers",
    ]
    chart = faults.section(view).charts[-1]
    assert [point["x"] for point in points(chart)] == list(range(8))
    assert {point["n"] for point in points(chart)} == {"500"}
    assert chart.caption == "Bit 7 is the sign. Lines are intervals."


@pytest.mark.parametrize(("form", "width"), [("int64", 64), ("bfloat16", 16), ("int4", 4), ("int999", 64), ("odd", 3)])
def test_every_bit_of_a_format_has_its_place_sampled_or_not(form, width):
    rows = [rate(0.5, bit=bit, format=form) for bit in (0, 2)]
    (chart,) = faults.section(view_of(*rows)).charts
    assert chart.spec["layer"][0]["encoding"]["x"]["scale"]["domain"] == list(range(width))
    assert [point["x"] for point in points(chart)] == [0, 2]


def test_figures_without_an_interval_are_drawn_without_whiskers():
    (chart,) = faults.section(view_of(rate(0.2, interval=False, tensor="w"), rate(0.1, tensor="v"))).charts
    assert {point["tensor"]: point.keys() >= {"low", "high"} for point in points(chart)} == {"w": False, "v": True}


def test_rows_that_are_no_figures_are_not_drawn():
    broken = [
        replace(rate(0.1, tensor="died"), value=None, status="crash", detail="SIGSEGV"),
        rate(float("inf"), interval=False, tensor="endless"),
        rate(0.1, tensor="w", bit=10**9),
        rate(0.1, tensor="w", bit="high"),
        rate(0.1, bit=-1, format="int8"),
    ]
    (chart,) = faults.section(view_of(rate(0.2, tensor="w"), *broken)).charts
    assert [point["tensor"] for point in points(chart)] == ["w"]


def test_a_campaign_that_failed_says_why_beside_one_that_did_not():
    failed = Row("faults", "sdc_rate", status="error", detail="3 of 10 trials had another outcome", profile="q")
    (overall,) = faults.section(view_of(rate(0.2), failed)).first
    assert (overall.rows[1][1].text, overall.rows[1][1].notes) == ("error", (failed.detail,))
    assert faults.section(view_of(failed)) is None


def test_checks_and_roles_are_listed(view):
    (roles,) = faults.section(view).tables
    assert [row[1].text for row in roles.rows[:3]] == ["weight", "scale", "bias"]
    check = Row("faults", "verified_trials", value=10.0, n=10, detail="run again by a full rebuild")
    (checks,) = faults.section(view_of(rate(0.2), check)).tables
    assert [cell.text for cell in checks.rows[0]] == ["p", "Trials run again", "10", check.detail]


def test_labels_leave_out_what_exporters_repeat():
    names = (
        "/features/features.3/conv/conv.0/weight_quantized",
        "/features/features.3/conv/conv.0/weight",
        "layer1.0.conv1.weight_quantized",
        "a" * 300,
        "w\u202e\x1b[31m",
    )
    assert list(labels(names).values()) == [
        "features.3/conv.0/weight",
        "features.3/conv.0/weight (2)",
        "layer1.0.conv1.weight",
        "aaaaaaaaaaaa…aaaaaaaaaaaaa",
        "w\ufffd\ufffd[31m",
    ]


def test_a_tensor_named_like_a_label_gets_another():
    assert list(labels(["a/w", "a/w_quantized", "a/w (2)"]).values()) == ["a/w", "a/w (2)", "a/w (2) (2)"]


@given(st.lists(st.text(max_size=60), unique=True, max_size=20))
def test_no_two_tensors_share_a_label(names):
    found = labels(names)
    assert list(found) == names
    assert len(set(found.values())) == len(names)


def test_accuracy_and_energy_share_the_voltage_axis(view):
    (chart,) = memory_errors.section(view).charts
    for panel in ("upper", "lower"):
        mine = [point for point in points(chart) if point["panel"] == panel]
        assert sorted({point["x"] for point in mine}) == list(VOLTAGES)
        assert {point["variant"] for point in mine} == {key.text for key in chart.keys}
    assert [key.text for key in chart.keys] == [
        "no protection",
        "SECDED (72, 64)",
        "parity of 64 bits + SECDED (39, 32)",
    ]
    assert [row[0].text for row in chart.figures.rows] == ["0.75", "0.792", "0.833", "0.875", "0.917", "0.958", "1"]
    assert len(chart.figures.columns) == 1 + 2 * 3


def test_without_energy_and_protection_there_is_one_panel_without_a_legend():
    rows = [Row("memory_errors", "top1", condition(voltage=v), value=0.9, unit="ratio") for v in VOLTAGES]
    (chart,) = memory_errors.section(view_of(*rows)).charts
    assert {point["panel"] for point in points(chart)} == {"upper"}
    assert chart.keys == ()
    assert "energy" not in chart.caption


def test_what_a_protection_buys_is_stated_at_every_setting(view):
    bought, exposed = memory_errors.section(view).tables
    assert bought.columns[:5] == ("Profile", "Protection", "At", "Drop without", "Drop with")
    assert bought.columns[5:] == ("Corrected", "Detected", "Miscorrected")
    assert len(bought.rows) == 2 * (len(VOLTAGES) + 1)
    row = bought.rows[0]
    assert (row[1].text, row[1].notes) == ("SECDED (72, 64)", ("12.5 % more storage",))
    assert (row[2].text, row[3].text, row[4].text, row[5].text) == ("V/Vmin 0.75", "0.80", "0.080", "650")
    assert [row[3].text for row in exposed.rows][:2] == ["no protection", "SECDED (72, 64)"]
    assert [cell.text for cell in exposed.rows[0][1:3]] == ["50\u202f000", "8\u202f760"]


def test_a_protection_without_its_unprotected_twin_or_counts_leaves_the_cells_empty():
    row = Row("memory_errors", "accuracy_drop", condition(voltage=0.8, protection="odd_code"), value=0.1, unit="ratio")
    died = Row("memory_errors", "top1", condition(voltage=0.75), status="timeout", detail="no answer within 600 s")
    bought, without = memory_errors.section(view_of(row, died)).tables
    assert [cell.text for cell in bought.rows[0]] == ["p", "odd code", "V/Vmin 0.8", "", "0.100"]
    assert [cell.text for cell in without.rows[0]] == ["p", "V/Vmin 0.75", "timeout"]


def test_flips_needed_stand_above_accuracy_against_flips(view):
    section = worst_case.section(view)
    (needed,) = section.first
    assert [[cell.text for cell in row] for row in needed.rows] == [
        ["cpu-fp32", "any stored number", "4", "until chance: top1 <= 0.1"],
        ["cpu-fp32", "without data", "12", "until chance: top1 <= 0.1"],
        ["cpu-int8", "any stored number", "12", "until chance: top1 <= 0.1"],
        ["cpu-int8", "without data", "36", "until chance: top1 <= 0.1"],
    ]
    greedy, data_free = section.charts
    assert [point["x"] for point in points(greedy) if point["profile"] == "cpu-fp32"] == [0, 1, 2, 3, 4]
    assert [point["x"] for point in points(data_free) if point["profile"] == "cpu-fp32"] == list(range(13))


def test_a_search_that_did_not_get_there_says_so():
    row = Row("worst_case", "flips_needed", detail="not reached within 100 flips")
    section = worst_case.section(view_of(row))
    assert section.charts == ()
    assert [cell.text for cell in section.first[0].rows[0]] == ["p", "", "see note", row.detail]


@pytest.mark.parametrize("module", [faults, memory_errors, worst_case], ids=lambda module: module.STUDIES[0])
def test_nothing_is_shown_without_figures(module):
    assert module.section(view_of()) is None
    assert module.section(view_of(Row(module.STUDIES[0], "top1", status="unavailable", detail=REASON))) is None
