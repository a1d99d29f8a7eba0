"""One fault in a stored number: which bits of which element change, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from hwbench.errors import InputError
from hwbench.faults import bits

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["flip", "stuck_at_0", "stuck_at_1", "burst", "random_value"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Fault:
    """A fault in an initializer.

    Attributes:
        tensor: The initializer.
        element: Flat C-order index.
        bit: Bit within the element, 0 = least significant; for a burst the lowest one.
        kind: flip, stuck_at_0, stuck_at_1, burst (``width`` neighbouring bits in memory order flip) or random_value (the
            element's stored bits become ``value``).
        width: How many bits a burst flips.
        value: The stored pattern of a random value.
    """

    tensor: str
    element: int
    bit: int
    kind: Kind = "flip"
    width: int = 1
    value: int = 0

    def places(self, array: Array) -> tuple[Sequence[int], Sequence[int]]:
        """Elements and bits that are touched; a burst may run over several elements, and ends with the tensor."""
        per = bits.width(array.dtype)
        if self.kind == "random_value":
            return [self.element] * per, range(per)
        first = self.element * per + self.bit
        count = self.width if self.kind == "burst" else 1
        elements, places = np.divmod(np.arange(first, min(first + count, array.size * per)), per)
        return elements.tolist(), places.tolist()

    def apply(self, array: Array) -> Array:
        """A copy of the tensor with the fault in it.

        Raises:
            InputError: Element or bit is out of range.
        """
        per = bits.width(array.dtype)
        if not (0 <= self.element < array.size and 0 <= self.bit < per):
            raise InputError(
                f"tensor {self.tensor!r} has {array.size} elements of {per} bits; element {self.element}, bit {self.bit} "
                "is not among them"
            )
        elements, places = self.places(array)
        if self.kind in ("flip", "burst"):
            return bits.flip(array, elements, places)
        if self.kind == "random_value":
            zeroed = bits.stuck_at(array, elements, places, 0)
            ones = [place for place in places if self.value >> place & 1]
            return bits.stuck_at(zeroed, [self.element] * len(ones), ones, 1) if ones else zeroed
        return bits.stuck_at(array, elements, places, 1 if self.kind == "stuck_at_1" else 0)


def in_channel(fault: Fault, array: Array, axis: int) -> tuple[int, Array] | None:
    """The output channel a fault changes and that channel's slice with the fault in it; None if it changes several.

    Args:
        fault: The fault.
        array: The tensor it is in.
        axis: The axis that counts channels.
    """
    elements, _ = fault.places(array)
    if len(set(elements)) != 1:
        return None
    index = np.unravel_index(fault.element, array.shape)
    channel = int(index[axis])
    piece = np.take(array, channel, axis=axis)
    rest = [at for place, at in enumerate(index) if place != axis]
    local = int(np.ravel_multi_index(rest, piece.shape)) if rest else 0
    alone = Fault(fault.tensor, local, fault.bit, fault.kind, fault.width, fault.value)
    return channel, alone.apply(piece.reshape(-1) if piece.ndim == 0 else piece).reshape(piece.shape)
