from __future__ import annotations

import io

from rich.console import Console
from synthetic_run import UNAVAILABLE, make_rows

from hwbench.report.terminal import WIDTH, comparison_table, verdict_table
from hwbench.table import to_frame


def printed(table, width=WIDTH):
    out = io.StringIO()
    Console(file=out, width=width, force_terminal=False).print(table)
    return out.getvalue()


def test_verdicts_fit_and_say_it_in_words(run, table, verdicts):
    text = printed(verdict_table(run, table, verdicts), width=200)
    assert max(map(len, text.splitlines())) <= WIDTH
    for wanted in (
        "4 of 7 profiles",
        "✗ fail",
        "0.0450 [0.0408, 0.0501]",
        "≤ 0.01",
        "? inconclusive",
        "– unavailable",
        "libcuda.so.1",
    ):
        assert wanted in text


def test_an_unavailable_profile_takes_one_entry(run, table, verdicts):
    assert printed(verdict_table(run, table, verdicts)).count(UNAVAILABLE) == 1


def test_the_comparison_fits_and_keeps_figures_whole(run, table, verdicts):
    text = printed(comparison_table(run, table, verdicts), width=200)
    assert max(map(len, text.splitlines())) <= WIDTH
    line = next(line for line in text.splitlines() if line.strip().startswith("cpu-int8"))
    assert line.split("  ")[0].strip() == "cpu-int8"
    for wanted in ("0.983 [0.973, 0.989]", "0.213", "16\u202f093", "104", "1e-4", "36.4"):
        assert wanted in line


def test_without_accuracy_fidelity_leads(run, verdicts):
    rows = [row for row in make_rows() if row.study != "accuracy"]
    unlabeled = {**run, "data": {"labels": False}, "primary": "rmse"}
    heading, *_ = [
        line for line in printed(comparison_table(unlabeled, to_frame(rows), verdicts)).splitlines() if line.strip()
    ]
    assert heading.split()[:3] == ["Profile", "SQNR", "Agreement"]
    assert "RMSE" not in heading


def test_hostile_names_neither_colour_nor_mark_up_the_terminal(run, table, verdicts):
    for shown in (verdict_table(run, table, verdicts), comparison_table(run, table, verdicts)):
        text = printed(shown)
        assert "\x1b" not in text
        assert "<img" in text
    markup = {"profiles": {"[red]x[/red]": {}}}
    assert "[red]x[/red]" in printed(verdict_table(markup, to_frame([]), []))


def test_the_comparison_of_a_fault_campaign_has_its_rates(run, verdicts):
    rows = (row for row in make_rows() if row.study in {"accuracy", "faults"})
    text = printed(comparison_table(run, to_frame(rows), verdicts))
    line = next(line for line in text.splitlines() if line.strip().startswith("cpu-int8"))
    assert "SDC rate" in text
    assert line.split()[-2:] == ["0.0123", "0"]
