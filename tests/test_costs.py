import json

import pytest

from hwbench.costs import Costs, inputs, passes
from hwbench.worker.protocol import PROGRESS_FILE, Job, JobResult

BASE = {"model": "m", "n": 100}


def evaluation(*variants, n=100, **params):
    named = {f"v{place}": variant for place, variant in enumerate(variants)}
    return Job(
        "hwbench.worker.tasks.evaluate:run", {**BASE, "n": n, "variants": named, **params}, variants=tuple(named)
    )


NOISE, FLIP = {"kind": "gaussian_input"}, {"kind": "bit_errors"}


def timed(**changes):
    costs = Costs()
    costs.timed(evaluation(NOISE), **{"load_s": 2.0, "compile_s": 1.0, "input_s": 0.1, **changes})
    return costs


def test_passes_and_inputs_are_counted_whatever_the_job():
    assert (passes(evaluation(NOISE, FLIP)), inputs(evaluation(NOISE, FLIP))) == (2, 200)
    assert inputs(evaluation(NOISE, {**FLIP, "inputs": 16})) == 116
    campaign = Job("hwbench.worker.tasks.campaign:run", {**BASE, "faults": [[]] * 7})
    assert (passes(campaign), inputs(campaign)) == (7, 700)
    assert (passes(Job("probe")), inputs(Job("probe"))) == (1, 1)


def test_a_timed_batch_gives_the_estimate():
    assert timed().of(evaluation(NOISE, NOISE)) == pytest.approx(2 + 2 * 10)
    assert timed().of(evaluation(FLIP, FLIP)) == pytest.approx(2 + 2 * (1 + 10))  # every draw is compiled
    assert timed().of(evaluation(NOISE, NOISE), done=1) == pytest.approx(10)
    assert timed().known(evaluation(NOISE))
    assert not timed().known(evaluation(NOISE, model="another"))


def test_what_jobs_took_corrects_the_estimate(tmp_path):
    costs, job = timed(), evaluation(NOISE, NOISE)
    costs.learn(job, JobResult("ok", tmp_path), 44.0)
    assert costs.of(evaluation(NOISE)) == pytest.approx(2 * 12)  # twice the estimate, whatever the number of passes
    assert costs.of(evaluation(FLIP)) == pytest.approx(13)
    costs.learn(job, JobResult("crash", tmp_path), 1000.0)
    assert costs.of(evaluation(NOISE)) == pytest.approx(2 * 12)


def test_a_job_that_was_cut_is_judged_by_what_it_did(tmp_path):
    costs, job = timed(), evaluation(NOISE, NOISE, NOISE, NOISE)
    costs.learn(job, JobResult("ok", tmp_path, unfinished=["v2", "v3"]), 44.0)
    assert costs.of(evaluation(NOISE)) == pytest.approx(12 * 44 / 22)


def test_a_golden_run_times_its_session(tmp_path):
    lines = [{"start": "golden", "at": 3.0, "clock": 13.0}, {"done": "golden", "data": {}, "at": 8.0, "clock": 18.0}]
    (tmp_path / PROGRESS_FILE).write_text("".join(f"\n{json.dumps(line)}\n" for line in lines))
    job = Job(
        "hwbench.worker.tasks.evaluate:run", {**BASE, "variants": {"golden": {"kind": "golden"}}}, variants=("golden",)
    )
    costs = Costs()
    costs.learn(job, JobResult("ok", tmp_path), 8.5)
    assert costs.of(evaluation(NOISE, NOISE)) == pytest.approx(3 + 2 * 5)


def test_jobs_that_measure_time_are_estimated_by_their_points():
    point = {"windows": 3, "window_s": 0.1, "warm_up_s": 0.5}
    job = Job("launch", {"model": "m", "points": {"a": point, "b": point}}, exclusive=True, variants=("a", "b"))
    assert timed().of(job) == pytest.approx(2 + 2 * (1 + 0.5 + 0.3))
