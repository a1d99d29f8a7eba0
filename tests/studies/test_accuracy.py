from __future__ import annotations

from dataclasses import replace

import numpy as np
import openvino as ov
import polars as pl
import pytest
import scipy
from shared_run import RUN_HERE, SharedRun, bare_outputs

from hwbench import demo
from hwbench.studies.accuracy import AccuracyStudy


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
    exact = scipy.stats.binomtest(int(right.sum()), len(right)).proportion_ci(method="exact")
    assert (row.ci_low, row.ci_high) == pytest.approx((exact.low, exact.high))


@pytest.mark.parametrize("profile", RUN_HERE)
def test_the_drop_is_paired_with_the_reference_on_the_same_inputs(shared, profile):
    theirs = bare_outputs(demo.MODEL, shared.x).argmax(axis=1) == shared.y
    ours = outputs_of(shared, profile).argmax(axis=1) == shared.y
    row = shared.row(profile, "accuracy", "accuracy_drop")
    assert row.value == pytest.approx(theirs.mean() - ours.mean())
    if profile == "cpu-fp32":  # the reference's own file, runtime and bits
        assert (row.ci_low, row.ci_high) == (0, 0)
        assert "exact: all 96 outputs are bit for bit the reference's" in row.detail
    else:
        assert row.ci_low < row.value < row.ci_high
    only = int((theirs & ~ours).sum()), int((ours & ~theirs).sum())
    discordant = [shared.row(profile, "accuracy", "discordant", right=side).value for side in ("reference", "build")]
    assert discordant == list(only)
    wanted = scipy.stats.binomtest(only[0], sum(only)).pvalue if sum(only) else 1.0
    assert shared.row(profile, "accuracy", "mcnemar_p").value == pytest.approx(wanted)


@pytest.mark.parametrize("profile", ["reference", *RUN_HERE])
def test_what_every_input_gave_is_kept(shared, profile):
    table = pl.read_parquet(shared.run.path / "inputs" / profile / "part-*.parquet")
    outputs = bare_outputs(demo.MODEL, shared.x) if profile == "reference" else outputs_of(shared, profile)
    assert table["input"].to_list() == list(range(len(shared.y)))
    assert table["predicted"].to_list() == outputs.argmax(axis=1).tolist()
    assert table["value_top1"].to_list() == (outputs.argmax(axis=1) == shared.y).tolist()
    assert table.schema["value_top1"] == pl.Boolean
    assert table["value_top5"].mean() == shared.row(profile, "accuracy", "top5").value


@pytest.fixture
def analyse(make_case, make_result, tmp_path):
    """The rows of a build whose outputs, and whose reference's, are given."""

    def rows(build, reference, **settings):
        case, results = make_case(**settings), {}
        for label, outputs in (("golden", build), ("reference", reference)):
            (tmp_path / label).mkdir()
            np.save(tmp_path / label / "stored-golden.npy", outputs)
            results[label] = replace(make_result({"golden": outputs}), folder=tmp_path / label)
        case = replace(case, reference=replace(case.reference, options={"intra_op_threads": 2}))
        return {(row.metric, row.condition): row for row in AccuracyStudy().analyse(case, None, results).rows}

    return rows


SCORES = np.array([[3, 2, 1], [1, 3, 2], [1, 2, 3], [1, 3, 2.5], [2, 3, 1.5]], np.float32)


def test_outputs_that_are_equal_bit_for_bit_lose_exactly_nothing(analyse):
    drop = analyse(SCORES, SCORES)["accuracy_drop", "{}"]
    assert (drop.value, drop.ci_low, drop.ci_high) == (0, 0, 0)


def test_answers_equal_by_other_scores_keep_the_width(analyse):
    drop = analyse(SCORES * np.float32(1.0001), SCORES)["accuracy_drop", "{}"]
    assert drop.value == 0
    assert drop.ci_low < 0 < drop.ci_high


def test_an_output_that_is_a_class_shows_no_equal_computation(analyse):
    few = np.array([[0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0], [0, 1, 0]], np.float32)
    drop = analyse(few, few)["accuracy_drop", "{}"]
    assert drop.ci_low < 0 < drop.ci_high


def test_one_infinite_output_is_flagged_and_the_loss_over_the_others_is_there(analyse):
    labels = np.array([0.0, 1, 2, 3, 10])
    broken = np.where(labels == 3, np.inf, labels + 1)
    rows = analyse(broken, labels + 0.5, labels=labels, task="regression")
    drop, others = rows["accuracy_drop", "{}"], rows["accuracy_drop", '{"outputs": "finite"}']
    assert drop.value == drop.ci_low == np.inf
    assert "1 of 5 outputs are not finite" in drop.detail
    assert (others.value, others.n) == (pytest.approx(0.5), 4)
    assert np.isfinite([others.ci_low, others.ci_high]).all()
    assert rows["rmse", '{"outputs": "finite"}'].value == pytest.approx(1)
    assert rows["due_rate", "{}"].value == pytest.approx(0.2)


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
