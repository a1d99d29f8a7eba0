"""Timings: the ratio of two paired series, and whether a series is stable enough to be believed."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike

from hwbench.stats.estimate import Estimate
from hwbench.stats.resampling import as_pairs, as_sample, mean_interval

_SPREAD_LIMIT = 0.10
_EXTREME_LIMIT = 0.50


def log_ratio(a: ArrayLike, b: ArrayLike, level: float = 0.95, seed: int = 0) -> Estimate:
    """Geometric mean of a/b over pairs of adjacent timings: exp(mean(log a - log b)), with a bootstrap interval.

    The interval of `mean_interval` on the log ratios, exponentiated: slow spells of a noisy machine hit both members of
    a pair and cancel. With one pair the interval is (0, inf). Fleming and Wallace (1986), "How not to lie with
    statistics: the correct way to summarize benchmark results", CACM 29, on why ratios are averaged geometrically.

    Args:
        a: Array [pairs] of positive times.
        b: Array [pairs] in the same unit; a[i] and b[i] were measured next to each other.
        level: Confidence level.
        seed: Seed of the resampling.

    Raises:
        ValueError: The arrays are empty, of unequal length or not all positive and finite, or level is out of range.
    """
    first, second = as_pairs(a, b)
    for sample, name in ((first, "a"), (second, "b")):
        _check_times(sample, name)
    ratio = mean_interval(np.log(first) - np.log(second), level, seed)
    value, low, high = (float(np.exp(bound)) for bound in (ratio.value, ratio.low, ratio.high))
    return Estimate(value, low, high, level, ratio.n)


def stability(values: ArrayLike, minimum: int = 20) -> list[str]:
    """What speaks against believing a series of timings; empty if nothing does.

    Three checks: fewer than ``minimum`` values; a standard deviation above 10 % of the mean; a smallest or largest
    value more than 50 % from the mean. The limits are those of pyperf's result checks.

    Args:
        values: Array [samples] of positive times in one unit.
        minimum: How many values are enough.

    Returns:
        One sentence for each check that does not hold.

    Raises:
        ValueError: The array is empty, not one-dimensional or not all positive and finite.
    """
    sample = as_sample(values, "values")
    _check_times(sample, "values")
    mean = float(sample.mean())
    found = []
    if sample.size < minimum:
        found.append(f"Only {sample.size} values were measured; at least {minimum} are needed.")
    spread = float(sample.std(ddof=1)) / mean if sample.size > 1 else 0.0
    if spread > _SPREAD_LIMIT:
        found.append(f"The standard deviation is {spread:.0%} of the mean (limit {_SPREAD_LIMIT:.0%}).")
    fastest, slowest = 1 - float(sample.min()) / mean, float(sample.max()) / mean - 1
    if fastest > _EXTREME_LIMIT:
        found.append(f"The smallest value is {fastest:.0%} below the mean (limit {_EXTREME_LIMIT:.0%}).")
    if slowest > _EXTREME_LIMIT:
        found.append(f"The largest value is {slowest:.0%} above the mean (limit {_EXTREME_LIMIT:.0%}).")
    return found


def _check_times(sample: np.ndarray, name: str) -> None:
    if not (np.isfinite(sample).all() and (sample > 0).all()):
        raise ValueError(f"{name} must hold positive, finite times; smallest is {sample.min()}, largest {sample.max()}")
