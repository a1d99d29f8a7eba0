"""Which ONNX nodes each node of ONNX Runtime's optimized graph stands for.

The runtime fuses and renames nodes and keeps no record of it. What it does keep are the names of stored weights, of
most surviving nodes and of most surviving tensors.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import onnx

from hwbench.fusion import QUANTIZERS, OnnxGraph

# Nodes that only move data into another memory layout or device, and stand for nothing in the original graph.
_MOVERS = frozenset({"ReorderInput", "ReorderOutput", "MemcpyFromHost", "MemcpyToHost"})
_DECORATION = re.compile(r"^(fused |InsertedPrecisionFreeCast_)+|(_token_\d+|_nchwc|/MatMulAddFusion)+$")


def origins(original: onnx.GraphProto, optimized: onnx.GraphProto) -> list[tuple[str, ...]]:
    """The names of the original nodes behind each optimized node, in graph order; empty where they cannot be told.

    Args:
        original: The graph as given, every node named.
        optimized: The graph the runtime made of it.
    """
    graph = OnnxGraph(original)
    anchors: dict[str, int] = {}
    working = [(index, node) for index, node in enumerate(optimized.node) if node.op_type not in _MOVERS]
    for claim in (_by_name, _by_weights):
        for index, node in working:
            for name in claim(graph, node):
                anchors.setdefault(name, index)
    anchored = set(anchors.values())
    for index, node in working:
        for name in _by_tensor(graph, node) if index not in anchored else ():
            anchors.setdefault(name, index)
    return graph.origins(anchors, len(optimized.node))


def _by_name(graph: OnnxGraph, node: onnx.NodeProto) -> Iterable[str]:
    return [node.name] if node.name in graph.nodes else []


def _by_weights(graph: OnnxGraph, node: onnx.NodeProto) -> Iterable[str]:
    """The original nodes that alone read a stored tensor which ``node`` reads too."""
    if node.op_type in QUANTIZERS:
        return
    for name in node.input:
        readers = graph.readers(name) if name in graph.stored else []
        if len(readers) == 1:
            yield readers[0]


def _by_tensor(graph: OnnxGraph, node: onnx.NodeProto) -> Iterable[str]:
    """The original node whose name or output the runtime derived this name or output from."""
    found = (graph.named(_DECORATION.sub("", text)) for text in (node.name, *node.output))
    return [name for name in found if name][:1]
