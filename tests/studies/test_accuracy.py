from __future__ import annotations

import numpy as np
import openvino as ov
import pytest
import scipy
from shared_run import RUN_HERE, SharedRun, bare_outputs

from hwbench import demo


def outputs_of(shared: SharedRun, profile: str) -> np.ndarray:
    """What the deployed file gives in a bare runtime."""
    if profile != "openvino-int8":
        return bare_outputs(shared.deployed(profile), shared.x, threads=int(profile.startswith("edge")))
    core = ov.Core()
    compiled = core.compile_model(str(shared.deployed(profile)), "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return np.concatenate([compiled([shared.x[start : start + 64]])[0] for start in range(0, len(shared.x), 64)])


@pytest.mark.parametrize("profile", RUN_HERE)
def test_accuracy_is_what_a_bare_loop_over_the_deployed_file_gives(shared, profile):
    outputs = outputs_of(shared, profile)
    ranked = np.argsort(-outputs, axis=1, kind="stable")
    right = ranked[:, 0] == shared.y
    row = shared.row(profile, "accuracy", "top1")
    assert row.value == right.mean()
    assert row.n == len(shared.y)
    assert shared.row(profile, "accuracy", "top5").value == (ranked[:, :5] == shared.y[:, None]).any(axis=1).mean()
    wilson = scipy.stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="wilson")
    assert (row.ci_low, row.ci_high) == pytest.approx((wilson.low, wilson.high))


@pytest.mark.parametrize("profile", RUN_HERE)
def test_the_drop_is_paired_with_the_reference_on_the_same_inputs(shared, profile):
    theirs = bare_outputs(demo.MODEL, shared.x).argmax(axis=1) == shared.y
    ours = outputs_of(shared, profile).argmax(axis=1) == shared.y
    row = shared.row(profile, "accuracy", "accuracy_drop")
    assert row.value == pytest.approx(theirs.mean() - ours.mean())
    assert row.ci_low < row.value < row.ci_high
    only = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    wanted = scipy.stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    assert shared.row(profile, "accuracy", "mcnemar_p").value == pytest.approx(wanted)


def test_every_class_has_a_row_and_they_add_up(shared):
    by_class = [row for row in shared.rows("cpu-int8", "accuracy", "top1") if "class" in row.condition]
    assert [row.condition for row in by_class] == [f'{{"class": {label}}}' for label in np.unique(shared.y)]
    assert [row.n for row in by_class] == [int((shared.y == label).sum()) for label in np.unique(shared.y)]
    whole = shared.row("cpu-int8", "accuracy", "top1")
    assert sum(row.value * row.n for row in by_class) == pytest.approx(whole.value * whole.n)


def test_the_reference_has_accuracy_and_no_drop(shared):
    right = bare_outputs(demo.MODEL, shared.x).argmax(axis=1) == shared.y
    assert shared.row("reference", "accuracy", "top1").value == right.mean() < 1
    assert shared.rows("reference", "accuracy", "accuracy_drop") == []


def test_a_profile_that_cannot_run_here_has_one_row_with_the_reason(shared):
    (row,) = shared.rows("gpu-cuda-fp32", "accuracy")
    assert (row.status, row.value) == ("unavailable", None)
    assert "cuda" in row.detail
    assert "pip install onnxruntime-gpu" in row.detail
