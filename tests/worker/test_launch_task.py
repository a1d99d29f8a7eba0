from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import mlp, two_inputs

from hwbench.worker.disturbance import Disturbance
from hwbench.worker.progress import Progress
from hwbench.worker.protocol import PROGRESS_FILE, JobContext
from hwbench.worker.tasks import launch

ORT = "hwbench_onnxruntime:OnnxRuntimeBackend"
QUIET = Disturbance(0.1, 0.1, 0.1, 0.0, 0.0, 0.0, 0.0)
POINT = {"batch": 1, "options": {}, "windows": 2, "window_s": 0.01, "runs": 5, "warm_up_s": 0.1}


@pytest.fixture
def inputs(tmp_path: Path) -> dict:
    onnx.save(mlp(), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.ones((3, 64), np.float32))
    return {
        "model": str(tmp_path / "model.onnx"),
        "inputs": {"x": str(tmp_path / "x.npy")},
        "quota": False,
        "launch": 0,
    }


def run(folder: Path, params: dict, points: dict) -> dict:
    launch.run(JobContext(folder, {**params, "points": points}, ORT, {}, tuple(points)))
    assert (folder / PROGRESS_FILE).exists()
    return dict(Progress.read(folder).finished)


def test_every_point_stores_the_durations_of_its_kept_windows(inputs, tmp_path):
    points = {"one": POINT, "many": {**POINT, "batch": 16, "options": {"intra_op_threads": 1}}}
    records = run(tmp_path, inputs, points)
    for name, record in records.items():
        durations = np.load(tmp_path / f"{name}.npy")
        assert durations.dtype == np.int64
        assert len(durations) == sum(record["kept"])
        assert (durations > 0).all()
        assert min(record["kept"]) >= POINT["runs"]
        assert len(record["kept"]) <= POINT["windows"] <= len(record["windows"]) <= 2 * POINT["windows"]
        assert record["load_ns"] > 0
        assert record["first_run_ns"] > 0
        assert record["warm_up"] >= 2


def test_models_of_several_inputs_are_fed_all_of_them(tmp_path):
    onnx.save(two_inputs(), tmp_path / "model.onnx")
    np.save(tmp_path / "ids.npy", np.ones((2, 5), np.int64))
    np.save(tmp_path / "mask.npy", np.ones((2, 5), np.float32))
    files = {name: str(tmp_path / f"{name}.npy") for name in ("ids", "mask")}
    records = run(tmp_path, {"model": str(tmp_path / "model.onnx"), "inputs": files, "quota": False}, {"one": POINT})
    assert sum(records["one"]["kept"]) >= POINT["runs"]


def test_a_neighbor_on_the_machine_is_seen_and_named(inputs, tmp_path):
    burning = "import os\nfor _ in range(os.cpu_count() or 1): os.fork() or exec('while True: pass')"
    neighbor = subprocess.Popen([sys.executable, "-c", burning], start_new_session=True)
    try:
        record = run(tmp_path, inputs, {"one": {**POINT, "window_s": 0.2}})["one"]
    finally:
        os.killpg(neighbor.pid, signal.SIGKILL)
        neighbor.wait()
    assert record["disturbed"]
    assert all("others" in window["reasons"] for window in record["windows"])
    assert len(record["windows"]) == 2 * POINT["windows"]


def window(**changes: float) -> launch.Window:
    return launch.Window(np.array([1, 2]), Disturbance(**{**vars(QUIET), **changes}))


@pytest.mark.parametrize(
    ("changes", "reasons"),
    [
        ({}, []),
        ({"machine_s": 0.13}, ["others"]),
        ({"machine_s": 0.12}, []),
        ({"steal_s": 0.02}, ["steal"]),
        ({"waiting_s": 0.05, "machine_s": 0.105}, ["waiting"]),
        ({"waiting_s": 0.05}, []),  # its own threads wait for each other: no other process ran
        ({"throttled_s": 0.01}, ["throttled"]),
        ({"throttled_s": float("nan"), "waiting_s": float("nan")}, []),
    ],
)
def test_a_window_is_disturbed_by_what_exceeds_its_share(changes, reasons):
    assert window(**changes).reasons == reasons


def test_a_targets_own_quota_is_no_disturbance():
    account = Disturbance(**{**vars(QUIET), "throttled_s": 0.05})
    assert launch.Window(np.array([1]), account, quota=True).reasons == []


def test_undisturbed_windows_count_and_otherwise_the_least_disturbed():
    quiet, loud, louder = window(), window(machine_s=0.2), window(machine_s=0.3)
    assert launch.select([loud, quiet, louder, quiet], 3) == ([quiet, quiet], False)
    kept, disturbed = launch.select([louder, quiet, loud, window(machine_s=0.4)], 3)
    assert disturbed
    assert kept == [louder, quiet, loud]
