"""The fault space of what a graph carries for each input: the tensors between its operators, and its inputs."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx
from onnx import helper

from hwbench.errors import InputError
from hwbench.faults import bits, names
from hwbench.faults.cuts import GraphCutter
from hwbench.faults.shapes import sample_shapes
from hwbench.faults.space import Array, FaultSpace, Role, StoredTensor
from hwbench.stored import inner_graphs

_BRANCHES = "the graph holds other graphs (If, Loop, Scan), so that it cannot be cut"
_QUANTIZED = "between operators only its quantized form is kept"
_OUTPUT = "it is an output of the model"
_SHAPE = "its shape for one input is not known, or its first axis does not count inputs"
_TYPE = "its elements are not numbers of whole bytes"


@dataclass(frozen=True)
class Activations:
    """The tensors that are made anew for every input.

    Attributes:
        space: Their bits, under the names of `hwbench.faults.names`; elements are counted within the part of one input.
        stand_ins: Those names to arrays, without memory, of one input's element type and shape.
        left_out: Tensors that have no faults of their own, to the reason why.
    """

    space: FaultSpace
    stand_ins: Mapping[str, Array]
    left_out: Mapping[str, str]

    @classmethod
    def of(cls, cutter: GraphCutter) -> Activations:
        """Those of a deployed model.

        Tensors that a quantized graph only spells out in floats are left out: a runtime computes in the quantized ones.
        """
        shapes, depths = sample_shapes(cutter.model), [layer.position for layer in cutter.layers]
        users: dict[str, list[onnx.NodeProto]] = {}
        for node in cutter.nodes:
            for name in dict.fromkeys(node.input):
                users.setdefault(name, []).append(node)
        tensors, stand_ins, left_out = [], {}, {}
        for name, op_type in _made(cutter):
            if name not in users and name not in cutter.outputs:
                continue
            place, shape = names.activation(name), shapes.get(name)
            kind = _dtype(cutter, name)
            reason = _reason(cutter, name, users.get(name, []))
            if reason or shape is None or kind is None:
                left_out[place] = reason or (_SHAPE if shape is None else _TYPE)
                continue
            depth = bisect_right(depths, cutter.maker(name) - 1)
            size, width = math.prod(shape), bits.width(kind)
            role: Role = "activation" if name not in cutter.inputs else "input"
            tensors.append(StoredTensor(place, kind.name, size, width, role, op_type, depth, 0, width - 1))
            stand_ins[place] = np.broadcast_to(np.zeros((), kind), shape)
        return cls(FaultSpace(tuple(tensors)), stand_ins, left_out)


def _made(cutter: GraphCutter) -> Iterator[tuple[str, str]]:
    """Every tensor that depends on the inputs, and the operator that makes it."""
    yield from ((name, "Input") for name in cutter.inputs)
    for node in cutter.nodes:
        yield from ((name, node.op_type) for name in node.output if name and not cutter.is_derived(name))


def _reason(cutter: GraphCutter, name: str, users: list[onnx.NodeProto]) -> str:
    """Why a tensor has no faults of its own; empty if it has."""
    if any(True for node in cutter.nodes for _ in inner_graphs(node)):
        return _BRANCHES
    if name in cutter.outputs:
        return _OUTPUT
    is_spelled_out = cutter.carrier(name) != name or all(node.op_type == "QuantizeLinear" for node in users)
    return _QUANTIZED if is_spelled_out and name not in cutter.inputs else ""


def _dtype(cutter: GraphCutter, name: str) -> np.dtype[np.generic] | None:
    """The element type, where its bits can be changed in place."""
    known = cutter.types.get(name)
    if known is None or not known.type.tensor_type.elem_type:
        return None
    kind: np.dtype[np.generic] = np.dtype(helper.tensor_dtype_to_np_dtype(known.type.tensor_type.elem_type))
    try:
        return kind if kind == np.bool_ or bits.width(kind) == 8 * kind.itemsize else None
    except InputError:  # text and complex numbers
        return None
