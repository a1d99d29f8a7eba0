"""Reads TensorRT's engine inspector: which layers really run, in which precision and by which kernel.

The inspector writes JSON. TensorRT 11 split the tensors' ``Format/Datatype`` field of version 10 in two; both are read.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from hwbench.backend import ExecutedNode

TYPE_KEYS = ("DataType", "Datatype", "Format/Datatype", "Format/DataType", "Format")
# In this order: "BFloat16" also contains "float16", "UInt8" also "int8".
PRECISIONS = (
    (r"bf16|bfloat16", "bf16"),
    (r"fp8|float8", "fp8"),
    (r"fp4|float4", "fp4"),
    (r"half|fp16|float16", "fp16"),
    (r"float|fp32", "fp32"),
    (r"uint8", "uint8"),
    (r"int4", "int4"),
    (r"int8", "int8"),
    (r"int64", "int64"),
    (r"int32", "int32"),
    (r"bool", "bool"),
)
ONNX_LAYER = re.compile(r"\[ONNX Layer: (.*?)\](?=[\x1e\x1f\s]|$)")


def executed_nodes(information: str, device: str) -> tuple[ExecutedNode, ...]:
    """The layers of an engine built with detailed profiling verbosity.

    Args:
        information: What ``EngineInspector.get_engine_information`` gave, as JSON.
        device: What to call the GPU.
    """
    layers = json.loads(information, strict=False)["Layers"]  # metadata holds bare control characters as separators
    return tuple(
        ExecutedNode(
            name=layer["Name"],
            op_type=layer.get("LayerType", ""),
            device=device,
            precision=_precision(layer),
            kernel=layer.get("TacticName", ""),
            onnx_nodes=tuple(ONNX_LAYER.findall(layer.get("Metadata", ""))),
        )
        for layer in layers
    )


def _precision(layer: Mapping[str, Any]) -> str:
    """What a layer computes in: the type of what it reads; its output may already be converted for the next layer."""
    for tensor in (*layer.get("Inputs", ()), *layer.get("Outputs", ())):
        text = next((str(tensor[key]) for key in TYPE_KEYS if key in tensor), "")
        found = next((name for pattern, name in PRECISIONS if re.search(pattern, text, re.IGNORECASE)), "")
        if found:
            return found
    return ""
