from __future__ import annotations

import json

import numpy as np
import pytest
from shared_run import RUN_HERE, SETTINGS

from hwbench.studies.latency import LatencyStudy, window_medians

SAMPLES = SETTINGS["latency"]["samples"]


@pytest.mark.parametrize("profile", RUN_HERE)
def test_percentiles_are_in_order_and_inside_their_intervals(shared, profile):
    rows = [shared.row(profile, "latency", metric, batch=1) for metric in ("p50_ms", "p90_ms", "p99_ms")]
    values = [row.value for row in rows]
    assert values == sorted(values)
    assert all(0 < row.ci_low <= row.value <= row.ci_high for row in rows)
    assert {row.n for row in rows} == {SAMPLES}
    assert {row.unit for row in rows} == {"ms"}


def test_intervals_are_order_statistics_of_the_stored_durations(shared):
    stored = json.loads((shared.run.path / "benchmark.json").read_text())["benchmarks"]
    (one,) = [entry for entry in stored if entry["name"] == "latency[cpu-int8]"]
    durations = np.sort(one["stats"]["data"]) * 1e3
    row = shared.row("cpu-int8", "latency", "p50_ms", batch=1)
    assert len(durations) == SAMPLES
    assert row.value == pytest.approx(np.median(durations))
    for bound in (row.ci_low, row.ci_high):
        assert np.isclose(durations, bound, rtol=1e-9).any()
    # P(B < l) and P(B >= u) of B ~ binomial(500, 1/2) are at most 2.5 %: the 228th and 273rd of 500.
    assert durations[227] * (1 - 1e-9) <= row.ci_low <= row.value <= row.ci_high <= durations[272] * (1 + 1e-9)


@pytest.mark.parametrize("profile", RUN_HERE)
def test_loading_and_the_first_run_are_apart(shared, profile):
    for metric in ("load_ms", "first_run_ms"):
        row = shared.row(profile, "latency", metric)
        assert row.value > 0
        assert row.n == 1


def test_medians_of_windows_follow_the_drift_and_not_an_outlier():
    durations = np.concatenate([np.full(100, 1.0), np.full(100, 2.0)])
    durations[7] = 1000
    medians = window_medians(durations, windows=4)
    assert medians.tolist() == [1, 1, 2, 2]
    assert len(window_medians(durations[:3])) == 3


def test_it_runs_alone_and_under_the_targets_limits(make_case):
    from hwbench.profile import load_profile

    case = make_case(profile=load_profile("edge-int8-128m"))
    (job,) = LatencyStudy().plan(case, LatencyStudy.settings_type()).values()
    assert job.exclusive
    assert (job.limits.memory_mib, job.limits.timeout_s) == (128, 60.0)
