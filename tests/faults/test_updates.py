from __future__ import annotations

import numpy as np
import onnx
import pytest
from campaigns import bare_onnxruntime
from models import make_model, static_int8
from onnx import helper

from hwbench.faults import updates
from hwbench.faults.cuts import GraphCutter, Layer

pytestmark = pytest.mark.isa
node = helper.make_node
CHANNELS = updates.WORTH


def normal(*shape: int) -> np.ndarray:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / 8).astype(np.float32)


def chain(
    between: tuple[onnx.NodeProto, ...] = (), read: str = "a", channels: int = CHANNELS, kernel: int = 1, **attributes
) -> onnx.ModelProto:
    """A layer, what stands ``between``, and the convolution that reads it."""
    nodes = [
        node("Conv", ["x", "w0"], ["side"], "side"),
        node("Conv", ["side", "w1"], ["a"], "layer"),
        *between,
        node("Conv", [read, "w2", "b2"], ["c"], "next", **attributes),
        node("Relu", ["c"], ["r"], "relu"),
        node("GlobalAveragePool", ["r"], ["p"], "pool"),
        node("Flatten", ["p"], ["y"], "flatten"),
    ]
    weights = {"w0": normal(channels, 3, 1, 1), "w1": normal(channels, channels, 1, 1)}
    weights |= {"w2": normal(5, channels, kernel, kernel), "b2": normal(5)}
    return make_model(nodes, {"x": (1, ["N", 3, 6, 6])}, {"y": (1, ["N", 5])}, weights)


ADDED = (node("Add", ["a", "side"], ["s"], "add"),)


def cut(model: onnx.ModelProto) -> tuple[GraphCutter, Layer]:
    cutter = GraphCutter(model)
    return cutter, next(layer for layer in cutter.layers if layer.node == "layer")


@pytest.mark.parametrize(("between", "read"), [((), "a"), (ADDED, "s")], ids=["read", "added"])
def test_an_update_gives_what_the_convolution_gives_for_a_changed_channel(between, read):
    model = chain(between, read)
    cutter, layer = cut(model)
    update = updates.update_after(cutter, layer)
    assert update == updates.Update("c", "w2")
    taken = cutter.cut_after(layer.position)
    made = updates.segment(cutter, update, taken, ["y"], cutter.constants)
    assert [one.op_type for one in made.graph.node].count("Conv") == 0
    onnx.checker.check_model(made)

    x = np.random.default_rng(0).standard_normal((4, 3, 6, 6)).astype(np.float32)
    outputs = {}
    for name in dict.fromkeys([*taken, "a", "c"]):
        outputs[name] = bare_onnxruntime(cutter.segment(["x"], [name]), {"x": x})
    channels = np.array([3, CHANNELS - 1, 0, 3])
    changed = outputs["a"].copy()
    change = np.random.default_rng(1).standard_normal((4, 6, 6)).astype(np.float32)
    changed[np.arange(4), channels] += change
    rest = cutter.segment(taken, ["y"])
    given = {**outputs, "a": changed}
    expected = bare_onnxruntime(rest, {value.name: given[value.name] for value in rest.graph.input})
    golden, moved, column = update.inputs.values()
    weight = onnx.numpy_helper.to_array(cutter.constants["w2"])
    feeds = {**given, golden: outputs["c"], moved: change[:, None], column: np.moveaxis(weight[:, channels], 1, 0)}
    got = bare_onnxruntime(made, {value.name: feeds[value.name] for value in made.graph.input})
    np.testing.assert_allclose(got, expected, atol=1e-5)
    unchanged = bare_onnxruntime(model, {"x": x})
    assert np.abs(got - unchanged).max(axis=1).min() > 1e-3


@pytest.mark.parametrize(
    "model",
    [
        chain(kernel=3),
        chain(strides=[2, 2]),
        chain(pads=[1, 1, 1, 1]),
        chain(channels=CHANNELS - 1),
        chain((node("Sigmoid", ["a"], ["s"]), node("Mul", ["a", "s"], ["m"])), "m"),
        chain((node("Add", ["a", "a"], ["s"]),), "s"),
        chain((node("Relu", ["a"], ["t"]), node("Add", ["a", "t"], ["s"])), "s"),
    ],
    ids=["kernel", "strides", "pads", "few-channels", "product", "twice", "two-ways"],
)
def test_what_is_no_rank_one_change_of_a_plain_convolution_has_no_update(model):
    assert updates.update_after(*cut(model)) is None


def test_a_build_that_rounds_activations_has_no_update():
    cutter = GraphCutter(static_int8(chain()))
    assert [updates.update_after(cutter, layer) for layer in cutter.layers] == [None] * len(cutter.layers)
