from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import polars as pl
import pytest
from launch_results import launched
from shared_run import LAUNCHES, RUN_HERE

from hwbench import stats
from hwbench.profile import load_profile
from hwbench.studies.latency import POINT, LatencyStudy
from hwbench.studies.launches import LaunchSettings

SETTINGS = LaunchSettings(launches=5)


def results(folder, medians, *, of="launch", reasons=(), runs=100):
    """Launches whose runs all take the given milliseconds, or 1 % more."""
    return {
        f"{of}-{block}": launched(folder / f"{of}-{block}", {POINT: np.tile([median, 1.01 * median], runs)}, reasons)
        for block, median in enumerate(medians)
    }


def analyzed(case, found, settings=SETTINGS):
    return {(row.metric, row.condition): row for row in LatencyStudy().measure(case, settings, found).rows}


@pytest.mark.parametrize("profile", RUN_HERE)
def test_percentiles_are_in_order_and_inside_their_intervals(shared, profile):
    rows = [shared.row(profile, "latency", metric, batch=1) for metric in ("p50_ms", "p90_ms", "p99_ms")]
    values = [row.value for row in rows]
    assert values == sorted(values)
    assert all(0 <= row.ci_low <= row.value <= row.ci_high for row in rows)
    assert {row.n for row in rows} <= {2, LAUNCHES["launches"]}
    assert {row.unit for row in rows} == {"ms"}


def test_figures_are_over_the_launches_that_the_run_keeps(shared):
    kept = pl.read_parquet(shared.run.path / "latency" / "cpu-int8" / "*.parquet")
    assert kept["block"].to_list() == list(range(LAUNCHES["launches"]))
    row = shared.row("cpu-int8", "latency", "p50_ms", batch=1)
    counted = kept if row.n == len(kept) else kept.filter(~kept["disturbed"])
    assert row.value == pytest.approx(float(np.exp(np.log(counted["p50_ms"]).mean())))
    stored = json.loads((shared.run.path / "benchmark.json").read_text())["benchmarks"]
    (one,) = [entry for entry in stored if entry["name"] == "latency[cpu-int8]"]
    assert len(one["stats"]["data"]) == counted["runs"].sum()


def test_ratios_refer_to_the_first_profile_that_runs(shared):
    assert shared.run.record["baseline"] == "cpu-fp32"
    assert not [row for row in shared.rows("cpu-fp32", "latency") if row.metric.endswith("_ratio")]
    for metric in ("p50_ratio", "p99_ratio"):
        row = shared.row("cpu-int8", "latency", metric, batch=1, to="cpu-fp32")
        assert 0 <= row.ci_low < row.value < row.ci_high


@pytest.mark.parametrize("profile", RUN_HERE)
def test_loading_and_the_first_run_are_apart(shared, profile):
    for metric in ("load_ms", "first_run_ms"):
        row = shared.row(profile, "latency", metric)
        assert 0 < row.ci_low < row.value < row.ci_high


def test_the_interval_comes_from_the_spread_between_launches(make_case, tmp_path):
    medians = [1.0, 1.1, 1.0, 0.9, 1.0]
    row = analyzed(make_case(), results(tmp_path, medians))["p50_ms", '{"batch": 1}']
    expected = stats.over_launches(1.005 * np.array(medians), level=0.95)
    assert (row.value, row.ci_low, row.ci_high) == pytest.approx((expected.value, expected.low, expected.high))
    assert row.n == 5
    assert "5 launches, 1000 runs; 100% of the variance is between launches" in row.detail


def test_a_ratio_is_paired_by_block(make_case, tmp_path):
    case = make_case()
    case = dataclasses.replace(case, baseline=case)
    slow_spell = np.array([1.0, 3.0, 1.0, 2.0, 1.0])  # the same for both in a block: it cancels
    found = results(tmp_path, 1.2 * slow_spell) | results(tmp_path, slow_spell, of="baseline")
    rows = analyzed(case, found)
    ratio = rows["p50_ratio", '{"batch": 1, "to": "cpu-fp32"}']
    assert ratio.value == pytest.approx(1.2, rel=1e-4)
    assert 1.19 < ratio.ci_low < ratio.ci_high < 1.21
    assert rows["p50_ms", '{"batch": 1}'].ci_high > 2 * rows["p50_ms", '{"batch": 1}'].ci_low


def test_a_baseline_that_fails_costs_the_ratios_alone(make_case, tmp_path):
    case = make_case()
    case = dataclasses.replace(case, baseline=case)
    lost = dataclasses.replace(launched(tmp_path / "lost", {}), status="crash", detail="killed by SIGSEGV")
    found = results(tmp_path, [1.0] * 5) | {f"baseline-{block}": lost for block in range(5)}
    rows = analyzed(case, found)
    assert rows["p50_ms", '{"batch": 1}'].status == "ok"
    ratio = rows["p50_ratio", '{"batch": 1, "to": "cpu-fp32"}']
    assert (ratio.status, ratio.detail) == ("unavailable", "crash: killed by SIGSEGV")
    assert LatencyStudy().extend(case, SETTINGS, found) == {}


def test_a_disturbed_launch_is_left_out_and_a_disturbed_series_bounds_nothing(make_case, tmp_path):
    found = results(tmp_path / "quiet", [1.0, 1.0, 1.1, 1.0, 1.1])
    found["launch-2"] = results(tmp_path / "one", [9.0], reasons=["others"])["launch-0"]
    row = analyzed(make_case(), found)["p50_ms", '{"batch": 1}']
    assert (row.n, row.ci_high < 1.3) == (4, True)
    assert "4 launches without 1 disturbed" in row.detail
    noisy = results(tmp_path / "noisy", [1.0, 1.2, 1.1, 1.0, 1.1], reasons=["others", "steal"])
    row = analyzed(make_case(), noisy)["p50_ms", '{"batch": 1}']
    assert (row.ci_low, row.ci_high) == (0.0, math.inf)
    assert row.detail.startswith("noisy: other processes and the hypervisor's other guests disturbed 5 of 5 windows")
    assert LatencyStudy().extend(make_case(), SETTINGS, noisy) == {}  # more launches would not end that


def test_a_p99_that_few_runs_reach_has_no_upper_bound(make_case, tmp_path):
    rows = analyzed(make_case(), results(tmp_path, [1.0, 1.1, 1.0, 1.0, 1.1], runs=20))
    assert rows["p99_ms", '{"batch": 1}'].ci_high == math.inf
    assert "too few runs for an upper bound: 200 of 368" in rows["p99_ms", '{"batch": 1}'].detail
    assert rows["p50_ms", '{"batch": 1}'].ci_high < 2


def test_further_launches_are_asked_for_once_and_time_this_study_alone(make_case, tmp_path):
    study, case = LatencyStudy(), make_case()
    case = dataclasses.replace(case, points={**study.points(case, SETTINGS), "another": {}})
    spread = results(tmp_path / "a", [1.0, 1.3, 0.9, 1.2, 1.0])
    more = study.extend(case, SETTINGS, spread)
    assert list(more) == [f"launch-{block}" for block in range(5, 20)]
    assert [job.block for job in more.values()] == list(range(5, 20))
    assert {job.variants for job in more.values()} == {(POINT,)}
    assert study.extend(case, SETTINGS, {**spread, **dict.fromkeys(more, spread["launch-0"])}) == {}
    assert study.extend(case, SETTINGS, results(tmp_path / "b", [1.0, 1.01, 1.0, 1.01, 1.0])) == {}


def test_it_runs_alone_under_the_targets_limits_in_blocks_with_the_baseline(make_case):
    case = make_case(profile=load_profile("edge-int8-128m"))
    case = dataclasses.replace(case, baseline=make_case())
    jobs = LatencyStudy().plan(case, SETTINGS)
    assert all(job.exclusive for job in jobs.values())
    assert (jobs["launch-0"].limits.memory_mib, jobs["launch-0"].limits.timeout_s) == (128, 60.0)
    assert jobs["baseline-3"].block == jobs["launch-3"].block == 3
    assert len({job.key for job in jobs.values()}) == 10
