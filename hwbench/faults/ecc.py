"""Error-detecting and -correcting codes, and what their decoders really do.

===========================================  ========================================================================
name                                         code
===========================================  ========================================================================
``secded_72_64``, ``secded_39_32``           single-error-correcting, double-error-detecting (Hsiao), per word of 64 or 32
``parity_64``, ``parity_32``, ``parity_8``   one parity bit per word: an odd number of errors is detected
``sign_exponent_duplication``                a copy of each of an element's top bits: a mismatch is detected
``sign_exponent_triplication``               two copies of each of an element's top bits: the majority holds
===========================================  ========================================================================

Runs on targets: needs numpy only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields
from functools import cache
from itertools import combinations

import numpy as np
from numpy.typing import NDArray

from hwbench.errors import UnknownNameError

Positions = NDArray[np.int64]

# What a syndrome asks for, where it is not the place of the bit to invert.
_NOTHING, _DETECTED = -1, -2


@dataclass(frozen=True)
class Counts:
    """What decoders did, in words; a word of a sign/exponent copy is one bit with its copies.

    Attributes:
        corrected: An error was corrected, and the data are right.
        detected: An error was seen that the code cannot correct.
        miscorrected: The decoder corrected something, and the data are wrong: it saw more errors than it can tell apart.
        undetected: The data are wrong, and the decoder saw nothing.
    """

    corrected: int = 0
    detected: int = 0
    miscorrected: int = 0
    undetected: int = 0

    def __add__(self, other: Counts) -> Counts:
        return Counts(*(getattr(self, one.name) + getattr(other, one.name) for one in fields(self)))


@dataclass(frozen=True)
class Decoded:
    """What a code makes of errors.

    Attributes:
        wrong: Data bits that come out wrong, ascending.
        suspect: Words in which an error was detected and not corrected; their data bits come out as they were read.
        counts: How many words met which end.
    """

    wrong: Positions
    suspect: Positions
    counts: Counts


class LinearCode:
    """A systematic binary code, decoded by its syndrome.

    A word's syndrome is the XOR of its wrong bits' columns. A syndrome that is the column of exactly one bit inverts that
    bit; any other but zero is a detected error.

    Args:
        columns: The parity-check matrix's columns for the data bits, as integers; those of the check bits are unit vectors.
        check_bits: Check bits per word.
    """

    def __init__(self, columns: Sequence[int], check_bits: int) -> None:
        self.data_bits, self.check_bits = len(columns), check_bits
        self._columns = np.array([*columns, *(1 << row for row in range(check_bits))])
        self._generator = (self._columns[: self.data_bits, None] >> np.arange(check_bits) & 1).astype(np.uint8)
        self._asks = np.full(1 << check_bits, _DETECTED)
        for syndrome in range(1 << check_bits):
            places = np.flatnonzero(self._columns == syndrome)
            if places.size == 1:
                self._asks[syndrome] = places[0]
        self._asks[0] = _NOTHING

    def encode(self, data: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The check bits of words, 0 or 1, from ``[words, data_bits]`` to ``[words, check_bits]``."""
        sums: NDArray[np.uint8] = data @ self._generator  # modulo 256, which keeps their parity
        return sums & np.uint8(1)

    def words(self, n_data: int) -> int:
        """How many words ``n_data`` bits take."""
        return -(-n_data // self.data_bits)

    def decode(self, data: Positions, checks: Positions, n_data: int) -> Decoded:
        """Decode the words in which bits are wrong.

        Args:
            data: The wrong data bits, of ``n_data``.
            checks: The wrong check bits; those of word i are ``i * check_bits`` and following.
            n_data: How many data bits there are. A syndrome that points behind them is a detected error.
        """
        size = self.data_bits + self.check_bits
        wrong_data = data // self.data_bits * size + data % self.data_bits
        wrong_checks = checks // self.check_bits * size + self.data_bits + checks % self.check_bits
        wrong = np.sort(np.concatenate([wrong_data, wrong_checks]))
        words = wrong // size
        starts = np.flatnonzero(np.diff(words, prepend=-1))
        affected = words[starts]
        syndromes = np.bitwise_xor.reduceat(self._columns[wrong % size], starts) if affected.size else affected
        asks = self._asks[syndromes]
        behind = (asks >= 0) & (asks < self.data_bits) & (affected * self.data_bits + asks >= n_data)
        asks[behind] = _DETECTED
        acted = asks >= 0
        # What is inverted was wrong and is right now, or the other way round.
        left = np.setxor1d(wrong, affected[acted] * size + asks[acted], assume_unique=True)
        left = left[left % size < self.data_bits]
        is_spoilt = np.zeros(self.words(n_data), dtype=bool)
        is_spoilt[left // size] = True
        spoilt = is_spoilt[affected]
        counts = Counts(
            corrected=int(np.count_nonzero(acted & ~spoilt)),
            detected=int(np.count_nonzero(asks == _DETECTED)),
            miscorrected=int(np.count_nonzero(acted & spoilt)),
            undetected=int(np.count_nonzero((asks == _NOTHING) & spoilt)),
        )
        return Decoded(left // size * self.data_bits + left % size, affected[asks == _DETECTED], counts)


def hsiao_columns(data_bits: int, check_bits: int) -> list[int]:
    """Parity-check columns of a SECDED code: odd weights from 3 up, rows balanced.

    Sums of two odd columns are even, so no double error looks like a single one. Hsiao (1970), "A class of optimal minimum
    odd-weight-column SEC-DED codes", IBM Journal of Research and Development 14(4).

    Raises:
        ValueError: So few check bits do not have that many odd columns.
    """
    load = [0] * check_bits
    columns: list[int] = []
    for weight in range(3, check_bits + 1, 2):
        candidates = list(combinations(range(check_bits), weight))
        while candidates and len(columns) < data_bits:
            rows = min(candidates, key=lambda rows: sum(load[row] for row in rows))
            candidates.remove(rows)
            columns.append(sum(1 << row for row in rows))
            for row in rows:
                load[row] += 1
    if len(columns) < data_bits:
        raise ValueError(f"{check_bits} check bits do not protect {data_bits} data bits against single errors")
    return columns


_WORD_CODES: dict[str, Callable[[], LinearCode]] = {
    "secded_72_64": lambda: LinearCode(hsiao_columns(64, 8), 8),
    "secded_39_32": lambda: LinearCode(hsiao_columns(32, 7), 7),
    "parity_64": lambda: LinearCode([1] * 64, 1),
    "parity_32": lambda: LinearCode([1] * 32, 1),
    "parity_8": lambda: LinearCode([1] * 8, 1),
}
TOP_BIT_CODES: dict[str, Callable[[], LinearCode]] = {
    "sign_exponent_duplication": lambda: LinearCode([0b1], 1),
    "sign_exponent_triplication": lambda: LinearCode([0b11], 2),
}
PROTECTIONS = (*_WORD_CODES, *TOP_BIT_CODES)


@cache
def protection_code(name: str) -> LinearCode:
    """The code behind a protection.

    Raises:
        UnknownNameError: No such protection.
    """
    if name not in PROTECTIONS:
        raise UnknownNameError("protection", name, PROTECTIONS)
    return {**_WORD_CODES, **TOP_BIT_CODES}[name]()
