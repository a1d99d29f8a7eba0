"""The fault space of a deployed build: every bit that a fault can sit in, with the role its number plays."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal

import numpy as np
import onnx

from hwbench.errors import InputError
from hwbench.faults import bits
from hwbench.faults.cuts import GraphCutter
from hwbench.stored import Inventory, Place, Step, follow, inner_graphs

Array = np.ndarray[Any, np.dtype[Any]]
Role = Literal[
    "weight", "bias", "scale", "zero_point", "threshold", "structure", "constant", "activation", "input", "artefact"
]
Readers = dict[str, list[tuple[onnx.NodeProto, int]]]
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
# What the inputs of an operator that multiplies are for, one after the other.
_INPUTS: Mapping[str, Sequence[Role]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "MatMul", "Gemm"), ("weight", "weight", "bias")),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), ("weight", "weight", "zero_point", "zero_point")),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), ("weight", "weight", "weight", "bias")),
    "MatMulNBits": ("weight", "weight", "scale", "zero_point", "constant", "bias"),
}
# Roles of the attributes of the classical machine learning domain; unlisted attributes are constants.
ATTRIBUTE_ROLES: Mapping[str, Role] = {
    **dict.fromkeys(("coefficients", "support_vectors", "weights"), "weight"),
    **dict.fromkeys(("class_weights", "target_weights", "leaf_weights"), "weight"),
    **dict.fromkeys(("intercepts", "base_values", "rho", "offset"), "bias"),
    "scale": "scale",
    **dict.fromkeys(("nodes_values", "nodes_splits", "membership_values"), "threshold"),
    **dict.fromkeys(("nodes_treeids", "nodes_nodeids", "nodes_featureids", "nodes_modes", "tree_roots"), "structure"),
    **dict.fromkeys(("nodes_truenodeids", "nodes_falsenodeids", "nodes_trueleafs", "nodes_falseleafs"), "structure"),
    **dict.fromkeys(("class_ids", "class_nodeids", "class_treeids"), "structure"),
    **dict.fromkeys(("target_ids", "target_nodeids", "target_treeids", "leaf_targetids"), "structure"),
}
# Operators whose attribute has the role of their output.
_CONSTANTS = frozenset({"Constant", "ConstantOfShape"})


@dataclass(frozen=True)
class StoredTensor:
    """Stored numbers, or some of the bits of them; also a tensor of which each input has one, or the build's file.

    Attributes:
        name: Its name.
        format: The numpy name of its element type.
        elements: How many elements it has.
        width: Stored bits of one element.
        role: What its numbers are for.
        op_type: The operator that reads it, behind any DequantizeLinear; of a tensor between operators the one that makes it.
        depth: How many layers come before that operator.
        first_bit, last_bit: The bits of each element that belong to the space.
    """

    name: str
    format: str
    elements: int
    width: int
    role: Role
    op_type: str
    depth: int
    first_bit: int
    last_bit: int

    @property
    def per_element(self) -> int:
        """Bits of each element that belong to the space."""
        return self.last_bit - self.first_bit + 1

    @property
    def size(self) -> int:
        """Bits that belong to the space."""
        return self.elements * self.per_element


@dataclass(frozen=True)
class FaultSpace:
    """Bits that faults can sit in.

    Attributes:
        tensors: In the order of the file.
    """

    tensors: tuple[StoredTensor, ...]

    @classmethod
    def of(cls, model: onnx.ModelProto, stored: Mapping[str, Array]) -> FaultSpace:
        """Every stored bit of a deployed model.

        Args:
            model: The deployed model.
            stored: Its numbers, from `hwbench.worker.perturb.stored_initializers`.
        """
        roles = _Roles(model, GraphCutter(model))
        return cls(tuple(roles.tensor(place, stored[place.name]) for place in Inventory.of(model).places))

    @classmethod
    def of_file(cls, name: str, size: int) -> FaultSpace:
        """The bytes of a build's file."""
        return cls((StoredTensor(name, "uint8", size, 8, "artefact", "", 0, 0, 7),))

    def __add__(self, other: FaultSpace) -> FaultSpace:
        """Both spaces."""
        return FaultSpace((*self.tensors, *other.tensors))

    @cached_property
    def size(self) -> int:
        """How many bits there are."""
        return sum(tensor.size for tensor in self.tensors)

    def select(
        self,
        *,
        tensors: str = "*",
        ops: Collection[str] = (),
        roles: Collection[str] = (),
        depth: tuple[int, int] | None = None,
        bit_range: tuple[int, int] | None = None,
    ) -> FaultSpace:
        """Part of the space.

        Args:
            tensors: Pattern of tensors' names, as in a shell.
            ops: Operators; empty for all.
            roles: Roles; empty for all.
            depth: First and last number of layers before the operator.
            bit_range: First and last bit of each element; elements with fewer bits keep what they have of them.

        Raises:
            InputError: Nothing is left.
        """
        low, high = bit_range or (0, 63)
        chosen = [
            replace(tensor, first_bit=low, last_bit=min(high, tensor.width - 1))
            for tensor in self.tensors
            if fnmatchcase(tensor.name, tensors)
            and (not ops or tensor.op_type in ops)
            and (not roles or tensor.role in roles)
            and (depth is None or depth[0] <= tensor.depth <= depth[1])
            and low <= min(high, tensor.width - 1)
        ]
        if not chosen:
            raise InputError(
                "no stored bit is selected; widen the selection of tensors, operators, roles, depth or bits "
                f"(there are {len(self.tensors)} tensors, {self.size} bits)"
            )
        return FaultSpace(tuple(chosen))

    def strata(self) -> Iterator[tuple[tuple[str, int], int]]:
        """Each (tensor, bit position) and how many stored bits it has."""
        for tensor in self.tensors:
            for bit in range(tensor.first_bit, tensor.last_bit + 1):
                yield (tensor.name, bit), tensor.elements


class _Roles:
    """Roles of stored numbers, and their places in the graph.

    Args:
        model: The deployed model.
        cutter: Its graph.
    """

    def __init__(self, model: onnx.ModelProto, cutter: GraphCutter) -> None:
        self._model, self._cutter = model, cutter
        self._depths = [layer.position for layer in cutter.layers]
        self._main = _readers(cutter.nodes)

    def tensor(self, place: Place, array: Array) -> StoredTensor:
        """The description of one array of stored numbers."""
        role, op_type = self._role(place, array)
        depth, width = bisect_right(self._depths, self._position(place) - 1), bits.width(array.dtype)
        return StoredTensor(place.name, array.dtype.name, array.size, width, role, op_type, depth, 0, width - 1)

    def _position(self, place: Place) -> int:
        """Index of the first node of the graph that the numbers reach; in a function any may be, so that it is the first."""
        if place.owner[-1][0] == "initializer":
            return self._cutter.first_use(place.name)
        if place.owner[-1][0] == "functions":
            return 0
        node = follow(self._model, place.owner)
        if self._cutter.is_derived(node.output[0]):
            return self._cutter.first_use(node.output[0])
        return min(self._cutter.maker(name) for name in node.output if name)

    def _role(self, place: Place, array: Array) -> tuple[Role, str]:
        name, around = place.name, place.path[:-1]
        if place.attribute:
            if place.op_type not in _CONSTANTS:
                return ATTRIBUTE_ROLES.get(place.attribute.removesuffix("_as_tensor"), "constant"), place.op_type
            around = place.path[: max(at for at, (field, _) in enumerate(place.path) if field == "node")]
            name = follow(self._model, place.path[: len(around) + 1]).output[0]
        elif len(around) > 1:
            name = follow(self._model, place.path).name
        readers = self._main if len(around) == 1 and around[0][0] == "graph" else self._inner(around)
        return _role_of(readers, name, array)

    def _inner(self, path: tuple[Step, ...]) -> Readers:
        """The readers of an inner graph or of a function."""
        return _readers(follow(self._model, path).node)


def _readers(nodes: Iterable[onnx.NodeProto]) -> Readers:
    """Tensor to the nodes that read it, those of inner graphs included, each with the number of the input."""
    found: Readers = {}
    for node in nodes:
        for at, name in enumerate(node.input):
            found.setdefault(name, []).append((node, at))
        for graph in inner_graphs(node):
            for name, inner in _readers(graph.node).items():
                found.setdefault(name, []).extend(inner)
    return found


def _role_of(readers: Readers, name: str, array: Array) -> tuple[Role, str]:
    """Return the role of a tensor's numbers, and the operator they reach."""
    node, place = next(iter(readers.get(name, ())), (onnx.NodeProto(), 0))
    own: Role | None = None
    if node.op_type in _QUANTIZERS and place > 0:
        own = "scale" if place == 1 else "zero_point"
    if node.op_type == "DequantizeLinear":
        node, place = next(iter(readers.get(node.output[0], ())), (node, place))
    if own is not None:
        return own, node.op_type
    if place < len(_INPUTS.get(node.op_type, ())):
        return _INPUTS[node.op_type][place], node.op_type
    if node.op_type == "Gather" and place == 0 and array.ndim > 1:
        return "weight", node.op_type  # an embedding
    if node.op_type == "Add" and bits.is_floating(array.dtype) and array.ndim == 1:
        return "bias", node.op_type
    return "constant", node.op_type
