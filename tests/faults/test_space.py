from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import branches, dynamic_int8, int4, make_model, mlp, small_cnn, static_int8, trees, two_inputs
from onnx import helper, numpy_helper

from hwbench.errors import InputError
from hwbench.faults.space import FaultSpace
from hwbench.worker.perturb import stored_initializers


def space_of(model: onnx.ModelProto) -> FaultSpace:
    return FaultSpace.of(model, stored_initializers(model))


def roles(model: onnx.ModelProto) -> dict[str, tuple[str, str]]:
    return {tensor.name: (tensor.role, tensor.op_type) for tensor in space_of(model).tensors}


@pytest.fixture(scope="module")
def quantized() -> onnx.ModelProto:
    return static_int8(small_cnn())


@pytest.fixture(scope="module")
def space(quantized) -> FaultSpace:
    return space_of(quantized)


def int4_weights() -> onnx.ModelProto:
    """A MatMul of int4 weights that a DequantizeLinear makes floats."""
    packed = helper.make_tensor("wq", onnx.TensorProto.INT4, [5, 3], np.arange(15) % 7)
    nodes = [
        helper.make_node("DequantizeLinear", ["wq", "scale"], ["w"], "dequantize"),
        helper.make_node("MatMul", ["x", "w"], ["y"], "matmul"),
    ]
    model = make_model(nodes, {"x": (1, ["N", 5])}, {"y": (1, ["N", 3])}, {"scale": np.float32(0.1)})
    model.graph.initializer.append(packed)
    return model


@pytest.mark.parametrize(
    "model",
    [small_cnn(), two_inputs(), static_int8(small_cnn()), int4(mlp()), int4_weights()],
    ids=["fp32", "ids", "qdq", "blocks", "int4"],
)
def test_the_space_is_every_stored_bit(model):
    stored = 0
    for tensor in model.graph.initializer:
        per = 4 if tensor.data_type == onnx.TensorProto.INT4 else 8 * numpy_helper.to_array(tensor).itemsize
        stored += per * int(np.prod(tensor.dims))
    assert space_of(model).size == stored
    assert sum(count for _, count in space_of(model).strata()) == stored


def test_roles_in_a_quantized_network(quantized):
    expected = {
        "x_scale": ("scale", "QuantizeLinear"),
        "x_zero_point": ("zero_point", "QuantizeLinear"),
        "w1_quantized": ("weight", "Conv"),
        "w1_scale": ("scale", "Conv"),
        "w1_zero_point": ("zero_point", "Conv"),
        "b1_quantized": ("bias", "Conv"),
        "b1_quantized_scale": ("scale", "Conv"),
        "b1_quantized_zero_point": ("zero_point", "Conv"),
        "w3_quantized": ("weight", "MatMul"),
        "w3_zero_point": ("zero_point", "MatMul"),
        "y_scale": ("scale", "QuantizeLinear"),
    }
    found = roles(quantized)
    assert {name: found[name] for name in expected} == expected


def test_roles_in_other_builds():
    assert roles(mlp()) == {
        "w1": ("weight", "Gemm"),
        "b1": ("bias", "Gemm"),
        "w2": ("weight", "MatMul"),
        "b2": ("bias", "Add"),
    }
    assert roles(two_inputs()) == {
        "table": ("weight", "Gather"),
        "w": ("weight", "MatMul"),
        "last": ("constant", "Unsqueeze"),
        "middle": ("constant", "ReduceSum"),
    }
    blocks = roles(int4(mlp()))
    assert (blocks["w2_Q4"], blocks["w2_scales"]) == (("weight", "MatMulNBits"), ("scale", "MatMulNBits"))
    dynamic = roles(dynamic_int8(mlp()))
    assert dynamic["w2_quantized"] == ("weight", "MatMulInteger")
    assert dynamic["w2_zero_point"] == ("zero_point", "MatMulInteger")


def test_roles_in_attributes_and_inner_graphs():
    found = {name.removeprefix("@attribute/forest/"): role for name, (role, _) in roles(trees()).items()}
    weights, constants = {"class_weights"}, {"classlabels_int64s"}
    assert {name for name, role in found.items() if role == "weight"} == weights
    assert {name for name, role in found.items() if role == "threshold"} == {"nodes_values"}
    assert {name for name, role in found.items() if role == "constant"} == constants
    assert {name for name, role in found.items() if role == "structure"} == {
        *("class_ids", "class_nodeids", "class_treeids", "nodes_treeids", "nodes_nodeids"),
        *("nodes_featureids", "nodes_truenodeids", "nodes_falsenodeids"),
    }
    inner = "@graph/outer_if/else_branch/@graph/inner_if"
    assert roles(branches()) == {
        "limit": ("constant", "Greater"),
        "floor": ("constant", "Less"),
        "w": ("weight", "MatMul"),
        f"{inner}/else_branch/@attribute/shift/value": ("bias", "Add"),
        f"{inner}/then_branch/v": ("weight", "MatMul"),
        "@graph/outer_if/then_branch/v": ("weight", "MatMul"),
        "@graph/loop/body/v": ("weight", "MatMul"),
    }


def test_depth_of_a_number_in_a_branch_is_that_of_its_node():
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["a"], "first"),
        helper.make_node("Constant", [], ["late"], "late", value=numpy_helper.from_array(np.ones(3, np.float32))),
        helper.make_node("Add", ["a", "late"], ["sum"], "add"),
        helper.make_node("MatMul", ["sum", "v"], ["b"], "second"),
        helper.make_node("Scaler", ["b"], ["y"], "scaler", domain="ai.onnx.ml", offset=[1.0] * 3, scale=[2.0] * 3),
    ]
    weights = {"w": np.ones((2, 3), np.float32), "v": np.ones((3, 3), np.float32)}
    model = make_model(nodes, {"x": (1, ["N", 2])}, {"y": (1, ["N", 3])}, weights)
    found = {tensor.name: (tensor.depth, tensor.role) for tensor in space_of(model).tensors}
    assert found["@attribute/late/value"] == (1, "bias")
    assert found["@attribute/scaler/offset"] == (2, "bias")
    assert found["@attribute/scaler/scale"] == (2, "scale")
    assert found["w"] == (0, "weight")


def test_an_initializer_that_nothing_reads_is_a_constant():
    model = make_model(
        [helper.make_node("Relu", ["x"], ["y"])],
        {"x": (1, ["N", 2])},
        {"y": (1, ["N", 2])},
        {"idle": np.ones(2, np.float32)},
    )
    assert roles(model) == {"idle": ("constant", "")}


def test_depth_counts_the_layers_before(space):
    depths = {tensor.name: tensor.depth for tensor in space.tensors}
    assert [depths[name] for name in ("x_scale", "w1_quantized", "b1_quantized", "w2_scale", "w3_quantized")] == [
        0,
        0,
        0,
        1,
        2,
    ]


@pytest.mark.parametrize(
    ("selection", "names"),
    [
        ({"tensors": "w?_quantized"}, {"w1_quantized", "w2_quantized", "w3_quantized"}),
        ({"ops": ("MatMul",)}, {"w3_quantized", "w3_scale", "w3_zero_point"}),
        ({"roles": ("bias",)}, {"b1_quantized"}),
        ({"roles": ("weight", "bias"), "depth": (0, 1)}, {"w1_quantized", "b1_quantized", "w2_quantized"}),
        ({"roles": ("weight", "scale"), "depth": (2, 2), "ops": ("MatMul",)}, {"w3_quantized", "w3_scale"}),
        ({"tensors": "*_quantized", "bit_range": (8, 31)}, {"b1_quantized"}),
    ],
)
def test_selections(space, selection, names):
    assert {tensor.name for tensor in space.select(**selection).tensors} == names


def test_a_range_of_bits_keeps_what_each_format_has_of_it(space):
    chosen = {tensor.name: tensor for tensor in space.select(bit_range=(6, 9)).tensors}
    weight, bias = chosen["w1_quantized"], chosen["b1_quantized"]
    assert (weight.first_bit, weight.last_bit, weight.size) == (6, 7, 2 * weight.elements)
    assert (bias.first_bit, bias.last_bit, bias.size) == (6, 9, 4 * bias.elements)


@pytest.mark.parametrize(
    "selection",
    [{"tensors": "no_such_*"}, {"ops": ("LSTM",)}, {"depth": (3, 9)}, {"bit_range": (32, 40)}, {"bit_range": (5, 4)}],
)
def test_an_empty_selection_is_refused(space, selection):
    with pytest.raises(InputError, match=rf"no stored bit is selected; widen .* {space.size} bits\)"):
        space.select(**selection)
