"""The bits that fail at an error rate, one at a time and from the description alone: an oracle for `bits.error_bits`."""

from __future__ import annotations

import hashlib
import json
import math
from functools import cache

import numpy as np


@cache
def uniform_numbers(seed: int, draw: int, tensor: str, n_bits: int, rate: float) -> dict[int, float]:
    """Bit to its uniform number, for the bits below ``rate``: layer by layer, the lowest numbers first."""
    digest = hashlib.sha256(json.dumps(["bit_errors", seed, draw, tensor]).encode()).digest()
    key, numbers, low = int.from_bytes(digest[:16], "little"), {}, 0.0
    for layer in range(8):
        high = 16.0 ** (layer - 7)
        stream = np.random.Philox(key=key, counter=(layer + 1) * 2**128)
        bit = -1
        while low < rate:
            gap, share = ((word >> 11) / 2**53 for word in stream.random_raw(2).tolist())
            hit = (high - low) / (1 - low)
            bit += 1 + (math.floor(math.log1p(-gap) / math.log1p(-hit)) if hit < 1 else 0)
            if bit >= n_bits:
                break
            numbers.setdefault(bit, low + share * (high - low))
        low = high
    return {bit: number for bit, number in sorted(numbers.items()) if number < rate}


def failing_bits(seed: int, draw: int, tensor: str, n_bits: int, rate: float) -> list[int]:
    """The bits of a tensor that fail at an error rate, ascending."""
    return list(uniform_numbers(seed, draw, tensor, n_bits, rate))
