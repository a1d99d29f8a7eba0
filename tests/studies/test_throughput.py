from __future__ import annotations

import dataclasses
import os

import pytest
from launch_results import launched
from shared_run import RUN_HERE

from hwbench.studies.throughput import ThroughputSettings, ThroughputStudy


@pytest.mark.parametrize("profile", RUN_HERE)
def test_the_best_point_is_the_largest_and_is_named(shared, profile):
    points = [row for row in shared.rows(profile, "throughput", "samples_per_s") if row.condition != "{}"]
    best = shared.row(profile, "throughput", "samples_per_s")
    assert best.value == max(row.value for row in points)
    (same,) = [row for row in points if row.value == best.value]
    assert (best.ci_low, best.ci_high, best.n) == (same.ci_low, same.ci_high, same.n)
    assert best.detail.startswith(f"best of {len(points)} points: batch ")
    assert all(0 <= row.ci_low <= row.value <= row.ci_high for row in points)


def test_batches_and_threads_are_swept(shared):
    swept = {row.condition for row in shared.rows("cpu-fp32", "throughput", "samples_per_s")} - {"{}"}
    threads = sorted({1, os.cpu_count()})
    assert swept == {f'{{"batch": {batch}, "threads": {count}}}' for batch in (1, 8) for count in threads}


def test_a_profiles_own_number_of_threads_prevails(shared):
    swept = {row.condition for row in shared.rows("edge-int8-128m", "throughput", "samples_per_s")} - {"{}"}
    assert swept == {'{"batch": 1, "threads": 1}', '{"batch": 8, "threads": 1}'}


def test_a_point_the_machine_cannot_carry_costs_itself_alone(make_case, tmp_path):
    study, settings = ThroughputStudy(), ThroughputSettings(batches=(1, 64), threads=(2,), launches=3)
    failed = {"batch64-threads2": ("oom", "needs more than 64 MiB")}
    found = {
        f"launch-{block}": launched(
            tmp_path / str(block), {"batch1-threads2": [1.0, 1.0 + 0.01 * block] * 9}, failed=failed
        )
        for block in range(3)
    }
    rows = {row.condition: row for row in study.measure(make_case(), settings, found).rows}
    lost = rows['{"batch": 64, "threads": 2}']
    assert (lost.status, lost.value, lost.detail) == ("oom", None, "needs more than 64 MiB")
    assert rows['{"batch": 1, "threads": 2}'].value == pytest.approx(995, abs=1)
    assert rows["{}"].value == pytest.approx(995, abs=1)


def test_ratios_are_point_by_point_and_best_to_best(make_case, tmp_path):
    study, settings = ThroughputStudy(), ThroughputSettings(batches=(1, 8), threads=(1,), launches=3)
    case = make_case()
    case = dataclasses.replace(case, baseline=case)
    found = {}
    for of, milliseconds in (("launch", {"batch1-threads1": 1.0, "batch8-threads1": 2.0}),
                             ("baseline", {"batch1-threads1": 0.5, "batch8-threads1": 8.0})):  # fmt: skip
        for block, spell in enumerate((1.0, 1.7, 1.2)):
            points = {name: [spell * duration] * 5 for name, duration in milliseconds.items()}
            found[f"{of}-{block}"] = launched(tmp_path / f"{of}-{block}", points)
    ratios = {
        row.condition: row for row in study.measure(case, settings, found).rows if row.metric == "samples_per_s_ratio"
    }
    assert ratios['{"batch": 1, "threads": 1, "to": "cpu-fp32"}'].value == pytest.approx(0.5)
    assert ratios['{"batch": 8, "threads": 1, "to": "cpu-fp32"}'].value == pytest.approx(4)
    best = ratios['{"to": "cpu-fp32"}']  # 4,000 samples a second against 2,000
    assert best.value == pytest.approx(2)
    assert best.ci_high - best.ci_low < 1e-3


def test_a_graph_of_a_fixed_batch_is_measured_at_that(make_case):
    case = make_case()
    spec = dataclasses.replace(case.model.inputs[0], shape=(4, 1))
    case = dataclasses.replace(case, model=dataclasses.replace(case.model, inputs=(spec,)))
    points = ThroughputStudy().points(case, ThroughputSettings(batches=(1, 8), threads=(1,)))
    assert {name: point["batch"] for name, point in points.items()} == {"batch4-threads1": 4}
