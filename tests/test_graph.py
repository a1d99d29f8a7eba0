"""What a deployed graph asks for, and which of its tensors a reference has too."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.graph import Layer, asked_precisions, matching_layers
from tests import models

pytestmark = pytest.mark.isa
COMPUTE = {"conv1", "conv2", "classifier"}


@pytest.fixture(scope="module")
def reference(tmp_path_factory):
    return models.saved(models.small_cnn(), tmp_path_factory.mktemp("graph") / "reference.onnx")


def half(proto, form):
    """A model all in a 16-bit format, inputs and outputs too."""
    dtype = helper.tensor_dtype_to_np_dtype(form)
    for tensor in proto.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(dtype), tensor.name))
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.elem_type = form
    return proto


# Asked precisions


@pytest.mark.parametrize(
    ("make", "form"),
    [
        (models.small_cnn, "fp32"),
        (lambda: half(models.small_cnn(), TensorProto.FLOAT16), "fp16"),
        (lambda: half(models.small_cnn(), TensorProto.BFLOAT16), "bf16"),
        (lambda: half(models.small_cnn(), TensorProto.DOUBLE), "fp64"),
        (lambda: models.static_int8(models.small_cnn()), "int8"),
        (lambda: models.static_int8(models.small_cnn(), activations="s8", symmetric=True, per_channel=False), "int8"),
        (lambda: models.dynamic_int8(models.small_cnn()), "int8"),
    ],
)
def test_every_operator_that_multiplies_is_asked_for_one_format(tmp_path, make, form):
    asked = asked_precisions(models.saved(make(), tmp_path / "m.onnx"))
    assert set(asked.values()) == {form}
    assert len(asked) == len(COMPUTE)
    if form != "int8":
        assert set(asked) == COMPUTE


def test_int4_is_asked_of_the_operators_whose_weights_are(tmp_path):
    asked = asked_precisions(models.saved(models.int4(models.mlp()), tmp_path / "m.onnx"))
    assert asked.pop("gemm") == "fp32"
    assert list(asked.values()) == ["int4"]


def test_weights_alone_make_an_operator_int4(tmp_path):
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"], "dequantize"),
        helper.make_node("MatMul", ["x", "wd"], ["y"], "matmul"),
    ]
    proto = models.make_model(nodes, {"x": (1, ["N", 4])}, {"y": (1, ["N", 2])}, {"s": np.float32(0.1)})
    proto.graph.initializer.append(helper.make_tensor("w", TensorProto.INT4, [4, 2], [1, -2, 3, -4, 5, -6, 7, -8]))
    assert asked_precisions(models.saved(proto, tmp_path / "m.onnx")) == {"matmul": "int4"}


def test_nodes_without_a_name_go_by_their_output(tmp_path):
    proto = models.mlp()
    for node in proto.graph.node:
        node.name = ""
    assert asked_precisions(models.saved(proto, tmp_path / "m.onnx")) == {"h": "fp32", "z": "fp32"}


# Layers that build and reference share


def with_outputs(path: Path, names):
    """The model's tensors ``names`` by running it, whatever their types."""
    proto = onnx.load(path)
    known = {value.name for value in proto.graph.output}
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name not in known)
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip(names, session.run(list(names), models.feeds(models.small_cnn(), batch=8)), strict=True))


@pytest.mark.parametrize("activations", ["u8", "s8"])
def test_layers_of_a_quantized_build_read_as_the_references_numbers(tmp_path, reference, activations):
    symmetric = activations == "s8"
    quantized = models.static_int8(
        models.small_cnn(),
        activations=activations,
        symmetric=symmetric,
        reduce_range=True,  # or sums saturate on x86 without VNNI
    )
    build = models.saved(quantized, tmp_path / "m.onnx")
    layers = matching_layers(build, reference)
    assert [layer.name for layer in layers if layer.scale is not None]
    expected = with_outputs(reference, [layer.name for layer in layers])
    measured = with_outputs(build, [layer.built for layer in layers])
    for layer in layers:
        got, want = layer.real(measured[layer.built]), expected[layer.name]
        assert got.dtype == np.float32
        assert np.linalg.norm(got - want) < 0.05 * np.linalg.norm(want), layer


def test_layers_of_a_float_build_are_the_references_own(reference):
    layers = matching_layers(reference, reference)
    assert [layer.name for layer in layers] == [
        "c1",
        "r1",
        "c2",
        "sum",
        "r2",
        "pooled",
        "flat",
        "y",
    ]
    assert all(layer.built == layer.name and layer.scale is None for layer in layers)
    assert layers[0].op_type == "Conv"


def test_what_the_reference_does_not_have_is_no_layer(tmp_path, reference):
    proto = models.small_cnn()
    for node in proto.graph.node:
        node.output[:] = [name.replace("r1", "other") for name in node.output]
        node.input[:] = [name.replace("r1", "other") for name in node.input]
    layers = matching_layers(models.saved(proto, tmp_path / "m.onnx"), reference)
    assert {layer.name for layer in layers} == {"c1", "c2", "sum", "r2", "pooled", "flat", "y"}


def test_quantized_numbers_become_real_ones():
    layer = Layer("t", "Conv", "t_quantized", scale=0.5, zero_point=128)
    np.testing.assert_array_equal(layer.real(np.array([0, 128, 255], np.uint8)), np.float32([-64, 0, 63.5]))
    np.testing.assert_array_equal(Layer("t", "Conv", "t").real(np.float16([1.5])), np.float32([1.5]))
