from __future__ import annotations

import subprocess
import sys

import numpy as np
import onnx
import psutil
import pytest
from job_files import files_in
from models import mlp

from hwbench.targets import open_target
from hwbench.worker.protocol import Job
from hwbench.worker.tasks import memory

ORT = "hwbench_onnxruntime:OnnxRuntimeBackend"


def test_memory_is_counted_from_the_start_of_the_process_to_its_peak(tmp_path):
    onnx.save(mlp(), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.ones((2, 64), np.float32))
    inputs = {"x": str(tmp_path / "x.npy")}
    params = {"model": str(tmp_path / "model.onnx"), "inputs": inputs, "batch": 2, "runs": 3}
    job = Job("hwbench.worker.tasks.memory:run", params, ORT, files=files_in(params))
    result = open_target("local").run(job, tmp_path / "job")
    assert result.ok, result.detail
    data = result.data
    assert 10 < data["runtime"] <= data["loaded"] + 1
    assert data["loaded"] <= data["peak"] + 1
    assert (
        max(data["peak_anonymous"], data["peak_file"]) < data["peak"] <= data["peak_anonymous"] + data["peak_file"] + 1
    )
    assert data["run_ns"] > 0
    assert data["peak"] == pytest.approx(result.usage["peak_mib"], rel=0.25)  # the kernel's own record, a little later


def test_the_tree_holds_the_children():
    alone = memory.tree()
    program = "import sys; held = bytearray(b'1') * (64 << 20); print(flush=True); sys.stdin.read()"
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        child.stdout.readline()
        both = memory.tree()
        theirs = psutil.Process(child.pid).memory_info().rss / 2**20
        child.stdin.close()
    grown = sum(both.values()) - sum(alone.values())
    assert both["anonymous"] - alone["anonymous"] > 60
    assert grown == pytest.approx(theirs, abs=8)


def test_the_peak_sees_what_is_freed_again():
    with memory.Peak() as peak:
        before = peak.anonymous or memory.tree()["anonymous"]
        held = np.ones(64 << 17)  # 64 MiB
        peak._take()
        del held
    assert peak.anonymous - before > 60
    assert peak.total >= peak.anonymous
