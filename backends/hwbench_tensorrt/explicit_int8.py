"""Checks that a model's quantization is of the one kind TensorRT runs: explicit, symmetric and signed.

Its quantized values have no zero point (NVIDIA, "Working with Quantized Types"); its parser takes QuantizeLinear and
DequantizeLinear, neither integer operators nor a dequantized int32 bias (onnx-tensorrt, operators.md).
"""

from __future__ import annotations

import onnx
from onnx import TensorProto, numpy_helper

from hwbench.errors import UnsupportedError

SIGNED_TYPES = (TensorProto.INT8, TensorProto.INT4, TensorProto.FLOAT8E4M3FN, TensorProto.FLOAT4E2M1)
INTEGER_OPERATORS = ("QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear")


def check_explicit_int8(model: onnx.ModelProto) -> None:
    """Refuse a model whose quantization TensorRT does not run.

    Raises:
        UnsupportedError: Names the first such node and what to change.
    """
    problems = explicit_int8_problems(model)
    if problems:
        index, problem = min(problems.items())
        node = model.graph.node[index]
        more = f" ({len(problems) - 1} more nodes have such problems)" if len(problems) > 1 else ""
        raise UnsupportedError(f"node {node.name or node.output[0]!r} ({node.op_type}) {problem}{more}")


def explicit_int8_problems(model: onnx.ModelProto) -> dict[int, str]:
    """What TensorRT would refuse: index of the node in the graph to the reason and what to change."""
    constants = {tensor.name: tensor for tensor in model.graph.initializer}
    constants |= {node.output[0]: _constant(node) for node in model.graph.node if node.op_type == "Constant"}
    found = {index: _problem(node, constants) for index, node in enumerate(model.graph.node)}
    return {index: problem for index, problem in found.items() if problem}


def _problem(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> str:
    if node.op_type in INTEGER_OPERATORS:
        return "is an integer operator; TensorRT takes QuantizeLinear/DequantizeLinear: quantize statically in QDQ form"
    if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
        return ""
    source, zero_point = constants.get(node.input[0]), _zero_point(node, constants)
    what = "weights" if source is not None else "activations"
    stored = _stored_type(node, source, zero_point)
    if stored == TensorProto.INT32:
        return "dequantizes an int32 bias, which TensorRT does not: quantize with biases left in floating point"
    if stored is not None and stored not in SIGNED_TYPES:
        name = TensorProto.DataType.Name(stored).lower()
        return f'holds {name} {what}; TensorRT takes symmetric int8 only: build with {what} = "s8"'
    if zero_point is not None and numpy_helper.to_array(zero_point).astype("float32").any():
        return f'has a zero point other than 0; TensorRT takes symmetric {what} only: build with {what} = "s8"'
    return ""


def _zero_point(node: onnx.NodeProto, constants: dict[str, TensorProto]) -> TensorProto | None:
    return constants.get(node.input[2]) if len(node.input) > 2 else None


def _stored_type(node: onnx.NodeProto, source: TensorProto | None, zero_point: TensorProto | None) -> int | None:
    """The quantized element type, None where only the producing node tells it."""
    if zero_point is not None:
        return int(zero_point.data_type)
    if node.op_type == "DequantizeLinear":
        return None if source is None else int(source.data_type)
    if len(node.input) > 2 and node.input[2]:
        return None
    asked = next((attribute.i for attribute in node.attribute if attribute.name == "output_dtype"), 0)
    return int(asked) or int(TensorProto.UINT8)  # the operator's default


def _constant(node: onnx.NodeProto) -> TensorProto:
    value = next((attribute.t for attribute in node.attribute if attribute.name == "value"), None)
    return TensorProto() if value is None else value
