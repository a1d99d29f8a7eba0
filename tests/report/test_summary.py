from __future__ import annotations

from dataclasses import replace

import polars as pl
from synthetic_run import BUILDS, HOSTILE_PROFILE, REASON, UNAVAILABLE, make_rows

from hwbench.report import summary
from hwbench.report.view import View
from hwbench.table import Row, to_frame
from hwbench.verdict import Verdict


def cells(table, name):
    row = next(row for row in table.rows if row[0].text == name)
    return dict(zip(table.columns, row, strict=True))


def test_the_conclusion_counts_every_profile_once(run, table, verdicts):
    view = View(run, table, verdicts)
    assert (
        summary.conclusion(view)
        == "4 of 7 profiles meet every acceptance rule. 1 fails, 1 is inconclusive, 1 could not run here."
    )
    assert [view.outcome(name) for name in ("cpu-fp32", "cpu-int4", "openvino-int8", UNAVAILABLE)] == [
        "pass",
        "fail",
        "inconclusive",
        "unavailable",
    ]


def test_a_profile_that_ran_is_never_counted_as_one_that_could_not_run():
    rules = [
        Verdict(
            "p", "max_accuracy_drop", "unavailable", 0.01, "accuracy", "accuracy_drop", detail="the data have no labels"
        ),
        Verdict("p", "as_asked", "pass", 1.0, "coverage", "nodes_as_asked"),
    ]
    rows = [
        Row("accuracy", "accuracy", status="unavailable", profile="p"),
        Row("fidelity", "sqnr_db", value=9.0, profile="p"),
    ]
    view = View({"data": {"labels": False}}, to_frame(rows), rules)
    assert summary.conclusion(view) == (
        "0 of 1 profiles meet every acceptance rule. 1 is inconclusive. "
        "The data have no labels: builds are judged by their agreement with the reference."
    )
    assert view.reason("p") == "max_accuracy_drop: the data have no labels"
    assert summary.comparison(view).columns == ("Profile", "Fidelity (SQNR)")


def test_without_rules_nothing_passes(run, table):
    view = View(run, table.filter(pl.col("status") == "ok"), [])
    assert summary.conclusion(view) == "6 profiles were measured; no acceptance rule was given. 1 could not run here."
    assert summary.best(view) == []


def test_an_empty_run_says_so():
    assert summary.conclusion(View({}, to_frame([]), [])) == "No profile was run."


def test_a_job_that_died_is_an_error_with_its_reason_but_not_under_a_memory_cap():
    passed = Verdict("p", "max_p99_ms", "pass", 50.0, "latency", "p99_ms")
    died = Row("noise", "top1", status="crash", detail="SIGSEGV", profile="p")
    view = View({}, to_frame([died]), [passed])
    assert view.outcome("p") == "error"
    assert view.reason("p") == "noise: crash, SIGSEGV"
    capped = replace(died, study="memory", metric="peak_mib", condition='{"cap_mib": 64}', status="oom")
    assert View({}, to_frame([capped]), [passed]).outcome("p") == "pass"


def test_the_best_of_those_that_pass_are_named_with_ties(run, table, verdicts):
    found = {what: (profile, figure) for what, profile, figure in summary.best(View(run, table, verdicts))}
    assert found["fastest"] == ("cpu-int8", "0.213 ms")  # openvino-int8 is faster but inconclusive
    assert found["smallest"] == ("cpu-int8 and edge-int8-128m", "219 KiB")


def test_the_matrix_states_outcome_figure_and_limit(run, table, verdicts):
    matrix = summary.verdict_matrix(View(run, table, verdicts))
    assert matrix.columns == (
        "Profile",
        "Overall",
        "Accuracy drop",
        "Latency p99",
        "Peak memory",
        "Tolerated bit error rate",
    )
    failed = cells(matrix, "cpu-int4")["Accuracy drop"]
    assert (failed.mark, failed.text, failed.notes) == ("✗", "fail", ("0.0450", "[0.0408, 0.0501]", "limit ≤ 0.01"))
    assert cells(matrix, "cpu-int8")["Tolerated bit error rate"].notes == ("1e-4", "limit ≥ 1e-5")
    assert cells(matrix, "cpu-fp32")["Peak memory"].text == "no rule"
    assert REASON in cells(matrix, UNAVAILABLE)["Overall"].notes[0]
    assert len(matrix.rows) == len(BUILDS) + 1


def test_the_comparison_has_figures_intervals_and_counts(run, table, verdicts):
    comparison = summary.comparison(View(run, table, verdicts))
    row = cells(comparison, "cpu-int8")
    assert (row["Top-1 accuracy"].text, row["Top-1 accuracy"].notes) == (
        "0.983",
        ("[0.973, 0.989]", "n\u00a01\u202f000"),
    )
    assert row["Best throughput"].notes[-1] == "batch 32, 2 threads"
    assert row["Model size"].text == "219 KiB"
    assert cells(comparison, "cpu-fp32")["Fidelity (SQNR)"].text == "∞"
    assert cells(comparison, UNAVAILABLE)["Latency p50"].text == "unavailable"
    assert cells(comparison, "reference")["Latency p50"].text == ""
    assert [line[0].text for line in comparison.rows][-2:] == [HOSTILE_PROFILE, UNAVAILABLE]


def test_the_comparison_leaves_out_what_nobody_measured(run, verdicts):
    table = to_frame(row for row in make_rows() if row.study != "memory")
    assert "Peak memory" not in summary.comparison(View(run, table, verdicts)).columns


def test_regression_is_compared_by_its_own_metric():
    rows = [Row("accuracy", "rmse", value=1.5, profile="p"), Row("accuracy", "mae", value=1.1, profile="p")]
    view = View({}, to_frame(rows), [])
    assert view.primary == "rmse"
    assert view.primary_falls
    assert cells(summary.comparison(view), "p")["RMSE"].text == "1.50"


def test_rules_without_a_number_are_put_in_words():
    why = "1× other precision"
    found = [
        Verdict("p", "as_asked", "fail", 1.0, "coverage", "nodes_as_asked", value=0.958, unit="ratio", detail=why),
        Verdict("p", "fits_memory", "pass", 128.0, "memory", "peak_mib", value=28.4, unit="MiB"),
        Verdict("p", "max_model_mib", "pass", 2.0 * 2**20, "memory", "model_bytes", value=63_116.0, unit="B"),
    ]
    row = cells(summary.verdict_matrix(View({}, to_frame([]), found)), "p")
    assert row["Runs as asked"].notes == ("95.8 % of nodes", "limit all nodes", why)
    assert row["Fits in memory"].notes == ("28.4 MiB", "limit ≤ 128 MiB")
    assert row["Model size"].notes == ("61.6 KiB", "limit ≤ 2 MiB")


def test_a_tolerated_rate_outside_the_grid_says_so():
    said = "below the grid (< 1e-07): mean loss of top1 within 0.01 by the interval's upper bound"
    view = View({}, to_frame([Row("bit_flips", "tolerated_ber", value=0.0, n=20, detail=said, profile="p")]), [])
    cell = cells(summary.comparison(view), "p")["Tolerated bit error rate"]
    assert (cell.text, cell.notes) == ("0", ("n\u00a020", "below the grid (< 1e-07)"))


def test_a_tolerated_rate_that_is_not_decided_has_the_interval_and_says_so():
    said = "not decided from 1e-06 to 1e-05: mean loss of top1 within 0.01 by the interval's upper bound"
    row = Row("bit_flips", "tolerated_ber", "{}", 1e-7, "", 1e-7, 1e-5, 0.95, 410, detail=said, profile="p")
    cell = cells(summary.comparison(View({}, to_frame([row]), [])), "p")["Tolerated bit error rate"]
    assert cell.text == "1e-7"
    assert cell.notes == ("[1e-7, 1e-5]", "n\u00a0410", "not decided from 1e-06 to 1e-05")


def test_the_run_says_which_way_its_own_metric_is_better():
    assert View({"primary": "loss", "higher_is_better": False}, to_frame([]), []).primary_falls
    assert not View({"primary": "score"}, to_frame([]), []).primary_falls
