"""The order of a graph's operators in which it is cut: those of a layer stand together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import onnx

from hwbench.stored import reads


def constant_derived(graph: onnx.GraphProto, constants: Iterable[str]) -> set[str]:
    """The tensors that hold the same numbers whatever the inputs."""
    derived = set(constants)
    for node in graph.node:
        if node.input and all(name in derived for name in reads(node) if name):
            derived.update(node.output)
    return derived


def chained(nodes: Sequence[onnx.NodeProto], derived: set[str]) -> list[onnx.NodeProto]:
    """The nodes in an order in which one that waits for a single other stands right behind it.

    So the operators of a layer stand together, and layers come one after the other even where the file has the branches of a
    graph in turns.
    """
    first = [node for node in nodes if derived.issuperset(node.output)]
    others = [node for node in nodes if not derived.issuperset(node.output)]
    users: dict[str, list[int]] = {}
    for index, node in enumerate(others):
        for name in dict.fromkeys(reads(node)):
            users.setdefault(name, []).append(index)
    ordered: dict[int, onnx.NodeProto] = {}
    for index in range(len(others)):
        following: int | None = index
        while following is not None and following not in ordered:
            ordered[following] = node = others[following]
            after = users.get(node.output[0], []) if len(node.output) == 1 else []
            waits = len(after) == 1 and all(
                name in derived or name in (node.output[0], "") for name in reads(others[after[0]])
            )
            following = after[0] if waits else None
    return [*first, *ordered.values()]
