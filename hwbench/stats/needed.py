"""Number of inputs that an inconclusive figure needs."""

from __future__ import annotations

import math
from collections.abc import Callable

from hwbench.stats.paired import discordant_bounds

_MOST = 10**9


def inputs_to_decide(bounds: Callable[[int], tuple[float, float]], limit: float, n: int) -> int | None:
    """The smallest number of inputs at which an interval would no longer hold a limit, if further inputs are like these.

    Args:
        bounds: The interval that a number of inputs would give with the shares observed.
        limit: The limit.
        n: Inputs so far.

    Returns:
        The number; None where even 10⁹ inputs would not do, as where the figure equals the limit.
    """

    def decided(inputs: int) -> bool:
        low, high = bounds(inputs)
        return not low < limit < high

    enough = max(n, 1)
    while not decided(enough):
        enough *= 2
        if enough > _MOST:
            return None
    short = max(enough // 2, n)
    while enough - short > max(1, short // 100):
        middle = (short + enough) // 2
        short, enough = (short, middle) if decided(middle) else (middle, enough)
    return enough


def paired_inputs_to_decide(only_a: float, only_b: float, n: int, limit: float, level: float = 0.95) -> int | None:
    """`inputs_to_decide` of the difference of two paired proportions, from the counts of inputs on which they differ."""

    def bounds(inputs: int) -> tuple[float, float]:
        return discordant_bounds(only_a * inputs / n, only_b * inputs / n, inputs, level)

    return inputs_to_decide(bounds, limit, n)


def shrinking(value: float, low: float, high: float, n: int) -> Callable[[int], tuple[float, float]]:
    """The interval of a mean that a number of inputs would give: both sides shrink with the square root of it."""

    def bounds(inputs: int) -> tuple[float, float]:
        factor = math.sqrt(n / inputs)
        return value - (value - low) * factor, value + (high - value) * factor

    return bounds
