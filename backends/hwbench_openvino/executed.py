"""What really runs of a model: the graph OpenVINO compiled, node by node."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx

from hwbench.backend import ExecutedNode, ModelSource, node_name
from hwbench.fusion import OnnxGraph

_PRECISIONS = {
    "f32": "fp32", "f64": "fp64", "f16": "fp16", "bf16": "bf16", "i8": "int8", "u8": "int8", "I8": "int8",
    "i4": "int4", "u4": "int4", "i32": "int32", "i64": "int64", "boolean": "bool",
}  # fmt: skip
_NOT_RUN = frozenset({"Const", "Constant", "Input", "Parameter", "Output", "Result"})
# OpenVINO splits an ONNX node and names the parts after it: conv/WithoutBiases, mm/transpose_b, split.0
_PART = re.compile(r"(/(WithoutBiases|DequantizationSubtract|DequantizationMultiply|transpose_[ab])|\.\d+|_\d+)+$")


def executed_nodes(runtime_model: Any, source: ModelSource, device: str) -> tuple[ExecutedNode, ...]:
    """The nodes that run, constants, inputs and outputs left out.

    Args:
        runtime_model: What `openvino.CompiledModel.get_runtime_model` returns.
        source: The ONNX file it was made of.
        device: The device it was compiled for.
    """
    model = onnx.load(source, load_external_data=False) if isinstance(source, Path) else onnx.load_from_string(source)
    for node in model.graph.node:
        node.name = node_name(node)
    infos = [(op.get_friendly_name(), _info(op)) for op in runtime_model.get_ordered_ops()]
    running = [(name, info) for name, info in infos if info.get("layerType") not in _NOT_RUN]
    origins = _origins(OnnxGraph(model.graph), running)
    return tuple(
        ExecutedNode(name, info["layerType"], device, _precision(info), info.get("primitiveType", ""), behind)
        for (name, info), behind in zip(running, origins, strict=True)
    )


def _info(op: Any) -> dict[str, str]:
    return {key: value.astype(str) for key, value in op.get_rt_info().items() if hasattr(value, "astype")}


def _precision(info: dict[str, str]) -> str:
    """What a node computes in.

    The kernel's name ends in it. ``runtimePrecision`` is that of the narrowest input, which kernels may widen; only of
    4-bit weights does the kernel's name say nothing.
    """
    narrowest = _PRECISIONS.get(info.get("runtimePrecision", ""), "")
    kernel = _PRECISIONS.get(info.get("primitiveType", "").rpartition("_")[2], "")
    return narrowest if narrowest == "int4" or not kernel else kernel


def _origins(graph: OnnxGraph, running: list[tuple[str, dict[str, str]]]) -> list[tuple[str, ...]]:
    """The ONNX nodes behind each running node. OpenVINO names layers after ONNX nodes, or the model's outputs."""
    named = [info.get("originalLayersNames", "").split(",") for _, info in running]
    layers = [(text, index) for index, names in enumerate(named) for text in names]
    parts = [(_PART.sub("", text), index) for text, index in layers]
    anchors: dict[str, int] = {}
    for text, index in layers + parts:  # a part speaks for its node only where the node itself is not named
        name = graph.named(text)
        if name:
            anchors.setdefault(name, index)
    return graph.origins(anchors, len(running))
