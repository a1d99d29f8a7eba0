"""Timings within one process: the ratio of two series."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwbench.stats.estimate import Estimate, check_level, enclosing
from hwbench.stats.resampling import RESAMPLES, as_sample


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


def _check_times(sample: np.ndarray, name: str) -> None:
    if not (np.isfinite(sample).all() and (sample > 0).all()):
        raise ValueError(f"{name} must hold positive, finite times; smallest is {sample.min()}, largest {sample.max()}")
