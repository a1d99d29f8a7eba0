"""The estimate: a figure, its confidence interval and the number of observations behind it."""

from __future__ import annotations

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Estimate:
    """A figure with its confidence interval.

    Attributes:
        value: The point estimate.
        low, high: The interval's bounds; ``-inf`` or ``inf`` where the data are too few to bound that side.
        level: The interval's confidence level, in (0, 1).
        n: How many observations stand behind it.
    """

    value: float
    low: float
    high: float
    level: float
    n: int


def enclosing(value: float, low: float, high: float, level: float, n: int) -> Estimate:
    """An estimate whose interval holds its value.

    Percentile and order-statistic intervals of a few skewed values, and rounding in any of them, can leave the point
    estimate just outside; such an interval is widened to it.
    """
    return Estimate(float(value), float(min(low, value)), float(max(high, value)), level, n)


def unbounded(value: float, level: float, n: int) -> Estimate:
    """An estimate of which the data say nothing but the value."""
    return Estimate(float(value), -math.inf, math.inf, level, n)


def check_level(level: float) -> None:
    """Raise ValueError unless ``level`` is a confidence level."""
    if not 0 < level < 1:
        raise ValueError(f"a confidence level lies between 0 and 1, e.g. 0.95; got {level}")
