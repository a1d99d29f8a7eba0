"""Which numeric format each node of an optimized graph computes in.

ONNX Runtime saves optimized graphs without the types of inner tensors; they follow from its own operator schemas.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

import onnx
from onnx import TensorProto
from onnxruntime.capi import onnxruntime_pybind11_state as state

_NAMES: dict[int, str] = {
    TensorProto.FLOAT: "fp32", TensorProto.DOUBLE: "fp64", TensorProto.FLOAT16: "fp16", TensorProto.BFLOAT16: "bf16",
    TensorProto.INT8: "int8", TensorProto.UINT8: "int8", TensorProto.INT4: "int4", TensorProto.UINT4: "int4",
    TensorProto.INT16: "int16", TensorProto.UINT16: "int16", TensorProto.INT32: "int32", TensorProto.INT64: "int64",
    TensorProto.BOOL: "bool",
}  # fmt: skip
_TYPES: dict[str, int] = {
    "tensor(float)": TensorProto.FLOAT, "tensor(bool)": TensorProto.BOOL, "tensor(int64)": TensorProto.INT64,
    "tensor(int32)": TensorProto.INT32, "tensor(int8)": TensorProto.INT8, "tensor(uint8)": TensorProto.UINT8,
}  # fmt: skip
# Operators that multiply 8-bit integers, whatever the type of what they put out: QLinearConv, QGemm, MatMulInteger,
# DynamicQuantizeMatMul, MatMulIntegerToFloat, QAttention, ...
_INTEGER = re.compile(r"^(QLinear|Q[A-Z][a-z]|DynamicQuantize(MatMul|LSTM))|Integer")


def node_precisions(model: onnx.ModelProto) -> list[str]:
    """The precision of each node of ``model``'s graph, in order (see `ExecutedNode.precision`)."""
    graph = model.graph
    types = {value.name: value.type.tensor_type.elem_type for value in [*graph.value_info, *graph.input, *graph.output]}
    types.update({tensor.name: tensor.data_type for tensor in graph.initializer})
    opsets = {entry.domain: entry.version for entry in model.opset_import}
    precisions = []
    for node in graph.node:  # sorted topologically, so that inputs are typed before they are read
        for name, kind in zip(node.output, _output_types(node, types, opsets), strict=False):
            types.setdefault(name, kind)
        precisions.append(_precision(node, types))
    return precisions


def _precision(node: onnx.NodeProto, types: dict[str, int]) -> str:
    if node.op_type == "MatMulNBits":
        bits = next((attribute.i for attribute in node.attribute if attribute.name == "bits"), 4)
        return f"int{bits}"
    if _INTEGER.search(node.op_type):
        return "int8"
    return _NAMES.get(types.get(node.output[0], 0), "") if node.output else ""


def _output_types(node: onnx.NodeProto, types: dict[str, int], opsets: dict[str, int]) -> list[int]:
    """The element type of each output; 0 where it cannot be told."""
    schema = _schema(node.domain, node.op_type, opsets.get(node.domain, 1))
    if schema is None:
        return []
    bound = {
        formal.typeStr: types[name]
        for formal, name in reversed(list(zip(schema.inputs, node.input, strict=False)))
        if types.get(name)
    }
    for attribute in node.attribute:  # Cast and its kin name their type
        if attribute.name in ("to", "dtype", "output_dtype") and attribute.i:
            bound[schema.outputs[0].typeStr] = attribute.i
    if node.op_type == "QuantizeLinear":  # without a zero point, it is uint8
        bound.setdefault(schema.outputs[0].typeStr, TensorProto.UINT8)
    for constraint in schema.type_constraints:  # a type with one choice needs no input to be known
        if len(constraint.allowed_type_strs) == 1:
            bound.setdefault(constraint.type_param_str, _TYPES.get(constraint.allowed_type_strs[0], 0))
    return [bound.get(formal.typeStr, _TYPES.get(formal.typeStr, 0)) for formal in schema.outputs]


def _schema(domain: str, op_type: str, version: int) -> Any:
    candidates = [item for item in _schemas().get((domain, op_type), ()) if item.since_version <= version]
    return max(candidates, key=lambda item: item.since_version, default=None)


@lru_cache(maxsize=1)
def _schemas() -> dict[tuple[str, str], list[Any]]:
    found: dict[tuple[str, str], list[Any]] = {}
    for schema in state.get_all_operator_schema():
        found.setdefault((schema.domain, schema.name), []).append(schema)
    return found
