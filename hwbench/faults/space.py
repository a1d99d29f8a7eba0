"""The fault space of a deployed build: every bit that a fault can sit in, with the role its number plays."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import cached_property
from typing import Any, Literal

import numpy as np
import onnx

from hwbench.errors import InputError
from hwbench.faults import bits
from hwbench.faults.cuts import GraphCutter

Array = np.ndarray[Any, np.dtype[Any]]
Role = Literal["weight", "bias", "scale", "zero_point", "constant", "activation", "input", "artefact"]
_QUANTIZERS = frozenset({"QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear"})
# What the inputs of an operator that multiplies are for, one after the other.
_INPUTS: Mapping[str, Sequence[Role]] = {
    **dict.fromkeys(("Conv", "ConvTranspose", "MatMul", "Gemm"), ("weight", "weight", "bias")),
    **dict.fromkeys(("ConvInteger", "MatMulInteger"), ("weight", "weight", "zero_point", "zero_point")),
    **dict.fromkeys(("LSTM", "GRU", "RNN"), ("weight", "weight", "weight", "bias")),
    "MatMulNBits": ("weight", "weight", "scale", "zero_point", "constant", "bias"),
}


@dataclass(frozen=True)
class StoredTensor:
    """One initializer, or some of the bits of its elements; also a tensor of which each input has one, or the build's file.

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
            stored: Its initializers, from `hwbench.worker.perturb.stored_initializers`.
        """
        cutter = GraphCutter(model)
        depths = [layer.position for layer in cutter.layers]
        tensors = []
        for name, array in stored.items():
            role, op_type = _role(cutter, name, array)
            depth = bisect_right(depths, cutter.first_use(name) - 1)
            width = bits.width(array.dtype)
            tensors.append(StoredTensor(name, array.dtype.name, array.size, width, role, op_type, depth, 0, width - 1))
        return cls(tuple(tensors))

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


def _role(cutter: GraphCutter, name: str, array: Array) -> tuple[Role, str]:
    """What an initializer's numbers are for, and the operator they reach."""
    node, place = next(iter(_readers(cutter, name)), (onnx.NodeProto(), 0))
    own: Role | None = None
    if node.op_type in _QUANTIZERS and place > 0:
        own = "scale" if place == 1 else "zero_point"
    if node.op_type == "DequantizeLinear":
        node, place = next(iter(_readers(cutter, node.output[0])), (node, place))
    if own is not None:
        return own, node.op_type
    if place < len(_INPUTS.get(node.op_type, ())):
        return _INPUTS[node.op_type][place], node.op_type
    if node.op_type == "Gather" and place == 0 and array.ndim > 1:
        return "weight", node.op_type  # an embedding
    if node.op_type == "Add" and bits.is_floating(array.dtype) and array.ndim == 1:
        return "bias", node.op_type
    return "constant", node.op_type


def _readers(cutter: GraphCutter, name: str) -> Sequence[tuple[onnx.NodeProto, int]]:
    return [(node, at) for node in cutter.nodes for at, read in enumerate(node.input) if read == name]
