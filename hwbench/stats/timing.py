"""Timings: the ratio of two series, and whether a series is stable enough to be believed."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwbench.stats.estimate import Estimate, check_level, enclosing
from hwbench.stats.resampling import RESAMPLES, as_pairs, as_sample, mean_interval

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


def ratio_of_means(a: ArrayLike, b: ArrayLike, level: float = 0.95, seed: int = 0) -> Estimate:
    """mean(a) / mean(b) of two independent series of timings, with a percentile bootstrap interval of both.

    Timings that follow each other are correlated: give means of windows, long against whatever disturbs the machine. With one
    window on a side the interval is (0, inf). Efron and Tibshirani (1993), "An introduction to the bootstrap", chapter 8, on
    the two-sample bootstrap.

    Args:
        a: Array [windows] of positive times.
        b: Array [windows] in the same unit.
        level: Confidence level.
        seed: Seed of the resampling.

    Returns:
        The ratio; ``n`` is the number of windows of the shorter series.

    Raises:
        ValueError: An array is empty, not one-dimensional or not all positive and finite, or level is out of range.
    """
    check_level(level)
    first, second = as_sample(a, "a"), as_sample(b, "b")
    for sample, name in ((first, "a"), (second, "b")):
        _check_times(sample, name)
    value, n = float(first.mean() / second.mean()), min(first.size, second.size)
    if n < 2:
        return Estimate(value, 0.0, math.inf, level, n)
    rng = np.random.default_rng(seed)
    ratios = _resampled_means(first, rng) / _resampled_means(second, rng)
    low, high = np.quantile(ratios, [(1 - level) / 2, (1 + level) / 2])
    return enclosing(value, low, high, level, n)


def _resampled_means(sample: NDArray[np.float64], rng: np.random.Generator) -> NDArray[np.float64]:
    means: NDArray[np.float64] = rng.choice(sample, (RESAMPLES, sample.size)).mean(axis=1)
    return means


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
