"""The run that many tests read: made once a session, on real runtimes, from the embedded model and a few of its digits."""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import polars as pl

import hwbench
from hwbench import demo
from hwbench.api import Run
from hwbench.cpuid import emulated_cpu
from hwbench.integrity import SEAL
from hwbench.table import Row

PROFILES = ("cpu-fp32", "cpu-int8", "openvino-int8", "edge-int8-128m", "gpu-cuda-fp32")
RUN_HERE = ("cpu-fp32", "cpu-int8", "openvino-int8", "edge-int8-128m")
RATES = (1e-5, 1e-3, 1e-2)
DRAWS = 4
SEED = 7
LAUNCHES = {"launches": 3, "max_launches": 3, "windows": 1, "window_s": 0.02, "warm_up_s": 0.05}
SETTINGS: dict[str, dict[str, Any]] = {
    "bit_flips": {"rates": list(RATES), "draws": DRAWS, "max_drop": 0.05},
    "noise": {"snr_db": [10, 0], "impulse_rates": [0.1], "weight_sigmas": [0.02], "draws": 2},
    "throughput": {"batches": [1, 8], **LAUNCHES},
    "latency": LAUNCHES,
    "memory": {"runs": 5},
    "fidelity": {"layers": 4, "layer_inputs": 16},
}
STUDIES = ("coverage", "accuracy", *SETTINGS)
if emulated_cpu():  # where a worker takes seconds to start: what the tests marked isa read
    PROFILES = RUN_HERE = ("cpu-fp32", "cpu-int8", "openvino-int8")
    STUDIES = ("accuracy", "fidelity")
TIMING = ("latency", "throughput", "memory")

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class SharedRun:
    """The run, and the data it was made on."""

    run: Run
    data: Path
    x: Array
    y: Array

    def rows(self, profile: str, study: str, metric: str | None = None) -> list[Row]:
        """The rows of one profile and study."""
        return [
            row
            for row in self.run.rows
            if row.profile == profile and row.study == study and metric in (None, row.metric)
        ]

    def row(self, profile: str, study: str, metric: str, **setting: Any) -> Row:
        """The one row of a figure."""
        found = [row for row in self.rows(profile, study, metric) if json.loads(row.condition) == setting]
        assert len(found) == 1, (profile, study, metric, setting, found)
        return found[0]

    def deployed(self, profile: str) -> Path:
        """The deployed file of a profile."""
        return self.run.path / "builds" / self.run.record["profiles"][profile]["build"] / "model.onnx"

    def draws(self, profile: str) -> pl.DataFrame:
        """The draws table of a profile."""
        return pl.read_parquet(self.run.path / "draws" / profile / "part-*.parquet")


@cache
def make_shared_run(base: Path) -> SharedRun:
    """The session's run, in a folder of pytest's base; several conftests ask for it, and it is made for the first."""
    folder = base / "shared"
    folder.mkdir()
    data, x, y = some_digits(folder / "digits.npz")
    run = hwbench.run(
        demo.MODEL,
        data={"source": str(data)},
        calibration={"source": str(demo.CALIBRATION)},
        profiles=PROFILES,
        studies=list(STUDIES),
        out=folder / "run",
        seed=SEED,
        settings={study: SETTINGS[study] for study in STUDIES if study in SETTINGS},
    )
    return SharedRun(run, data, x, y)


def some_digits(path: Path, n: int = 96) -> tuple[Path, Array, Array]:
    """Write ``n`` of the demo's digits, among them those that its model gets wrong, so that figures are not all 1."""
    stored = np.load(demo.DATA)
    x, y = stored["x"], stored["y"]
    missed = np.flatnonzero(bare_outputs(demo.MODEL, x).argmax(axis=1) != y)
    kept = np.sort(np.concatenate([missed, np.setdiff1d(np.arange(len(y)), missed)[: n - len(missed)]]))
    np.savez(path, x=x[kept], y=y[kept])
    return path, x[kept], y[kept]


def bare_outputs(model: Path | bytes, x: Array, batch: int = 64, threads: int = 0) -> Array:
    """What a plain ONNX Runtime session gives for the first input: the oracle, with none of hwbench in it."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    source = model if isinstance(model, bytes) else str(model)
    session = ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    name = session.get_inputs()[0].name
    parts = [session.run(None, {name: x[start : start + batch]})[0] for start in range(0, len(x), batch)]
    return np.concatenate(parts)


def without_hashes(folder: Path) -> Path:
    """Make a run directory one of an earlier version, which wrote no hashes, so that its tables may be edited."""
    record = json.loads((folder / "run.json").read_text())
    kept = {key: value for key, value in record.items() if key not in ("files", SEAL)}
    (folder / "run.json").write_text(json.dumps(kept))
    return folder


def figures(run: Run) -> pl.DataFrame:
    """The rows that must not depend on how a run was carried out: all but timing and memory."""
    return run.table.filter(~pl.col("study").is_in(TIMING))


def save_model(model: onnx.ModelProto, path: Path) -> Path:
    """Write a model and return its path."""
    onnx.save(model, path)
    return path
