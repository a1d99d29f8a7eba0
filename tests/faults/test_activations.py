from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import int4, make_model, mlp, small_cnn, static_int8
from onnx import helper

from hwbench.faults.activations import Activations
from hwbench.faults.cuts import GraphCutter

pytestmark = pytest.mark.isa
node = helper.make_node
FLOAT, TEXT = onnx.TensorProto.FLOAT, onnx.TensorProto.STRING


def found(model: onnx.ModelProto) -> Activations:
    return Activations.of(GraphCutter(model))


def shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    return {name.removeprefix("@activation/"): array.shape for name, array in found(model).stand_ins.items()}


def test_every_tensor_between_operators_has_the_shape_of_one_input():
    wanted = dict.fromkeys(("c1", "r1", "c2", "sum", "r2"), (8, 8, 8)) | {"pooled": (8, 1, 1), "flat": (8,)}
    assert shapes(small_cnn()) == {"x": (1, 8, 8), **wanted}
    about = {tensor.name.removeprefix("@activation/"): tensor for tensor in found(small_cnn()).space.tensors}
    assert {name: about[name].op_type for name in ("x", "c1", "sum", "flat")} == {
        "x": "Input", "c1": "Conv", "sum": "Add", "flat": "Flatten",
    }  # fmt: skip
    assert [about[name].depth for name in ("x", "c1", "r1", "c2", "sum", "flat")] == [0, 0, 0, 1, 2, 2]
    assert {about[name].role for name in wanted} == {"activation"}
    assert (about["x"].role, about["x"].elements, about["x"].width) == ("input", 64, 32)


def test_a_quantized_graph_has_faults_in_its_quantized_tensors():
    made = found(static_int8(small_cnn()))
    formats = {tensor.name: tensor.format for tensor in made.space.tensors}
    assert formats.pop("@activation/x") == "float32"  # the input's own buffer
    assert set(formats.values()) == {"uint8"}
    assert "@activation/r1_QuantizeLinear_Output" in formats
    for name in ("r1", "r1_DequantizeLinear_Output", "y_QuantizeLinear_Input"):
        assert made.left_out[f"@activation/{name}"] == "between operators only its quantized form is kept"
    assert made.left_out["@activation/y"] == "it is an output of the model"
    assert "@activation/w1_DequantizeLinear_Output" not in {*formats, *made.left_out}


def test_shapes_are_told_behind_operators_that_onnx_does_not_know():
    assert shapes(int4(mlp())) == {"x": (64,), "h": (128,), "r": (128,), "z": (10,)}


def reshaped() -> onnx.ModelProto:
    """Shapes that are computed from the batch size, and tensors whose first axis is something else."""
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "first"], ["batch"]),
        node("Concat", ["batch", "rest"], ["target"], axis=0),
        node("Split", ["x"], ["left", "right"], axis=1, num_outputs=2),
        node("Mul", ["left", "right"], ["product"]),
        node("Reshape", ["product", "target"], ["rows"]),
        node("Transpose", ["rows"], ["turned"], perm=[1, 0]),
        node("ReduceMax", ["turned"], ["largest"], keepdims=0),
        node("MatMul", ["rows", "w"], ["z"]),
        node("Sub", ["z", "largest"], ["y"]),
    ]
    weights = {"first": np.array([0]), "rest": np.array([6]), "w": np.ones((6, 4), np.float32)}
    return make_model(nodes, {"x": (FLOAT, ["N", 4, 3])}, {"y": (FLOAT, ["N", 4])}, weights)


def test_axes_that_do_not_count_inputs_are_found_out():
    made = found(reshaped())
    assert shapes(reshaped()) == {
        "x": (4, 3),
        "left": (2, 3),
        "right": (2, 3),
        "product": (2, 3),
        "rows": (6,),
        "z": (4,),
    }
    for name in ("shape", "batch", "target", "turned", "largest"):
        assert "its first axis does not count inputs" in made.left_out[f"@activation/{name}"]


def test_a_fixed_batch_is_taken_as_it_is():
    model = small_cnn()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    assert shapes(model) == shapes(small_cnn())


def test_a_graph_with_branches_is_not_cut():
    body = [
        helper.make_graph([node(op, ["hidden"], [op])], op, [], [helper.make_tensor_value_info(op, FLOAT, None)])
        for op in ("Neg", "Identity")
    ]
    nodes = [
        node("Relu", ["x"], ["hidden"]),
        node("ReduceMax", ["x"], ["largest"], keepdims=0),
        node("Greater", ["largest", "zero"], ["condition"]),
        node("If", ["condition"], ["y"], then_branch=body[0], else_branch=body[1]),
    ]
    made = found(make_model(nodes, {"x": (FLOAT, ["N", 4])}, {"y": (FLOAT, ["N", 4])}, {"zero": np.float32(0)}))
    assert not made.space.tensors
    assert "(If, Loop, Scan)" in made.left_out["@activation/condition"]


@pytest.mark.parametrize("kind", [TEXT, onnx.TensorProto.COMPLEX64])
def test_what_is_no_number_has_no_bits(kind):
    nodes = [node("Identity", ["t"], ["u"]), node("Relu", ["x"], ["y"])]
    inputs = {"x": (FLOAT, ["N", 4]), "t": (kind, ["N", 2])}
    made = found(make_model(nodes, inputs, {"y": (FLOAT, ["N", 4]), "u": (kind, ["N", 2])}))
    assert [tensor.name for tensor in made.space.tensors] == ["@activation/x"]
    assert made.left_out["@activation/t"] == "its elements are not numbers of whole bytes"
