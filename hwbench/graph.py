"""What a deployed ONNX graph asks for: the precision of its operators, and which of its tensors a reference has too."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from hwbench.backend import node_name
from hwbench.faults.shapes import tensor_types
from hwbench.model import read_proto

Array = np.ndarray[Any, np.dtype[Any]]

# Operators that multiply: whether these run on quantized numbers is what a quantized build is about.
COMPUTE_OPS = frozenset({"Conv", "ConvTranspose", "MatMul", "Gemm", "LSTM", "GRU", "RNN"})
# Operators that are quantized by their type alone.
_INTEGER_OPS = {
    "ConvInteger": "int8",
    "MatMulInteger": "int8",
    "DynamicQuantizeLSTM": "int8",
    "QLinearConv": "int8",
    "QLinearMatMul": "int8",
    "MatMulNBits": "int4",
}
_FORMATS: dict[int, str] = {
    TensorProto.FLOAT: "fp32",
    TensorProto.DOUBLE: "fp64",
    TensorProto.FLOAT16: "fp16",
    TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8",
    TensorProto.UINT8: "int8",
    TensorProto.INT16: "int16",
    TensorProto.UINT16: "int16",
    TensorProto.INT4: "int4",
    TensorProto.UINT4: "int4",
}

_FLOATS = frozenset(
    {TensorProto.UNDEFINED, TensorProto.FLOAT, TensorProto.DOUBLE, TensorProto.FLOAT16, TensorProto.BFLOAT16}
)
# Operators whose output is no layer of its own.
_GAUGES = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant", "Shape"})


def asked_precisions(path: Path) -> dict[str, str]:
    """Node name to the format its operator is asked to compute in, for the operators that multiply.

    A node fed through DequantizeLinear is asked to run on the quantized type (int4 where its weights are); others on their
    weights' own floating type.
    """
    proto = read_proto(path)
    types = {tensor.name: tensor.data_type for tensor in proto.graph.initializer}
    for value in (*proto.graph.input, *proto.graph.value_info):
        types.setdefault(value.name, value.type.tensor_type.elem_type)
    made_by = {output: node for node in proto.graph.node for output in node.output}
    asked = {}
    for node in proto.graph.node:
        if node.op_type in _INTEGER_OPS:
            asked[node_name(node)] = _INTEGER_OPS[node.op_type]
        elif node.op_type in COMPUTE_OPS:
            formats = [_fed(name, made_by, types) for name in node.input[:2]]
            asked[node_name(node)] = next((form for form in ("int4", "int8", "int16") if form in formats), formats[-1])
    return asked


@dataclass(frozen=True)
class Layer:
    """A tensor that a build and its reference both have.

    Attributes:
        name: Its name in the reference.
        op_type: The operator that makes it.
        built: The build's tensor that holds it: the same name, or its quantized form.
        scale, zero_point: Convert the quantized form to numbers; a scale of None where it is not quantized.
        dequantized: The build's tensor that holds the quantized form as floats again; empty if there is none.
        elements: Its elements per input; 0 if the shape is not known.
    """

    name: str
    op_type: str
    built: str
    scale: float | None = None
    zero_point: int = 0
    dequantized: str = ""
    elements: int = 0

    def real(self, value: Array) -> Array:
        """The build's tensor as real numbers, float32."""
        plain = value.astype(np.float32)
        return plain if self.scale is None else (plain - np.float32(self.zero_point)) * np.float32(self.scale)


def matching_layers(build: Path, reference: Path) -> list[Layer]:
    """The floating tensors that nodes of both graphs make, outputs included, in the build's order.

    Where the build quantizes a tensor, its quantized form is taken: returning the float before it would keep the runtime from
    fusing the operator with its quantization, and another graph would be measured.
    """
    theirs = onnx.load(reference)
    makers = {output: node.op_type for node in theirs.graph.node for output in node.output}
    elements = _elements(theirs)
    sized = [(layer, elements.get(layer.name, 0)) for layer in _layers(onnx.load(build).graph, makers)]
    return [replace(layer, elements=size) for layer, size in sized if size is not None]


def fixed_batch(model: onnx.ModelProto) -> int:
    """The batch size that a graph is fixed to; 0 if it takes any."""
    stored = {tensor.name for tensor in model.graph.initializer}
    axes = [value.type.tensor_type.shape.dim[:1] for value in model.graph.input if value.name not in stored]
    return next((axis[0].dim_value for axis in axes if axis and axis[0].dim_value), 0)


def _elements(model: onnx.ModelProto) -> dict[str, int | None]:
    """Tensor to its elements per input, 0 if its shape is not known; None where it does not hold floats."""
    batch = fixed_batch(model) or 2
    found: dict[str, int | None] = {}
    for name, value in tensor_types(model, batch).items():
        tensor = value.type.tensor_type
        sizes = [axis.dim_value for axis in tensor.shape.dim]
        found[name] = math.prod(sizes) // batch if tensor.elem_type in _FLOATS else None
    return found


def _layers(graph: onnx.GraphProto, makers: Mapping[str, str]) -> Iterator[Layer]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    quantized = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    dequantized = {node.input[0]: node.output[0] for node in graph.node if node.op_type == "DequantizeLinear"}
    returned = {value.name for value in graph.output}
    for node in graph.node:
        for name in (name for name in node.output if name in makers):
            if name in returned:
                yield Layer(name, makers[name], name)
            elif node.op_type in _GAUGES:
                continue
            elif (after := quantized.get(name)) is None:
                yield Layer(name, node.op_type, name)
            elif after.input[1] in constants:
                scale = numpy_helper.to_array(constants[after.input[1]])
                point = numpy_helper.to_array(constants[after.input[2]]) if len(after.input) > 2 else np.zeros(1)
                if scale.size == 1:
                    made = after.output[0]
                    gauge = float(scale.reshape(-1)[0]), int(point.reshape(-1)[0])
                    yield Layer(name, node.op_type, made, *gauge, dequantized.get(made, ""))


def _fed(name: str, made_by: dict[str, onnx.NodeProto], types: dict[str, int]) -> str:
    node = made_by.get(name)
    if node is not None and node.op_type == "DequantizeLinear":
        source = node.input[0]
        stored = types.get(source)
        if stored is None and len(node.input) > 2:
            stored = types.get(node.input[2])  # a quantized activation has its zero point's type
        return _FORMATS.get(stored or TensorProto.UINT8, "int8")
    return _FORMATS.get(types.get(name, TensorProto.FLOAT), "fp32")
