"""Memories whose cells fail, chip by chip, and what is read from them.

A simulated chip is a number. Each of its cells has one uniform random number and fails where that is below a bit error rate,
so the cells that fail at one voltage fail at every lower one. Chips may differ in the balance of 0→1 and 1→0 errors, and
errors may crowd on weak columns of the memory array. Runs on targets: needs numpy and ml_dtypes only.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwbench.faults import bits
from hwbench.faults.ecc import Counts, Positions
from hwbench.faults.error_rates import MAX_RATE
from hwbench.faults.storage import Storage, Uncorrectable

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Columns:
    """Errors that crowd on weak columns of the memory array, on some chips.

    Attributes:
        row_bits: Bits of a row; a bit's column is its position in memory modulo this. Every tensor begins a row.
        weak: Weak columns of a chip, fewer than ``row_bits``.
        share: Share of errors that falls on them beyond their own, in [0, 1).
        chips: Probability that a chip has weak columns.
    """

    row_bits: int = 512
    weak: int = 8
    share: float = 0.5
    chips: float = 0.5


@dataclass(frozen=True)
class Chip:
    """One simulated memory chip.

    A cell that holds 0 fails at 1 + b times the rate, one that holds 1 at 1 − b times; b, the chip's balance, is uniform in
    ±``asymmetry``. On a chip with weak columns, these fail at (1 − share + share · row_bits / weak) times the rate, at most
    at `MAX_RATE` (a column that failed altogether reads at random); other columns take the rest. So the rate of every cell
    averages to the bit error rate over chips, and a chip's to it over its cells where 0 and 1 are equally frequent.

    Attributes:
        seed: The run's seed.
        number: The chip.
        asymmetry: Largest balance, in [0, 1).
        columns: How errors crowd; None: not at all.
    """

    seed: int
    number: int
    asymmetry: float = 0.0
    columns: Columns | None = None

    @cached_property
    def balance(self) -> float:
        """Positive where 0→1 errors are the more frequent ones."""
        word = bits.random_words("chip_balance", self.seed, self.number, "").random_raw(1)
        return self.asymmetry * (2 * float(bits.uniforms(word)[0]) - 1)

    @cached_property
    def weak(self) -> NDArray[np.bool_] | None:
        """Which columns are weak, shape ``[row_bits]``; None on a chip without."""
        if self.columns is None:
            return None
        words = bits.random_words("chip_columns", self.seed, self.number, "").random_raw(self.columns.row_bits + 1)
        if bits.uniforms(words[:1])[0] >= self.columns.chips:
            return None
        weak = np.zeros(self.columns.row_bits, dtype=bool)
        weak[np.argsort(words[1:], kind="stable")[: self.columns.weak]] = True
        return weak

    def errors(
        self,
        name: str,
        n_bits: int,
        max_rate: float,
        values: Callable[[Positions], NDArray[np.uint8]],
        first: int = 0,
    ) -> tuple[Positions, NDArray[np.float64]]:
        """The cells that fail at some bit error rate up to ``max_rate``.

        Args:
            name: Whose cells: with seed and chip it decides their uniform numbers, the same as in `bits.error_bits`.
            n_bits: How many.
            max_rate: The largest bit error rate that will be asked of this chip, at most `MAX_RATE`.
            values: What cells at given positions hold, 0 or 1; asked for only if the chip is out of balance.
            first: Position of the first of them.

        Returns:
            positions: Ascending, shape [k].
            critical: The bit error rate above which each fails, shape [k].
        """
        # The least any cell's rate is multiplied by to reach 1 leaves few to look at closely.
        largest = min(self._largest(max_rate), 1.0) if max_rate else 0.0
        hits, uniforms = bits.error_bits(self.seed, self.number, name, n_bits, largest)
        critical = self._critical(uniforms, hits + first, values)
        fails = critical < max_rate
        return hits[fails] + first, critical[fails]

    def _largest(self, rate: float) -> float:
        """The largest failure probability of any cell at a bit error rate."""
        column = min(rate * self._crowding, MAX_RATE)
        # At MAX_RATE the last rounding of a critical rate must not lose a cell, so the bound is a little wide.
        return max(rate, column) * (1 + abs(self.balance)) * (1 + 1e-9)

    @property
    def _crowding(self) -> float:
        """How many times the rate weak columns fail at."""
        if self.columns is None or self.weak is None:
            return 1.0
        return 1 - self.columns.share + self.columns.share * self.columns.row_bits / self.columns.weak

    def _critical(
        self, uniforms: NDArray[np.float64], positions: Positions, values: Callable[[Positions], NDArray[np.uint8]]
    ) -> NDArray[np.float64]:
        """The bit error rate above which cells fail: the inverse of what `Chip` says."""
        if self.balance:
            uniforms = uniforms / np.where(values(positions) == 1, 1 - self.balance, 1 + self.balance)
        if self.columns is None or self.weak is None:
            return uniforms
        part = self.columns.weak / self.columns.row_bits
        # Other columns' rate rises by 1 − share until the weak ones are full, then faster: the inverse is the smaller line.
        other = np.minimum(uniforms / (1 - self.columns.share), uniforms * (1 - part) + MAX_RATE * part)
        weak = np.where(uniforms < MAX_RATE, uniforms / self._crowding, np.inf)
        rates: NDArray[np.float64] = np.where(self.weak[positions % self.columns.row_bits], weak, other)
        return rates


@dataclass(frozen=True)
class Readout:
    """What is read from a memory.

    Attributes:
        tensors: New content of those that are read wrong.
        n_faults: Bits of tensors that are read wrong.
        report: ``errors``, the cells that failed, check bits included; ``corrected``, ``detected``, ``miscorrected`` and
            ``undetected`` words; ``data_bits`` and ``stored_bits``, those of the tensors without and with check bits.
        halted: Whether an uncorrectable error stopped the reader.
    """

    tensors: Mapping[str, Array]
    n_faults: int
    report: Mapping[str, int]
    halted: bool


class Memory:
    """A build's initializers in a memory whose cells fail.

    The failing cells of the last chip are kept as far as they fit, so that going through its voltages and protections costs
    one pass over the random numbers.

    Args:
        tensors: The initializers.
        budget: Bytes of failing cells to keep.
    """

    def __init__(self, tensors: Mapping[str, Array], budget: int = 256 << 20) -> None:
        self._tensors = tensors
        self._budget = budget
        self._chip: tuple[Chip, float] | None = None
        self._kept: dict[tuple[str, ...], tuple[Positions, NDArray[np.float64]]] = {}

    def read(
        self,
        chip: Chip,
        rate: float,
        protections: Sequence[str] = (),
        uncorrectable: Uncorrectable = "zero",
        max_rate: float = 0.0,
    ) -> Readout:
        """The initializers as they are read from a chip at a bit error rate.

        Args:
            chip: The chip.
            rate: The bit error rate.
            protections: What protects them, the one nearest to the data first (`hwbench.faults.storage`).
            uncorrectable: What becomes of detected errors, as in `Storage.read`.
            max_rate: The highest rate that will be asked of this chip, so that it is drawn once.

        Raises:
            InputError: Protections cannot be stacked so.
        """
        if self._chip is None or self._chip[0] != chip or self._chip[1] < max(rate, max_rate):
            self._chip, self._kept = (chip, max(rate, max_rate)), {}
        tensors, counts, halted = {}, Counts(), False
        n_faults = n_errors = n_data = n_stored = 0
        for name, tensor in self._tensors.items():
            storage = Storage(tensor, protections)
            errors = self._errors(name, storage, rate)
            reading = storage.read(errors, uncorrectable)
            if reading.wrong.size:
                tensors[name] = bits.flip(tensor, *np.divmod(reading.wrong, bits.width(tensor.dtype)))
            counts += reading.counts
            halted = halted or reading.halted
            n_faults, n_errors = n_faults + reading.wrong.size, n_errors + errors.size
            n_data, n_stored = n_data + storage.data_bits, n_stored + storage.stored_bits
        report = {"errors": n_errors, **asdict(counts), "data_bits": n_data, "stored_bits": n_stored}
        return Readout(tensors, n_faults, report, halted)

    def _errors(self, name: str, storage: Storage, rate: float) -> Positions:
        """The stored bits of one tensor that fail at ``rate``, ascending."""
        failing = []
        for protections, first, count in storage.segments():
            positions, critical = self._failing(name, protections, storage, first, count)
            failing.append(positions[critical < rate])
        return np.concatenate(failing)

    def _failing(
        self, name: str, protections: tuple[str, ...], storage: Storage, first: int, count: int
    ) -> tuple[Positions, NDArray[np.float64]]:
        if self._chip is None:
            raise AssertionError("unreachable: a chip is chosen before its cells are read")
        key = (name, *protections)
        if key not in self._kept:
            chip, rate = self._chip
            found = chip.errors("@".join(key), count, rate, storage.values, first)
            if sum(array.nbytes for pair in (*self._kept.values(), found) for array in pair) > self._budget:
                return found
            self._kept[key] = found
        return self._kept[key]
