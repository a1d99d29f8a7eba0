"""Telling which ONNX nodes a fused node stands for."""

import pytest
from onnx import helper

from hwbench.fusion import OnnxGraph
from tests import models

pytestmark = pytest.mark.isa


@pytest.fixture
def graph():
    """x → quantize → dequantize → conv (its weights dequantized) → relu → quantize → dequantize → y."""
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "s", "z"], ["xq"], "quantize"),
        helper.make_node("DequantizeLinear", ["xq", "s", "z"], ["xd"], "dequantize"),
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["wd"], "weights"),
        helper.make_node("Conv", ["xd", "wd"], ["c"], "conv"),
        helper.make_node("Relu", ["c"], ["r"], "relu"),
        helper.make_node("QuantizeLinear", ["r", "s", "z"], ["rq"], "requantize"),
        helper.make_node("DequantizeLinear", ["rq", "s", "z"], ["y"], "last"),
    ]
    zeros = models.np.zeros
    weights = {"w": zeros((1, 1, 1, 1), "i1"), "s": zeros((), "f4"), "z": zeros((), "i1")}
    return OnnxGraph(models.make_model(nodes, {"x": (1, [1, 1, 2, 2])}, {"y": (1, [1, 1, 2, 2])}, weights).graph)


def test_what_no_anchor_claims_goes_to_the_neighbour_it_was_fused_into(graph):
    assert graph.origins({"quantize": 0, "conv": 1, "last": 2}, 3) == [
        ("quantize",),
        ("dequantize", "weights", "conv", "relu", "requantize"),
        ("last",),
    ]


def test_a_product_may_be_known_by_its_activation_only(graph):
    assert graph.origins({"relu": 0}, 2) == [tuple(graph.nodes), ()]


def test_without_an_anchor_nothing_is_claimed(graph):
    assert graph.origins({}, 1) == [()]


def test_nodes_are_found_by_name_and_by_output(graph):
    assert (graph.named("conv"), graph.named("c"), graph.named("nothing")) == ("conv", "conv", None)


def test_stored_tensors_are_followed_through_their_dequantization(graph):
    assert graph.readers("w") == ["conv"]
    assert graph.readers("s") == []  # a scale belongs to its quantizer
