"""Tensors in protected memory: which bits stand there, and what is read from them when some are wrong.

Words are consecutive stored bits of one tensor in memory order (little-endian); its last word is filled up with zeros that
are no cells. Check bits lie behind the data they protect and fail like them; in a stack of protections the next one covers
the check bits of those before it. Sign/exponent copies are about elements: the sign and exponent of a floating-point
number, the highest bit of an integer. All first copies stand before all second ones, so that one word seldom holds both.
Runs on targets: needs numpy and ml_dtypes only.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import NDArray

from hwbench.errors import InputError
from hwbench.faults import bits
from hwbench.faults.ecc import TOP_BIT_CODES, Counts, LinearCode, Positions, protection_code

Array = np.ndarray[Any, np.dtype[Any]]
Uncorrectable = Literal["zero", "halt"]


def check_stack(names: Sequence[str]) -> None:
    """Check that protections can be stacked in this order.

    Raises:
        UnknownNameError: One of them is not known.
        InputError: A sign/exponent copy stands behind another protection: it is about elements, so it comes first.
    """
    for name in names:
        protection_code(name)
    for name in names[1:]:
        if name in TOP_BIT_CODES:
            raise InputError(f"protection {list(names)}: {name} copies bits of elements, so it has to come first")


def top_bits(dtype: np.dtype[Any]) -> int:
    """Sign and exponent bits of a floating-point number; of an integer, its highest bit."""
    if bits.is_floating(dtype):
        return bits.width(dtype) - int(ml_dtypes.finfo(dtype).nmant)
    return 1


@dataclass(frozen=True)
class _Layer:
    """A code over ``top`` of every ``width`` bits; all of them where both are 1.

    Attributes:
        name: The protection.
        code: The code.
        n_below: Bits it is laid over, check bits of layers before it included.
        width, top: Bits of an element, and how many from its highest down are covered.
        apart: Whether check bits stand one plane after the other, and not word by word.
    """

    name: str
    code: LinearCode
    n_below: int
    width: int = 1
    top: int = 1
    apart: bool = False

    @property
    def n_covered(self) -> int:
        return self.n_below // self.width * self.top

    @property
    def n_checks(self) -> int:
        return self.code.words(self.n_covered) * self.code.check_bits

    def is_covered(self, positions: Positions) -> NDArray[np.bool_]:
        covered: NDArray[np.bool_] = positions % self.width >= self.width - self.top
        return covered

    def to_covered(self, positions: Positions) -> Positions:
        """A bit's index among the covered ones."""
        return positions // self.width * self.top + positions % self.width - (self.width - self.top)

    def from_covered(self, covered: Positions) -> Positions:
        return covered // self.top * self.width + self.width - self.top + covered % self.top

    def to_checks(self, positions: Positions) -> Positions:
        """Check bits as their code counts them, word by word, from their positions behind the data."""
        if not self.apart:
            return positions
        places, words = np.divmod(positions, self.code.words(self.n_covered))
        return words * self.code.check_bits + places

    def covered_by(self, words: Positions) -> Positions:
        """The covered bits of words, by their index, shape ``[words, data_bits]``; what fills up the last word included."""
        indices: Positions = words[:, None] * self.code.data_bits + np.arange(self.code.data_bits)
        return indices

    def in_words(self, words: Positions) -> NDArray[np.bool_]:
        """Which elements have bits in ``words``, shape ``[elements]``."""
        covered = self.covered_by(words).reshape(-1)
        elements = np.zeros(self.n_below // self.width, dtype=bool)
        elements[covered[covered < self.n_covered] // self.top] = True
        return elements


@dataclass(frozen=True)
class Reading:
    """What is read from a protected tensor.

    Attributes:
        wrong: The tensor's own bits that are read wrong, ascending.
        counts: What the decoders did.
        halted: Whether an uncorrectable error stopped the reader.
    """

    wrong: Positions
    counts: Counts
    halted: bool = False


class Storage:
    """The bits that stand in memory for one tensor: its own, then the check bits of each protection in turn.

    Args:
        tensor: The tensor.
        protections: Names of `hwbench.faults.ecc.PROTECTIONS`, the one nearest to the data first.

    Raises:
        InputError: As `check_stack`.
    """

    def __init__(self, tensor: Array, protections: Sequence[str] = ()) -> None:
        check_stack(protections)
        self._tensor = tensor
        self._width = bits.width(tensor.dtype)
        self.data_bits = self.stored_bits = bits.stored_bits(tensor)
        self._layers: list[_Layer] = []
        for name in protections:
            part = (self._width, top_bits(tensor.dtype), True) if name in TOP_BIT_CODES else ()
            layer = _Layer(name, protection_code(name), self.stored_bits, *part)
            self._layers.append(layer)
            self.stored_bits += layer.n_checks

    def segments(self) -> Iterator[tuple[tuple[str, ...], int, int]]:
        """The tensor's bits, then each protection's check bits: protections so far, first position, how many bits."""
        yield (), 0, self.data_bits
        for depth, layer in enumerate(self._layers, 1):
            yield tuple(one.name for one in self._layers[:depth]), layer.n_below, layer.n_checks

    def values(self, positions: Positions) -> NDArray[np.uint8]:
        """What error-free memory holds at ``positions``, 0 or 1."""
        return self._values(positions, len(self._layers))

    def read(self, errors: Positions, uncorrectable: Uncorrectable = "zero") -> Reading:
        """Decode, the last protection first.

        Args:
            errors: Stored bits that are wrong, ascending.
            uncorrectable: What becomes of a word in which an error was detected: its data bits are read as zero (with a
                sign/exponent copy, those of the element), or the reader halts.
        """
        wrong, counts = errors, Counts()
        for depth in range(len(self._layers) - 1, -1, -1):
            layer = self._layers[depth]
            below, checks = wrong[wrong < layer.n_below], layer.to_checks(wrong[wrong >= layer.n_below] - layer.n_below)
            covered = layer.is_covered(below)
            decoded = layer.code.decode(layer.to_covered(below[covered]), checks, layer.n_covered)
            counts += decoded.counts
            wrong = _merged(below[~covered], layer.from_covered(decoded.wrong))
            if not decoded.suspect.size:
                continue
            if uncorrectable == "halt":
                return Reading(wrong[wrong < self.data_bits], counts, halted=True)
            suspect = layer.in_words(decoded.suspect)
            zeroed = (np.flatnonzero(suspect)[:, None] * layer.width + np.arange(layer.width)).reshape(-1)
            ones = zeroed[self._values(zeroed, depth) == 1]
            wrong = _merged(wrong[~suspect[wrong // layer.width]], ones)
        return Reading(wrong, counts)

    def _values(self, positions: Positions, depth: int) -> NDArray[np.uint8]:
        """The bits at positions among those of the first ``depth`` protections."""
        if not depth:
            elements, places = np.divmod(positions, self._width)
            ones: Array = self._patterns[elements] >> places.astype(self._patterns.dtype) & 1
            return ones.astype(np.uint8)
        layer = self._layers[depth - 1]
        is_check = positions >= layer.n_below
        values = np.empty(positions.size, np.uint8)
        values[~is_check] = self._values(positions[~is_check], depth - 1)
        words, places = np.divmod(layer.to_checks(positions[is_check] - layer.n_below), layer.code.check_bits)
        unique, inverse = np.unique(words, return_inverse=True)
        covered = layer.covered_by(unique)
        data = np.zeros(covered.shape, np.uint8)
        stored = covered < layer.n_covered
        data[stored] = self._values(layer.from_covered(covered[stored]), depth - 1)
        values[is_check] = layer.code.encode(data)[inverse, places]
        return values

    @cached_property
    def _patterns(self) -> Array:
        return bits.patterns(self._tensor)


def _merged(one: Positions, other: Positions) -> Positions:
    """Two sets of positions without a common one, as one ascending array."""
    return np.sort(np.concatenate([one, other]))
