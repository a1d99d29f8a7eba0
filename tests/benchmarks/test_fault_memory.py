"""A fault campaign's memory does not grow with the data: 10,000 inputs peak within 1.2 times 500, in hwbench and its workers.

The highest resident set counts, mapped files included: hwbench reads its data a chunk at a time and maps no more of it. Were
the 10,000 inputs kept anywhere, this alone would be more than what a worker takes.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from hwbench_onnxruntime import OnnxRuntimeBackend
from models import make_model
from onnx import helper
from recorded import peaks

pytestmark = pytest.mark.slow
SMALL, LARGE, TIMES = 500, 10_000, 1.2
TRIALS, SHAPE = 64, (3, 40, 40)
CAMPAIGN = "hwbench.worker.tasks.campaign:run"


@pytest.fixture
def model(tmp_path) -> Path:
    """Three layers, so that there are cuts, and tensors between them that are as large as an input."""
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c1"], "conv1", strides=[4, 4]),
        helper.make_node("Relu", ["c1"], ["r1"], "relu1"),
        helper.make_node("Conv", ["r1", "w2"], ["c2"], "conv2", strides=[2, 2]),
        helper.make_node("Relu", ["c2"], ["r2"], "relu2"),
        helper.make_node("Flatten", ["r2"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w3"], ["y"], "classifier"),
    ]
    shapes = {"w1": (48, 3, 4, 4), "w2": (8, 48, 2, 2), "w3": (200, 10)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    path = tmp_path / "small.onnx"
    onnx.save(make_model(nodes, {"x": (1, ["N", *SHAPE])}, {"y": (1, ["N", 10])}, weights), path)
    return path


def campaign(folder: Path, model: Path, n: int) -> Mapping[str, float]:
    """What the processes of a campaign over n random images took."""
    rng = np.random.default_rng(n)
    np.savez(folder / f"{n}.npz", x=rng.integers(0, 256, (n, *SHAPE), dtype=np.uint8), y=rng.integers(0, 10, n))
    spec = folder / f"{n}.toml"
    spec.write_text(
        f'model = "{model}"\nprofiles = ["cpu-fp32"]\nstudies = ["faults"]\njobs = 1\n'
        f'[data]\nsource = "{n}.npz"\npreprocess = {{ scale = 0.00392157 }}\n'
        f"[settings.faults]\ntrials = {TRIALS}\n"
    )
    return peaks(spec, folder / f"run-{n}")


def test_twenty_times_the_inputs_take_no_more_memory(benchmark, model, tmp_path):
    small = campaign(tmp_path, model, SMALL)
    large = benchmark.pedantic(campaign, args=(tmp_path, model, LARGE), rounds=1)
    benchmark.extra_info |= {"peak_mib": {SMALL: small, LARGE: large}}
    print(", ".join(f"{kind}: {small[kind]:.0f} MiB × {large[kind] / small[kind]:.3f}" for kind in sorted(small)))
    kept = (LARGE - SMALL) * np.prod(SHAPE) * 4 / 2**20
    assert small.keys() == large.keys() >= {"hwbench", CAMPAIGN}
    assert kept > small[CAMPAIGN], "kept data would not show"
    assert max(large[kind] / small[kind] for kind in ("hwbench", CAMPAIGN)) < TIMES


def test_changing_an_initializer_again_and_again_takes_no_more_memory():
    """A trial by a full rebuild changes a whole tensor, and there are thousands of them."""
    wide = np.zeros((1024, 1024), np.float32)
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "wide")]
    model = make_model(nodes, {"x": (1, ["N", 1024])}, {"y": (1, ["N", 1024])}, {"w": wide})
    with OnnxRuntimeBackend().compile(model.SerializeToString(), {"intra_op_threads": 1}, ["w"]) as session:
        resident = []
        for trial in range(40):
            session.update("w", wide + trial)
            assert session.run({"x": np.ones((1, 1024), np.float32)})["y"][0, 0] == 1024 * trial
            resident.append(psutil.Process().memory_info().rss / 2**20)
    assert resident[-1] - resident[9] < 5 * wide.nbytes / 2**20
