"""Runs without labels: a dead part of an output fails a build by default, and every report says which part."""

from __future__ import annotations

import json
import math
import subprocess
import sys

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper

import hwbench
from hwbench.studies.parts import span
from hwbench.verdict import WORST_SLICE_DB
from tests import models

N = 24


def measured(folder, build: onnx.ModelProto, reference: onnx.ModelProto, labels=False, accept: str = "", **chosen):
    """A run of a build given as it is, on random inputs."""
    models.saved(build, folder / "build.onnx")
    models.saved(reference, folder / "fp32.onnx")
    labeled = {"y": np.zeros((N, 7, 64), np.float32)} if labels else {}
    np.savez(folder / "data.npz", **models.feeds(reference, batch=N, seed=9), **labeled)
    (folder / "as-is.toml").write_text(f'backend = "onnxruntime"\n[precision]\nformat = "as-is"\n[accept]\n{accept}')
    return hwbench.run(
        folder / "build.onnx",
        reference=str(folder / "fp32.onnx"),
        data={"source": str(folder / "data.npz")},
        profiles=[str(folder / "as-is.toml")],
        studies=["fidelity"],
        settings={"fidelity": {"layers": 0}},
        out=folder / "run",
        **({"task": "regression"} if labels else {}),
        **chosen,
    )


def rows(run, metric: str, profile: str = "as-is") -> dict[str, hwbench.Row]:
    return {row.condition: row for row in run.rows if (row.profile, row.metric) == (profile, metric)}


@pytest.fixture(scope="module")
def dead(tmp_path_factory):
    """The detector as a quantizer makes it: scores under the boxes' scale."""
    reference = models.detector()
    return measured(tmp_path_factory.mktemp("dead"), models.static_int8(reference), reference)


def test_a_dead_detector_fails_without_any_rule(dead):
    assert rows(dead, "sqnr_db")["{}"].value > 35  # over the whole output nothing shows
    (verdict,) = dead.verdicts
    assert (verdict.rule, verdict.outcome, verdict.limit) == ("min_worst_slice_sqnr_db", "fail", WORST_SLICE_DB)
    assert verdict.ci_high < 1
    assert "output 'y', slices 4-6 of axis 1" in verdict.detail
    assert dead.exit_code() == 1


def test_every_part_has_its_rows(dead):
    boxes, scores = (json.dumps({"axis": 1, "output": "y", "slice": part}) for part in ("0-3", "4-6"))
    ratios = rows(dead, "slice_sqnr_db")
    assert ratios[boxes].value > 20 > 1 > ratios[scores].value
    assert all(row.n == N and row.ci_low <= row.value <= row.ci_high for row in ratios.values())
    assert rows(dead, "distinct_values")[scores].value <= 2
    assert rows(dead, "reference_distinct_values")[scores].value == 1000
    assert "constant in the build only, of axis 1: 4-6" in ratios[scores].detail
    worst = rows(dead, "worst_slice_sqnr_db")["{}"]
    assert worst.value == ratios[scores].value
    assert {json.loads(at)["slice"] for at in ratios} > {4, 5, 6}  # single slices, the worst of each group


def test_every_report_says_which_part(dead):
    part = "slices 4-6 of axis 1"
    for view in ("report.md", "report.html", "junit.xml"):
        assert part in (dead.path / view).read_text().replace("&#39;", "'")
    assert "Fidelity of the output's parts" in (dead.path / "report.md").read_text()
    shown = subprocess.run(
        [sys.executable, "-m", "hwbench", "report", str(dead.path)], capture_output=True, text=True, check=True
    )
    assert "slices 4-6 of" in shown.stdout
    assert "Worst slice" in shown.stdout


def test_a_good_build_passes(tmp_path):
    reference = models.detector()
    run = measured(tmp_path, models.static_int8(reference, in_float=["join"]), reference)
    assert [(verdict.rule, verdict.outcome) for verdict in run.verdicts] == [("min_worst_slice_sqnr_db", "pass")]
    assert run.exit_code() == 0


def test_an_equal_build_is_infinitely_near(tmp_path):
    run = measured(tmp_path, models.detector(), models.detector())
    worst = rows(run, "worst_slice_sqnr_db")["{}"]
    assert (worst.value, worst.ci_low, worst.n) == (math.inf, None, N)
    assert [verdict.outcome for verdict in run.verdicts] == ["pass"]


@pytest.mark.parametrize(("accept", "outcomes"), [("", []), ("min_worst_slice_sqnr_db = 5.0", ["fail"])])
def test_with_labels_only_a_limit_of_the_profile_judges(tmp_path, accept, outcomes):
    reference = models.detector()
    run = measured(tmp_path, models.static_int8(reference), reference, labels=True, accept=accept)
    assert [verdict.outcome for verdict in run.verdicts] == outcomes
    assert rows(run, "worst_slice_sqnr_db")["{}"].value < 1


def test_a_limit_of_the_profile_replaces_the_default(tmp_path):
    reference = models.detector()
    run = measured(tmp_path, models.static_int8(reference), reference, accept="min_worst_slice_sqnr_db = -100.0")
    assert [(verdict.limit, verdict.outcome) for verdict in run.verdicts] == [(-100.0, "pass")]


def test_a_classifier_in_int8_passes_by_default(tmp_path):
    run = measured(tmp_path, models.static_int8(models.small_cnn(), reduce_range=True), models.small_cnn())
    assert [verdict.outcome for verdict in run.verdicts] == ["pass"]


def test_outputs_besides_the_first_are_compared(tmp_path):
    """The scores are the second output, and their scale is broken."""
    reference = models.detector(separate=True)
    build = models.static_int8(reference)
    name = next(
        node.input[1] for node in build.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == "s3"
    )
    (scale,) = [tensor for tensor in build.graph.initializer if tensor.name == name]
    scale.CopyFrom(helper.make_tensor(name, TensorProto.FLOAT, [], [2.5]))
    run = measured(tmp_path, build, reference)
    ratios = rows(run, "slice_sqnr_db")
    assert ratios['{"output": "boxes"}'].value > 20
    assert ratios['{"output": "scores"}'].value < 1
    assert [verdict.outcome for verdict in run.verdicts] == ["fail"]
    assert "output 'scores'" in run.verdicts[0].detail


def with_output(model: onnx.ModelProto, node: onnx.NodeProto, kind: int, shape) -> onnx.ModelProto:
    model.graph.node.append(node)
    model.graph.output.append(helper.make_tensor_value_info(node.output[0], kind, shape))
    return model


def test_class_numbers_are_compared_by_agreement_alone(tmp_path):
    node = helper.make_node("ArgMax", ["y"], ["best"], axis=1, keepdims=0)
    reference, build = (
        with_output(one, node, TensorProto.INT64, ["N"]) for one in (models.mlp(), models.static_int8(models.mlp()))
    )
    run = measured(tmp_path, build, reference)
    agreement = rows(run, "value_agreement")['{"output": "best"}']
    assert agreement.value == rows(run, "top1_agreement")["{}"].value
    assert agreement.n == N
    assert not any("best" in at for at in rows(run, "slice_sqnr_db"))


def test_an_output_without_a_row_per_input_is_named(tmp_path):
    node = helper.make_node("ReduceMax", ["y"], ["state"], keepdims=0)
    run = measured(tmp_path, *(with_output(models.mlp(), node, TensorProto.FLOAT, []) for _ in range(2)))
    left_out = rows(run, "slice_sqnr_db")['{"output": "*"}']
    assert left_out.status == "unavailable"
    assert "state" in left_out.detail


def test_rows_sorted_by_score_are_not_judged_place_by_place(tmp_path):
    """A step of rounding exchanges two rows, which is no fault of the build."""
    model = models.mlp()
    model.graph.node[-1].output[0] = "scores"
    weights = models.make_model([], {"x": (1, [1])}, {}, {"all": np.array([10])}).graph.initializer
    model.graph.initializer.extend(weights)
    model.graph.node.append(helper.make_node("TopK", ["scores", "all"], ["y", "order"], axis=1))
    run = measured(tmp_path, model, model)
    worst = rows(run, "worst_slice_sqnr_db")["{}"]
    assert worst.status == "unavailable"
    assert "TopK sorts" in worst.detail
    assert not run.verdicts


@pytest.mark.parametrize(
    ("slices", "text"),
    [([4], "4"), ([0, 1, 2, 3], "0-3"), ([0, 2, 3, 9], "0,2-3,9"), (list(range(0, 40, 2)), "0,2,4,6,8,10,12,14,...")],
)
def test_spans(slices, text):
    assert span(slices) == text


def test_further_outputs_are_compared_on_as_many_inputs_as_there_is_room_for(tmp_path, monkeypatch):
    monkeypatch.setattr("hwbench.studies.parts._ROOM", 8 * 3 * 64 * 10)
    run = measured(tmp_path, models.detector(separate=True), models.detector(separate=True), batch=2)
    ratios = rows(run, "slice_sqnr_db")
    assert ratios['{"output": "boxes"}'].n == N
    assert ratios['{"output": "scores"}'].n == 10
