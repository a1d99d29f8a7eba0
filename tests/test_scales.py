"""Warnings about scales, on what quantizers make and on files that were given quantized."""

from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

import hwbench
from hwbench.scales import lint_scales
from tests import models

MASK = 3.4e38 / 255


def with_scale(model: onnx.ModelProto, name: str, value: float | np.ndarray) -> onnx.ModelProto:
    """The model with another scale."""
    (scale,) = [tensor for tensor in model.graph.initializer if tensor.name == name]
    scale.CopyFrom(numpy_helper.from_array(np.broadcast_to(np.float32(value), scale.dims).copy(), name))
    return model


def rules(model: onnx.ModelProto) -> dict[str, str]:
    return {finding.layer: finding.rule for finding in lint_scales(model)}


@pytest.mark.parametrize(
    "model",
    [
        models.static_int8(models.small_cnn()),
        models.static_int8(models.masked_transformer(-30.0)),
        models.static_int8(models.detector(), in_float=["join"]),
        models.static_int8(models.detector(separate=True), "s8"),
        models.int4(models.mlp()),
        models.dynamic_int8(models.mlp()),
        models.mlp(),
    ],
    ids=["cnn", "transformer", "detector", "separate", "int4", "dynamic", "float"],
)
def test_sound_builds_have_no_finding(model):
    assert lint_scales(model) == []


@pytest.mark.parametrize(
    ("value", "rule"),
    [
        (np.inf, "scale_not_finite"),
        (np.nan, "scale_not_finite"),
        (0.0, "scale_zero"),
        (MASK, "scale_saturated"),
    ],
)
@pytest.mark.parametrize("scale", ["r1_scale", "w2_scale"])
def test_a_scale_that_is_no_number_is_found_once(value, rule, scale):
    """Of an activation, which two nodes share, and of weights, one a channel."""
    model = with_scale(models.static_int8(models.small_cnn()), scale, value)
    assert list(rules(model).values()) == [rule]
    assert len(lint_scales(model)) == 1


@pytest.mark.parametrize(("masked", "found"), [(-30.0, {}), (-1e4, {"softmax": "scale_saturated"})])
def test_a_softmax_of_scores_in_coarse_steps_is_found(masked, found):
    """Quantized as a tool would that knows nothing of masks: ONNX Runtime's own quantizer, without hwbench."""
    assert rules(models.static_int8(models.masked_transformer(masked, "add"))) == found


@pytest.mark.parametrize("activations", ["u8", "s8"])
def test_a_concat_of_boxes_and_scores_under_one_scale_is_named(activations):
    (finding,) = lint_scales(models.static_int8(models.detector(), activations))
    assert (finding.rule, finding.layer) == ("mixed_ranges", "join")
    assert "'scores' fewer than 2 of 256 levels" in finding.reason


def test_a_scale_shared_before_the_concat_is_found_too():
    """As NNCF and TensorRT's toolkits write it: all inputs of a Concat have its output's scale."""
    model = models.static_int8(models.detector())
    shared = next(numpy_helper.to_array(one) for one in model.graph.initializer if one.name == "y_scale")
    for name in ("boxes_scale", "s3_scale", "scores_scale"):
        if any(one.name == name for one in model.graph.initializer):
            with_scale(model, name, shared)
    assert rules(model) == {"score_sigmoid": "mixed_ranges"}


def test_a_concat_in_operator_form_is_named():
    stored = {"ys": 2.5, "as": 2.5, "bs": 0.004}
    nodes = [
        helper.make_node(
            "QLinearConcat", ["ys", "z", "a", "as", "z", "b", "bs", "z"], ["y"], "join", axis=1, domain="com.microsoft"
        )
    ]
    weights = {name: np.float32(value) for name, value in stored.items()} | {"z": np.uint8(0)}
    kinds = {name: (TensorProto.UINT8, ["N", 4]) for name in ("a", "b")}
    (finding,) = lint_scales(models.make_model(nodes, kinds, {"y": (TensorProto.UINT8, ["N", 8])}, weights))
    assert (finding.rule, finding.layer) == ("mixed_ranges", "join")
    assert "'b' fewer than 2" in finding.reason


def test_a_file_given_quantized_is_looked_at_as_it_is(tmp_path):
    broken = with_scale(models.static_int8(models.small_cnn()), "r1_scale", np.inf)
    models.saved(broken, tmp_path / "int8.onnx")
    np.savez(tmp_path / "data.npz", **models.feeds(models.small_cnn(), batch=8))
    (tmp_path / "as-is.toml").write_text('backend = "onnxruntime"\n[precision]\nformat = "as-is"\n')
    done = hwbench.run(
        tmp_path / "int8.onnx",
        reference=str(models.saved(models.small_cnn(), tmp_path / "fp32.onnx")),
        data={"source": str(tmp_path / "data.npz")},
        profiles=[str(tmp_path / "as-is.toml")],
        studies=["lint"],
        out=tmp_path / "run",
    )
    (found,) = [row for row in done.rows if row.metric == "scale_not_finite"]
    assert json.loads(found.condition)["isa"] == "any"
    assert "Scale not finite" in (done.path / "report.md").read_text()
