from __future__ import annotations

import gc
import time
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import mlp, two_inputs

from hwbench.worker.protocol import JobContext
from hwbench.worker.tasks import latency, throughput

ORT = "hwbench_onnxruntime:OnnxRuntimeBackend"


@pytest.fixture
def params(tmp_path: Path) -> dict:
    onnx.save(mlp(), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.ones((3, 64), np.float32))
    return {"model": str(tmp_path / "model.onnx"), "inputs": {"x": str(tmp_path / "x.npy")}}


def test_durations_are_of_runs_after_the_warm_up(params, tmp_path):
    job = JobContext(tmp_path, {**params, "batch": 1, "samples": 200, "seconds": 10.0}, ORT)
    begin = time.perf_counter_ns()
    data = latency.run(job)
    whole = time.perf_counter_ns() - begin
    durations = np.load(tmp_path / "durations.npy")
    assert durations.dtype == np.int64
    assert durations.shape == (200,)
    assert (durations > 0).all()
    assert data["warm_up"] >= 2
    assert data["load_ns"] + data["first_run_ns"] + durations.sum() < whole


def test_every_point_of_a_sweep_stores_its_own_durations(params, tmp_path):
    points = {
        f"batch{batch}": {"batch": batch, "options": {"intra_op_threads": 1}} for batch in (1, 16)
    }  # more than there are inputs
    job = JobContext(tmp_path, {**params, "seconds": 0.02, "variants": points}, ORT, {}, tuple(points))
    throughput.run(job)
    stored = {name: np.load(tmp_path / f"{name}.npy") for name in points}
    assert all(len(durations) >= 20 for durations in stored.values())


def test_the_first_inputs_are_repeated_to_fill_a_batch(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    (batch,) = latency.first_batch({"x": str(tmp_path / "x.npy")}, 5).values()
    assert batch.tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]
    assert batch.flags.c_contiguous
    (one,) = latency.first_batch({"x": str(tmp_path / "x.npy")}, 1).values()
    assert one.tolist() == [[0, 1]]


def test_models_of_several_inputs_are_fed_all_of_them(tmp_path):
    onnx.save(two_inputs(), tmp_path / "model.onnx")
    np.save(tmp_path / "ids.npy", np.ones((2, 5), np.int64))
    np.save(tmp_path / "mask.npy", np.ones((2, 5), np.float32))
    inputs = {name: str(tmp_path / f"{name}.npy") for name in ("ids", "mask")}
    params = {"model": str(tmp_path / "model.onnx"), "inputs": inputs, "batch": 1, "samples": 20, "seconds": 1.0}
    latency.run(JobContext(tmp_path, params, ORT))
    assert len(np.load(tmp_path / "durations.npy")) == 20


def test_a_time_limit_ends_the_runs_but_not_before_the_least():
    slow = latency.time_runs(lambda: time.sleep(0.002), 1000, limit_ns=1_000_000, least=5)
    assert len(slow) == 5
    assert len(latency.time_runs(lambda: None, 30, limit_ns=10**10)) == 30


def test_warm_up_goes_on_until_two_windows_agree():
    calls = []

    def cooling():
        calls.append(None)
        time.sleep(0.004 if len(calls) <= 10 else 0.001)

    runs, _ = latency.reach_steady_state(cooling, window=10)
    assert runs == len(calls)
    assert runs >= 20


def test_the_collector_rests_between_two_clock_readings():
    assert gc.isenabled()
    with latency.uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()
