"""What a deployed ONNX graph asks for: the precision of its operators, and which of its tensors a reference has too."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from hwbench.backend import node_name
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
        scale, zero_point: What turns the quantized form into numbers; a scale of None where it is not quantized.
    """

    name: str
    op_type: str
    built: str
    scale: float | None = None
    zero_point: int = 0

    def real(self, value: Array) -> Array:
        """The build's tensor as real numbers, float32."""
        plain = value.astype(np.float32)
        return plain if self.scale is None else (plain - np.float32(self.zero_point)) * np.float32(self.scale)


def matching_layers(build: Path, reference: Path) -> list[Layer]:
    """The floating tensors between nodes that both graphs have, in the build's order.

    Where the build quantizes a tensor, its quantized form is taken: returning the float before it would keep the runtime from
    fusing the operator with its quantization, and another graph would be measured.
    """
    theirs = {output for node in read_proto(reference).graph.node for output in node.output}
    model = onnx.load(build)
    return [layer for layer in _layers(model.graph) if layer.name in theirs]


def _layers(graph: onnx.GraphProto) -> Iterator[Layer]:
    constants = {tensor.name: tensor for tensor in graph.initializer}
    quantized = {node.input[0]: node for node in graph.node if node.op_type == "QuantizeLinear"}
    returned = {value.name for value in graph.output}
    for node in graph.node:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear", "Constant", "Shape"):
            continue
        for name in node.output:
            if not name or name in returned:
                continue
            after = quantized.get(name)
            if after is None:
                yield Layer(name, node.op_type, name)
            elif after.input[1] in constants:
                scale = numpy_helper.to_array(constants[after.input[1]])
                point = numpy_helper.to_array(constants[after.input[2]]) if len(after.input) > 2 else np.zeros(1)
                if scale.size == 1:
                    yield Layer(
                        name, node.op_type, after.output[0], float(scale.reshape(-1)[0]), int(point.reshape(-1)[0])
                    )


def _fed(name: str, made_by: dict[str, onnx.NodeProto], types: dict[str, int]) -> str:
    node = made_by.get(name)
    if node is not None and node.op_type == "DequantizeLinear":
        source = node.input[0]
        stored = types.get(source)
        if stored is None and len(node.input) > 2:
            stored = types.get(node.input[2])  # a quantized activation has its zero point's type
        return _FORMATS.get(stored or TensorProto.UINT8, "int8")
    return _FORMATS.get(types.get(name, TensorProto.FLOAT), "fp32")
