from __future__ import annotations

import dataclasses
import os

import pytest
from shared_run import RUN_HERE

from hwbench.studies.throughput import ThroughputSettings, ThroughputStudy


@pytest.mark.parametrize("profile", RUN_HERE)
def test_the_best_point_is_the_largest_and_is_named(shared, profile):
    points = [row for row in shared.rows(profile, "throughput") if row.condition != "{}"]
    best = shared.row(profile, "throughput", "samples_per_s")
    assert best.value == max(row.value for row in points)
    (same,) = [row for row in points if row.value == best.value]
    assert (best.ci_low, best.ci_high, best.n) == (same.ci_low, same.ci_high, same.n)
    assert best.detail.startswith(f"best of {len(points)} points: batch ")
    assert all(0 < row.ci_low <= row.value <= row.ci_high for row in points)


def test_batches_and_threads_are_swept(shared):
    swept = {row.condition for row in shared.rows("cpu-fp32", "throughput")} - {"{}"}
    threads = sorted({1, os.cpu_count()})
    assert swept == {f'{{"batch": {batch}, "threads": {count}}}' for batch in (1, 8) for count in threads}


def test_a_profiles_own_number_of_threads_prevails(shared):
    swept = {row.condition for row in shared.rows("edge-int8-128m", "throughput")} - {"{}"}
    assert swept == {'{"batch": 1, "threads": 1}', '{"batch": 8, "threads": 1}'}


def test_a_point_the_machine_cannot_carry_costs_itself_alone(make_case, make_result):
    study, settings = ThroughputStudy(), ThroughputSettings(batches=(1, 64), threads=(2,))
    case, fast = make_case(), "batch1-threads2"
    made = make_result({fast: [10**6] * 30}, failed={"batch64-threads2": ("oom", "needs more than 64 MiB")})
    (made.folder / f"stored-{fast}.npy").rename(made.folder / f"{fast}.npy")
    made.data["variants"][fast]["steady"] = True
    rows = {row.condition: row for row in study.measure(case, settings, {"throughput": made}).rows}
    lost = rows['{"batch": 64, "threads": 2}']
    assert (lost.status, lost.value, lost.detail) == ("oom", None, "needs more than 64 MiB")
    assert rows['{"batch": 1, "threads": 2}'].value == pytest.approx(1000)
    assert rows["{}"].value == pytest.approx(1000)


def test_a_graph_of_a_fixed_batch_is_measured_at_that(make_case):
    case = make_case()
    spec = dataclasses.replace(case.model.inputs[0], shape=(4, 1))
    case = dataclasses.replace(case, model=dataclasses.replace(case.model, inputs=(spec,)))
    (job,) = ThroughputStudy().plan(case, ThroughputSettings(batches=(1, 8), threads=(1,))).values()
    assert job.variants == ("batch4-threads1",)
    assert job.exclusive
