"""Which ONNX nodes the nodes of a compiled graph stand for, where a runtime fuses nodes and keeps half a record of it.

What a runtime keeps are some names. They *anchor* a compiled node in the ONNX graph; the ONNX nodes that nothing
anchors were fused into a neighbour: what prepares a product's inputs, and the product itself, into what comes after;
everything else into what came before.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear"})
_FORWARD = re.compile(r"^DequantizeLinear$|^DynamicQuantizeLinear$|Conv|Gemm|MatMul|GRU|LSTM|RNN|Attention")


class OnnxGraph:
    """An ONNX graph as its nodes' neighbourhoods.

    Args:
        graph: An ``onnx.GraphProto`` in which every node has a name of its own.

    Attributes:
        nodes: Node name to node, in graph order.
        stored: Names of the initializers.
        producer: Tensor name to the name of the node that makes it.
        consumers: Tensor name to the names of the nodes that read it.
    """

    def __init__(self, graph: Any) -> None:
        self.nodes: dict[str, Any] = {node.name: node for node in graph.node}
        self.stored = {tensor.name for tensor in graph.initializer}
        self.producer: dict[str, str] = {name: node.name for node in graph.node for name in node.output if name}
        self.consumers: dict[str, list[str]] = defaultdict(list)
        for node in graph.node:
            for name in dict.fromkeys(node.input):
                self.consumers[name].append(node.name)

    def named(self, text: str) -> str | None:
        """The node called ``text``, or else the one that makes the tensor called ``text``."""
        return text if text in self.nodes else self.producer.get(text)

    def readers(self, tensor: str) -> list[str]:
        """The nodes that read a stored tensor, looking through its DequantizeLinear."""
        found: list[str] = []
        for name in self.consumers.get(tensor, ()):
            node = self.nodes[name]
            if node.op_type not in QUANTIZERS:
                found.append(name)
            elif node.input[0] == tensor:
                found.extend(self.readers(node.output[0]))
        return found

    def origins(self, anchors: dict[str, int], count: int) -> list[tuple[str, ...]]:
        """The ONNX nodes behind each compiled node, in graph order; empty where they cannot be told.

        Args:
            anchors: ONNX node name to the index of the compiled node it is known to be part of.
            count: How many compiled nodes there are.
        """
        owner = dict(anchors)
        self._absorb(owner)
        behind: list[list[str]] = [[] for _ in range(count)]
        for name in self.nodes:
            if name in owner:
                behind[owner[name]].append(name)
        return [tuple(names) for names in behind]

    def _absorb(self, owner: dict[str, int]) -> None:
        """Give the nodes that no anchor claims to a neighbour's owner."""
        backwards = list(reversed(self.nodes))

        def spread(names: Iterable[str], near: Callable[[str], list[str]], wanted: Callable[[str], bool]) -> None:
            for name in names:
                owners = [owner[other] for other in near(name) if other in owner]
                if name not in owner and owners and wanted(self.nodes[name].op_type):
                    owner[name] = max(owners) if near == self._before else min(owners)

        spread(backwards, self._after, lambda op: bool(_FORWARD.search(op)))
        spread(self.nodes, self._before, lambda op: op != "DequantizeLinear")
        spread(backwards, self._after, lambda _: True)
        spread(self.nodes, self._before, lambda _: True)

    def _before(self, name: str) -> list[str]:
        return [self.producer[tensor] for tensor in self.nodes[name].input if tensor in self.producer]

    def _after(self, name: str) -> list[str]:
        return [consumer for tensor in self.nodes[name].output for consumer in self.consumers.get(tensor, ())]
