from __future__ import annotations

import json
import os

import pytest
from shared_run import some_digits

import hwbench
from hwbench import demo
from hwbench.studies.scaling import ScalingSettings, ScalingStudy
from hwbench.targets import limits

needs_quota = pytest.mark.skipif(not limits.mechanism().cpu, reason="no processor quota can be enforced here")


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scaling")
    data, _, _ = some_digits(folder / "digits.npz", 48)
    return hwbench.run(
        demo.MODEL,
        data={"source": str(data)},
        calibration={"source": str(demo.CALIBRATION)},
        profiles=["cpu-fp32"],
        studies=["accuracy", "scaling"],
        out=folder / "run",
        settings={"scaling": {"threads": [1, 2], "quotas": [0.2], "launches": 3, "windows": 1, "window_s": 0.3}},
    )


def rows(run, metric):
    return {
        row.condition: row
        for row in run.rows
        if row.study == "scaling" and row.profile == "cpu-fp32" and row.metric == metric
    }


@needs_quota
def test_a_quota_costs_speed_and_no_answer(run):
    speed, top1 = rows(run, "samples_per_s"), rows(run, "top1")
    assert set(speed) == {'{"threads": 1}', '{"threads": 2}', '{"cpu_quota": 0.2}'} == set(top1)
    assert speed['{"cpu_quota": 0.2}'].value < speed['{"threads": 1}'].value
    assert "enforced by" in speed['{"cpu_quota": 0.2}'].detail
    whole = {row.value for row in run.rows if (row.study, row.metric, row.condition) == ("accuracy", "top1", "{}")}
    assert {row.value for row in top1.values()} <= whole
    assert all(row.value < 1e-4 for row in rows(run, "max_abs_error").values())


@needs_quota
def test_efficiency_is_the_speed_up_per_thread_added(run):
    speed, efficiency = rows(run, "samples_per_s"), rows(run, "scaling_efficiency")
    (row,) = efficiency.values()
    assert row.condition == '{"threads": 2}'
    ratio = speed['{"threads": 2}'].value / speed['{"threads": 1}'].value / 2
    assert row.value == pytest.approx(ratio, rel=0.3)  # paired over blocks that were measured in both
    assert row.ci_low < row.value < row.ci_high


def test_threads_go_up_to_every_core_and_quotas_no_further(make_case):
    cores = os.cpu_count()
    jobs = ScalingStudy().plan(make_case(), ScalingSettings(quotas=(0.5, cores + 1)))
    timed = {name: job for name, job in jobs.items() if "launch" in name}
    assert all(job.exclusive and job.block == int(name.rpartition("-")[2]) for name, job in timed.items())
    assert timed["quota-0.5-launch-4"].limits.cpu_quota == 0.5
    assert timed["quota-0.5-launch-4"].params["quota"]
    assert f"quota-{cores + 1}-launch-0" not in timed
    used = {job.params["points"]["point"]["options"].get("intra_op_threads", 0) for job in timed.values()}
    assert {0, 1, cores} <= used
    assert jobs[f"threads-{cores}-outputs"].options["intra_op_threads"] == cores


def test_a_point_that_the_machine_cannot_carry_has_a_row_that_says_so(make_case, tmp_path):
    from hwbench.worker.protocol import JobResult

    case, settings = make_case(), ScalingSettings(threads=(1,), quotas=(), launches=2)
    refused = JobResult("unavailable", tmp_path, detail="cannot enforce it here")
    results = dict.fromkeys(("threads-1-launch-0", "threads-1-launch-1", "threads-1-outputs"), refused)
    (row,) = ScalingStudy().measure(case, settings, results).rows
    assert (row.status, row.detail, json.loads(row.condition)) == ("unavailable", refused.detail, {"threads": 1})
