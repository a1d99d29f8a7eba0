"""Evaluation memory does not grow with the data: 50,000 samples peak within 64 MiB of 1,000, in every process of a run."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import make_model
from onnx import helper
from recorded import peaks

pytestmark = pytest.mark.slow
SMALL, LARGE, WITHIN_MIB = 1_000, 50_000, 64
EVALUATE = "hwbench.worker.tasks.evaluate:run"


@pytest.fixture
def model(tmp_path) -> Path:
    rng = np.random.default_rng(0)
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["c"], "conv", strides=[4, 4]),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("Flatten", ["r"], ["f"], "flatten"),
        helper.make_node("MatMul", ["f", "w2"], ["y"], "classifier"),
    ]
    shapes = {"w1": (8, 3, 4, 4), "w2": (512, 10)}
    weights = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    path = tmp_path / "small.onnx"
    onnx.save(make_model(nodes, {"x": (1, ["N", 3, 32, 32])}, {"y": (1, ["N", 10])}, weights), path)
    return path


def study(folder: Path, model: Path, n: int) -> Path:
    """A specification with n random images, stored as bytes and evaluated as float32."""
    rng = np.random.default_rng(n)
    images = rng.integers(0, 256, (n, 3, 32, 32), dtype=np.uint8)
    np.savez(folder / f"{n}.npz", x=images, y=rng.integers(0, 10, n))
    spec = folder / f"{n}.toml"
    spec.write_text(
        f'model = "{model}"\nprofiles = ["cpu-fp32", "cpu-int8"]\nstudies = ["accuracy"]\njobs = 1\n'
        f'[data]\nsource = "{n}.npz"\npreprocess = {{ scale = 0.00392157 }}\n'
    )
    return spec


def evaluation(folder: Path, model: Path, n: int) -> Mapping[str, float]:
    """What the processes took while n samples were evaluated."""
    return peaks(study(folder, model, n), folder / f"run-{n}")


def test_fifty_times_the_data_take_no_more_memory(benchmark, model, tmp_path):
    small = evaluation(tmp_path, model, SMALL)
    large = benchmark.pedantic(evaluation, args=(tmp_path, model, LARGE), rounds=1)
    benchmark.extra_info |= {"peak_mib": {SMALL: small, LARGE: large}}
    print(", ".join(f"{kind}: {small[kind]:.0f} + {large[kind] - small[kind]:.1f} MiB" for kind in sorted(small)))
    assert small.keys() == large.keys() >= {"hwbench", EVALUATE}
    growth = max(large[kind] - small[kind] for kind in small if kind != "hwbench")
    assert large["hwbench"] - small["hwbench"] + growth < WITHIN_MIB
