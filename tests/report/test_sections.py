from __future__ import annotations

import math
from dataclasses import replace

import pytest
from synthetic_run import HOSTILE, HOSTILE_PROFILE, UNAVAILABLE, make_rows

from hwbench.report.about import METHODS, data_facts, host_facts, methods, model_facts
from hwbench.report.details import details
from hwbench.report.sections import sections
from hwbench.report.sections.coverage import asked_text, ran_text
from hwbench.report.view import View, settings
from hwbench.studies import studies
from hwbench.table import Row, condition, to_frame


def titles(view):
    return [section.title for section in sections(view)]


def by_title(view, title):
    return next(section for section in sections(view) if section.title == title)


def test_every_study_has_its_section_and_an_unknown_one_is_listed(run, table, verdicts):
    view = View(run, table, verdicts)
    assert titles(view) == [
        "Speed against accuracy",
        "Bit errors in the stored model",
        "Single faults in the build",
        "Errors of the memory that holds the model",
        "Worst case: targeted bit flips",
        "Noise on inputs and weights",
        "Memory",
        "Asked versus ran",
        "Radiation",
    ]
    row = by_title(view, "Radiation").tables[0].rows[0]
    assert [cell.text for cell in row] == ["cpu-int8", "upsets", "hours 24", "3.0 [1.0, 7.0]", ""]


def test_sections_without_figures_are_left_out(run):
    assert titles(View({}, to_frame([]), [])) == []
    unavailable = to_frame(row for row in make_rows() if row.profile == UNAVAILABLE)
    assert titles(View({}, unavailable, [])) == []


def test_charts_hold_the_figures_of_the_table(run, table, verdicts):
    chart = by_title(View(run, table, verdicts), "Bit errors in the stored model").charts[0]
    points = (
        chart.spec["data"]["values"]
        if "values" in chart.spec["data"]
        else chart.spec["datasets"][chart.spec["data"]["name"]]
    )
    drawn = {(point["profile"], point["x"]): point["value"] for point in points}
    rows = [
        row
        for row in make_rows()
        if row.study == "bit_flips" and row.metric == "top1" and settings(row.condition).keys() == {"ber"}
    ]
    assert drawn == {(row.profile, settings(row.condition)["ber"]): row.value for row in rows}
    assert HOSTILE_PROFILE in chart.profiles
    assert UNAVAILABLE not in chart.profiles


def test_a_rate_of_zero_is_left_out_of_a_logarithmic_axis_and_kept_in_the_figures():
    rows = [Row("bit_flips", "top1", condition(ber=ber), value=0.9, profile="p") for ber in (0.0, 1e-6, 1e-3)]
    chart = by_title(View({}, to_frame(rows), []), "Bit errors in the stored model").charts[0]
    assert {point["x"] for point in chart.spec["data"]["values"]} == {1e-6, 1e-3}
    assert [row[0].text for row in chart.figures.rows] == ["0", "1e-6", "0.001"]


def test_a_figure_made_infinite_has_the_one_over_finite_outputs_beside_it():
    figures = {condition(ber=1e-3): 0.5, condition(ber=1e-2): math.inf, condition(ber=1e-2, outputs="finite"): 0.7}
    rows = [
        Row("bit_flips", "rmse", at, value, ci_low=value, ci_high=value, n=9, profile="p")
        for at, value in figures.items()
    ]
    section = by_title(View({"primary": "rmse"}, to_frame(rows), []), "Bit errors in the stored model")
    assert [chart.title for chart in section.charts] == [
        "RMSE against bit error rate",
        "RMSE over finite outputs against bit error rate",
    ]
    assert [[cell.text for cell in row] for row in section.charts[1].figures.rows] == [["0.01", "0.700 [0.700, 0.700]"]]


def test_deviating_nodes_are_named(run, table, verdicts):
    asked, astray = by_title(View(run, table, verdicts), "Asked versus ran").tables
    assert [row[1].text for row in astray.rows] == [HOSTILE, "/classifier/MatMul"]
    overall = {row[0].text: row[3] for row in asked.rows}
    assert (overall["cpu-int4"].tone, overall["cpu-int4"].text) == ("fail", "86.7 %")
    assert (overall["cpu-int8"].tone, overall["cpu-int8"].text) == ("pass", "all")


def test_runs_under_a_cap_are_listed_even_if_they_died():
    died = Row(
        "memory", "peak_mib", condition(cap_mib=32), status="oom", detail="killed under 32 MiB (cgroup v1)", profile="p"
    )
    section = by_title(View({}, to_frame([died]), []), "Memory")
    assert section.charts == ()
    cell = section.tables[0].rows[0][2]
    assert (cell.tone, cell.text, cell.notes) == ("error", "oom", (died.detail,))


def test_details_hold_rules_figures_layers_classes_and_nodes(run, table, verdicts):
    found = {detail.name: detail for detail in details(View(run, table, verdicts))}
    tables = {table.title: table for table in found["cpu-int4"].tables}
    assert list(tables) == [
        "Acceptance rules",
        "Figures, intervals at 95 %",
        "Layers, largest error of their own first",
        "Layers whose own error is not known",
        "Classes, worst first",
        "Nodes that ran otherwise than asked",
    ]
    assert len(tables["Classes, worst first"].rows) == 10
    layers = tables["Layers, largest error of their own first"]
    assert layers.columns[:3] == ("Layer", "SQNR, its own", "SQNR, accumulated")
    assert [row[0].text.split("/")[1] for row in layers.rows[1:]] == ["blocks.3", "blocks.2", "blocks.1"]
    assert layers.rows[0][0].text == HOSTILE
    (hidden,) = tables["Layers whose own error is not known"].rows
    assert [cell.text for cell in hidden] == ["residual", "unavailable", "not observable without changing it"]
    figures = tables["Figures, intervals at 95 %"]
    assert [row[0].text for row in figures.rows if row[0].text] == [
        "Accuracy",
        "Fidelity",
        "Coverage",
        "Latency",
        "Throughput",
        "Memory",
        "Bit flips",
        "Noise",
    ]
    assert any(row[3].text == "timeout" and "600 s" in row[5].text for row in figures.rows)
    facts = dict(found["edge-int8-128m"].facts)
    assert facts["Target"] == "local, 128 MiB of memory, 1.0 cores, enforced by cgroup v1"
    assert dict(found["cpu-int8"].facts)["Same build as"] == "edge-int8-128m"
    assert "What would help" in dict(found[UNAVAILABLE].facts)


def test_long_class_lists_are_cut_and_say_so():
    rows = [Row("accuracy", "top1", condition(**{"class": k}), value=k / 100, profile="p") for k in range(100)]
    (classes,) = details(View({}, to_frame(rows), []))[0].tables
    assert classes.title == "Classes, worst first (20 of 100)"
    assert classes.rows[0][0].text == "0"


def test_facts_name_data_host_and_calibration(run, table, verdicts):
    view = View(run, table, verdicts)
    assert (
        dict(data_facts(view))["Calibration"]
        == "256 samples from digits.npz; from the evaluation inputs, without labels"
    )
    assert dict(host_facts(view))["Started"] == "2026-11-22 14:36:05 UTC"
    assert dict(host_facts(view))["Sandbox of the workers"].startswith("Landlock ABI 7")
    assert dict(model_facts(view))["Inputs"] == "x: float32[any × 1 × 28 × 28]"
    assert [study for study, _ in methods(view)][:2] == ["Verdicts", "Accuracy"]


def test_facts_of_an_old_run_without_keys_are_left_out():
    view = View(
        {"data": {"labels": False}, "host": None, "model": {"inputs": "x"}, "profiles": {"p": None}}, to_frame([]), []
    )
    assert data_facts(view) == [
        ("Labels", "none: accuracy is unavailable; builds are judged by their agreement with the reference")
    ]
    assert host_facts(view) == model_facts(view) == []
    assert details(view)[0].facts == ()


def test_a_condition_that_is_no_json_object_is_kept_as_text():
    rows = [replace(Row("odd", "x", value=1.0, profile="p"), condition=text) for text in ("{", "[1]")]
    assert [row[2].text for row in by_title(View({}, to_frame(rows), []), "Odd").tables[0].rows] == [
        "condition {",
        "condition [1]",
    ]


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        ({"format": "fp32", "activations": "u8", "weights": "s8", "options": {"provider": "cpu"}}, "fp32 on cpu"),
        (
            {"format": "int8", "activations": "u8", "weights": "s8", "per_channel": True, "reduce_range": True},
            "int8 (u8 × s8, per channel, reduced range)",
        ),
        ({"format": "int4", "block_size": 32, "options": {"device": "CPU"}}, "int4 (blocks of 32) on CPU"),
        ({"format": "as-is"}, "as-is"),
        ({}, ""),
    ],
)
def test_what_was_asked_is_worded(asked, text):
    assert asked_text(asked) == text


def test_what_ran_is_worded():
    assert ran_text({"device": "cpu", "precision": {"int8": 12, "fp32": 3}}) == "nodes: 12 int8, 3 fp32 on cpu"
    assert ran_text({"precision": {"": 3}}) == "nodes: 3 unstated"
    assert ran_text({}) == ""


def test_portability_names_what_is_lost_where_and_first_at_which_layer():
    at = {"target": "x86_64/Haswell"}
    verdict = "different values, 20.8 dB further from the reference"
    rows = [
        Row(
            "portability", "sqnr_db", condition(target="native"), 35.8, "dB", n=256, detail="avx512_vnni; onnxruntime 1"
        ),
        Row("portability", "sqnr_db", condition(**at), 15.04, "dB", n=256, detail="avx2; onnxruntime 1; qemu 7"),
        Row("portability", "top1_agreement", condition(against="native", **at), 0.988, "ratio", n=256),
        Row(
            "portability",
            "sqnr_db",
            condition(against="native", tensor=HOSTILE, **at),
            11.9,
            "dB",
            detail="Conv: first",
        ),
        Row("portability", "portable", condition(**at), 0.0, detail=verdict),
        Row("portability", "sqnr_db", condition(target="aarch64/max"), status="unavailable", detail="no QEMU"),
    ]
    view = View({}, to_frame(replace(row, profile="p") for row in rows), [])
    figures, targets = by_title(view, "Will it be the same on their machines?").tables
    assert figures.columns == ("Profile", "native", "x86_64/Haswell", "aarch64/max")
    ((_, native, haswell, arm),) = figures.rows
    assert (native.text, haswell.text, haswell.tone, arm.tone) == ("35.8 dB", "15.0 dB", "fail", "unavailable")
    assert haswell.notes == (
        verdict,
        "top-1 agreement with this processor: 0.988",
        f"first difference at {HOSTILE} (Conv), SQNR 11.9 dB",
    )
    assert [row[1].text for row in targets.rows] == [
        *("avx512_vnni; onnxruntime 1", "avx2; onnxruntime 1; qemu 7", "unavailable: no QEMU")
    ]


def test_the_method_section_has_a_text_for_every_study():
    assert set(studies.names()) == METHODS.keys()
    assert all(text.endswith(".") for text in METHODS.values())


def parts_of(profile, **ratios):
    """Rows on the parts of output ``y``: slices, as their condition has them, to the ratio; single slices have no other row."""
    made = []
    for slices, value in ratios.items():
        at = condition(output="y") if slices == "whole" else condition(output="y", axis=1, slice=slices)
        made.append(Row("fidelity", "slice_sqnr_db", at, value=value, unit="dB", n=8, profile=profile))
        if slices != "single":
            for metric, count in (("distinct_values", 2.0), ("reference_distinct_values", 1000.0)):
                detail = "1000 or more" if count == 1000 else ""
                made.append(Row("fidelity", metric, at, value=count, unit="count", n=8, detail=detail, profile=profile))
    return made


def test_parts_of_an_output_come_worst_first_and_single_slices_last():
    view = View({}, to_frame(parts_of("p", **{"0-3": 30.0, "single": -9.0, "4-21": 2.3})), [])
    (table,) = by_title(view, "Fidelity of the output's parts").tables
    assert [row[2].text for row in table.rows] == ["4-21 of axis 1", "0-3 of axis 1", "single of axis 1"]
    assert [cell.text for cell in table.rows[0][3:7]] == ["2.30 dB", "", "2", "≥ 1\u202f000"]


@pytest.mark.parametrize(("labels", "shown"), [(True, False), (False, True)])
def test_one_part_is_shown_where_no_labels_judge(labels, shown):
    view = View({"data": {"labels": labels}}, to_frame(parts_of("p", whole=20.0, single=3.0)), [])
    assert ("Fidelity of the output's parts" in titles(view)) == shown
