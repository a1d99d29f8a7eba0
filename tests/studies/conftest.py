"""What the tests of studies share: the session's run, and cases whose results are written by hand."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import small_cnn
from shared_run import SharedRun, make_shared_run

from hwbench.backend import TensorSpec
from hwbench.build import Build
from hwbench.dataset import DataSpec, materialise, open_source
from hwbench.metrics import TASKS
from hwbench.model import Model
from hwbench.profile import load_profile
from hwbench.studies import Case, Subject
from hwbench.worker.protocol import JobResult


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SharedRun:
    return make_shared_run(tmp_path_factory.getbasetemp())


@pytest.fixture
def make_case(tmp_path: Path) -> Callable[..., Case]:
    """A case over five inputs of one number, with the given labels; its build is never run."""

    def make(labels: Any = (0, 1, 2, 0, 1), task: str = "classification", **changes: Any) -> Case:
        arrays = {"x": np.arange(5, dtype=np.float32).reshape(5, 1)}
        if labels is not None:
            arrays["y"] = np.asarray(labels)
        np.savez(tmp_path / "data.npz", **arrays)
        spec = TensorSpec("x", "float32", (None, 1))
        data = materialise(open_source(DataSpec(source=str(tmp_path / "data.npz"))), [spec], tmp_path, task=task)
        if not (tmp_path / "model.onnx").exists():  # a test may have a build of its own
            onnx.save(small_cnn(), tmp_path / "model.onnx")
        build = Build("build", tmp_path, {"sha256": "0", "contents": {"bytes": 100}})
        output = TensorSpec("y", "float32", (None, 3))
        subject = Subject(build, "onnxruntime", {})
        fields: dict[str, Any] = {
            "profile": load_profile("cpu-fp32"),
            "subject": subject,
            "reference": subject,
            "model": Model(tmp_path / "model.onnx", "0", (spec,), (output,), 1, 1, 100),
            "data": data,
            "metrics": TASKS[task],
            "output": "y",
            "classifies": task == "classification",
            "batch": 4,
            "seed": 0,
            "timeout_s": 60.0,
            "work": tmp_path,
        }
        return Case(**{**fields, **changes})

    return make


@pytest.fixture
def make_result(tmp_path: Path) -> Callable[..., JobResult]:
    """The result of an evaluation, its variants' outputs as given: what a worker leaves behind."""

    def make(outputs: Mapping[str, Any], faults: Mapping[str, int] | None = None, **changes: Any) -> JobResult:
        variants = {}
        for name, output in outputs.items():
            record: dict[str, Any] = {"n_faults": (faults or {}).get(name, 0), "arrays": [f"stored-{name}"]}
            if output is None:
                record |= {"arrays": [], "failed": "the runtime refused it"}
            else:
                np.save(tmp_path / f"stored-{name}.npy", np.asarray(output))
            variants[name] = record
        return JobResult("ok", tmp_path, {"variants": variants, **changes.pop("data", {})}, **changes)

    return make
