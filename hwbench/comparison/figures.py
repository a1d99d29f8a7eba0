"""A figure with its interval, and the difference of two independent ones.

The interval of a difference is recovered from both figures' own intervals (MOVER: Zou and Donner, "Construction of
confidence limits about effect measures", Statistics in Medicine 27, 2008; for proportions this is Newcombe's method 10,
1998). It treats the two figures as independent; on the same inputs they are positively correlated, so it errs on the wide
side: a difference it shows is there. Where the same inputs were evaluated, `hwbench.comparison.pairs` has the narrower one.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Figure:
    """A value and its interval; an exact figure's interval is the value itself."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Figure:
        """The figure times a factor."""
        ends = sorted((self.low * factor, self.high * factor))
        return Figure(self.value * factor + 0.0, ends[0] + 0.0, ends[1] + 0.0)  # no negative zeros

    def minus(self, other: Figure) -> Figure:
        """The difference to an independent figure, by MOVER."""
        if self.value == other.value and math.isinf(self.value):
            return Figure(0.0, 0.0, 0.0)
        value = self.value - other.value
        if math.isinf(value):
            return Figure(value, value, value)
        low = value - math.hypot(self.value - self.low, other.high - other.value)
        high = value + math.hypot(self.high - self.value, other.value - other.low)
        return Figure(value, low, high)


def figure_of(row: Mapping[str, Any], name: str) -> Figure | None:
    """One figure of a row of a comparison: ``"a"``, ``"b"`` or ``"difference"``; None where there is none."""
    value, low, high = row[name], row[f"{name}_low"], row[f"{name}_high"]
    return None if value is None else Figure(value, value if low is None else low, value if high is None else high)
