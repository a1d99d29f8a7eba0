"""One fault in a number: which bits of which element change, and how."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import ArrayLike

from hwbench.errors import InputError
from hwbench.faults import bits

Array = np.ndarray[Any, np.dtype[Any]]
Kind = Literal["flip", "stuck_at_0", "stuck_at_1", "burst", "random_value"]
KINDS: tuple[Kind, ...] = get_args(Kind)


@dataclass(frozen=True)
class Fault:
    """A fault in a stored number, in a tensor between operators or in the file of a build.

    Attributes:
        tensor: The stored numbers by their name (`hwbench.stored`), or one of the names of `hwbench.faults.names`.
        element: Flat C-order index; of a tensor between operators, within the part that belongs to one input.
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
        self._check(array)
        return self._set(array, *self.places(array))

    def in_rows(self, rows: Array) -> tuple[Array, Array]:
        """The fault in the same element of every row of a tensor, as a transient fault hits each input's own part.

        Args:
            rows: ``[n, ...]``, one row an input.

        Returns:
            changed: Indices of the rows that it changes, ``[m]``.
            faulty: Those rows with the fault, ``[m, ...]``.

        Raises:
            InputError: Element or bit is out of range.
        """
        self._check(rows[0])
        elements, places = self.places(rows[0])
        touched, at = np.unique(elements, return_inverse=True)
        flat = rows.reshape(len(rows), -1)
        index = (np.arange(len(rows))[:, None] * touched.size + at).reshape(-1)
        values = self._set(flat[:, touched], index, np.tile(places, len(rows)))
        is_other = (bits.patterns(values) != bits.patterns(flat[:, touched])).reshape(values.shape)
        changed = np.flatnonzero(is_other.any(axis=1))
        faulty = flat[changed]
        faulty[:, touched] = values[changed]
        return changed, faulty.reshape(len(changed), *rows.shape[1:])

    def _check(self, array: Array) -> None:
        per = bits.width(array.dtype)
        if not (0 <= self.element < array.size and 0 <= self.bit < per):
            raise InputError(
                f"tensor {self.tensor!r} has {array.size} elements of {per} bits; element {self.element}, bit {self.bit} "
                "is not among them"
            )

    def _set(self, array: Array, elements: ArrayLike, places: ArrayLike) -> Array:
        """A copy of an array in which bits are as the kind has them."""
        if self.kind in ("flip", "burst"):
            return bits.flip(array, elements, places)
        if self.kind != "random_value":
            return bits.stuck_at(array, elements, places, 1 if self.kind == "stuck_at_1" else 0)
        zeroed = bits.stuck_at(array, elements, places, 0)
        is_one = np.array([self.value >> int(place) & 1 for place in np.asarray(places)], dtype=bool)
        return bits.stuck_at(zeroed, np.asarray(elements)[is_one], np.asarray(places)[is_one], 1)


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
