"""A run ends within its budget with rows of every study, and claims no interval that a full run contradicts.

The whole takes EfficientNet-Lite0 (random weights, or an ONNX file of yours), 500 random images and the fp32 model's answers
as labels, three profiles, the default studies and 6 minutes; it is run by hand, on a machine with nothing else to do:

    HWBENCH_BUDGET=6m pytest tests/benchmarks/test_run_budget.py -k efficientnet -s
    HWBENCH_BUDGET=6m HWBENCH_MODEL=lite0.onnx HWBENCH_FULL=1 pytest tests/benchmarks/test_run_budget.py -k efficientnet -s

With ``HWBENCH_FULL`` the run is made once more without a budget, which takes hours, and the intervals of both are compared.
"""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from networks import efficientnet_lite0, resnet20

import hwbench
from hwbench.api import Run
from hwbench.durations import format_duration, parse_duration
from hwbench.studies import studies

pytestmark = [pytest.mark.slow, pytest.mark.timeout(36_000 if "HWBENCH_FULL" in os.environ else 1200)]
PROFILES = ["cpu-fp32", "cpu-int8-safe", "openvino-fp32"]
SLACK_S = 30.0
TIMING = {name for name in studies.names() if studies.get(name).timing}


def prepared(folder: Path, model: Path, shape: tuple[int, ...], n: int) -> Path:
    """Random images, labeled with the model's own answers."""
    session = ort.InferenceSession(str(model), providers=["CPUExecutionProvider"])
    images = np.random.default_rng(0).standard_normal((n, *shape)).astype(np.float32)
    (name,) = (value.name for value in session.get_inputs())
    answers = [session.run(None, {name: images[first : first + 50]})[0].argmax(axis=1) for first in range(0, n, 50)]
    np.savez(folder / "data.npz", **{name: images, "y": np.concatenate(answers)})
    return folder / "data.npz"


def within(folder: Path, model: Path, data: Path, budget: str, **settings: object) -> tuple[Run, float]:
    """A run with a budget, and the seconds it took."""
    began = time.monotonic()
    run = hwbench.run(model, data=data, profiles=PROFILES, out=folder / "budgeted", budget=budget, **settings)
    seconds = time.monotonic() - began
    spent = ", ".join(f"{name} {took:.0f} s" for name, took in run.record["budget"]["job_s"].items())
    print(f"{format_duration(seconds)} of {budget}; {spent}; declined: {run.record['budget']['declined']}")
    return run, seconds


def check_rows(run: Run) -> None:
    """Every study has rows of every profile, and nothing ended badly."""
    asked = set(run.record["fingerprint"]["studies"])
    for profile in PROFILES:
        rows = [row for row in run.rows if row.profile == profile]
        assert {row.study for row in rows} == asked
        assert not [row for row in rows if row.status in ("error", "crash", "timeout", "oom")]


def contradictions(run: Run, full: Run) -> list[str]:
    """Intervals of a run that lie apart from those of another, timings aside."""
    whole = {(row.profile, row.study, row.metric, row.condition): row for row in full.rows if row.status == "ok"}
    found = []
    for row in run.rows:
        other = whole.get((row.profile, row.study, row.metric, row.condition))
        if other is None or row.study in TIMING or row.ci_low is None or row.ci_high is None:
            continue
        low = other.ci_low if other.ci_low is not None else other.value
        high = other.ci_high if other.ci_high is not None else other.value
        if low is not None and high is not None and (row.ci_low > high or row.ci_high < low):
            found.append(f"{row.profile} {row.study} {row.metric} {row.condition}: {row} against {other}")
    return found


def test_a_small_network_keeps_to_its_budget_and_claims_nothing_that_the_whole_contradicts(tmp_path):
    onnx.save(resnet20(), tmp_path / "model.onnx")
    data = prepared(tmp_path, tmp_path / "model.onnx", (3, 32, 32), 100)
    chosen = {"studies": ["accuracy", "fidelity", "noise", "bit_flips"], "settings": {"fidelity": {"layers": 0}}}
    run, seconds = within(tmp_path, tmp_path / "model.onnx", data, "45s", **chosen)
    assert seconds < 45 + SLACK_S
    check_rows(run)
    settings = {"bit_flips": {"draws": 20}, "noise": {"draws": 10}, "fidelity": {"layers": 0}}
    full = hwbench.run(
        tmp_path / "model.onnx",
        data=data,
        profiles=PROFILES,
        out=tmp_path / "full",
        studies=chosen["studies"],
        settings=settings,
    )
    assert not contradictions(run, full)


@pytest.mark.skipif(
    "HWBENCH_BUDGET" not in os.environ, reason="takes minutes on a quiet machine; set HWBENCH_BUDGET=6m"
)
def test_efficientnet_ends_in_time(tmp_path):
    model, budget = Path(os.environ.get("HWBENCH_MODEL", tmp_path / "model.onnx")), os.environ["HWBENCH_BUDGET"]
    if not model.exists():
        onnx.save(efficientnet_lite0(), model)
    data = prepared(tmp_path, model, (3, 224, 224), 500)
    run, seconds = within(tmp_path, model, data, budget)
    assert seconds < parse_duration(budget) + SLACK_S
    check_rows(run)
    if "HWBENCH_FULL" in os.environ:
        full = hwbench.run(model, data=data, profiles=PROFILES, out=tmp_path / "full")
        assert not contradictions(run, full)
