"""Bootstrap intervals of means, paired mean differences and any other statistic."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from hwbench.stats.estimate import Estimate, check_level, enclosing, unbounded

RESAMPLES = 2000
"""How many resamples stand behind an interval."""

BCA_LIMIT = 1000
"""Up to this many observations BCa is used. Its correction shrinks with 1/sqrt(n) while its cost grows with n²."""

_BATCH_ELEMENTS = 1 << 21
"""Resampled elements held at a time: 16 MiB of float64, and as much again of indices."""


def mean_interval(values: ArrayLike, level: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of per-input values with a bootstrap interval.

    BCa (bias-corrected and accelerated: Efron 1987, "Better bootstrap confidence intervals", JASA 82) up to `BCA_LIMIT`
    values, percentile above. Equal values give an interval of zero width; a single value, or values that are not all
    finite, give infinite bounds.

    Args:
        values: Array [inputs].
        level: Confidence level.
        seed: Seed of the resampling.

    Raises:
        ValueError: ``values`` is empty or not one-dimensional, or level is out of range.
    """
    check_level(level)
    sample = as_sample(values, "values")
    n = sample.size
    with np.errstate(invalid="ignore"):
        mean = float(sample.mean())
    if n < 2 or not np.isfinite(sample).all():
        return unbounded(mean, level, n)
    if sample.min() == sample.max():
        value = float(sample[0])
        return Estimate(value, value, value, level, n)
    with np.errstate(all="ignore"):  # the acceleration of values that differ by rounding alone is 0 / 0
        return _bootstrap(sample, np.mean, mean, level, seed, vectorized=True)


def paired_mean_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95, seed: int = 0) -> Estimate:
    """Mean of a - b over the same inputs, with the interval of `mean_interval` on the differences.

    Args:
        a: Array [inputs].
        b: Array [inputs], the same inputs in the same order.
        level: Confidence level.
        seed: Seed of the resampling.

    Raises:
        ValueError: An array is empty or not one-dimensional, their lengths differ, or level is out of range.
    """
    first, second = as_pairs(a, b)
    with np.errstate(invalid="ignore"):
        return mean_interval(first - second, level, seed)


def bootstrap_statistic(
    statistic: Callable[..., float], arrays: Sequence[ArrayLike], level: float = 0.95, seed: int = 0
) -> Estimate:
    """Any statistic of rows (R², RMSE, median, ...) with a bootstrap interval: BCa or percentile as in `mean_interval`.

    Rows of all the arrays are resampled together. A resample on which the statistic is not finite (R² of equal targets)
    means that there are too few rows to bound it: the bounds are infinite then.

    Args:
        statistic: Called with the arrays, or resampled rows of them; returns one number.
        arrays: Arrays [inputs, ...], all with the same number of rows.
        level: Confidence level.
        seed: Seed of the resampling.

    Raises:
        ValueError: There is no array, their numbers of rows differ or are zero, or level is out of range.
    """
    check_level(level)
    columns = [np.asarray(array) for array in arrays]
    rows = {array.shape[0] if array.ndim else 0 for array in columns}
    if len(rows) != 1 or rows == {0}:
        raise ValueError(f"arrays must share one non-zero number of rows; got shapes {[a.shape for a in columns]}")
    n = rows.pop()

    def resampled(index: NDArray[Any]) -> float:
        return float(statistic(*(array[index.astype(np.intp)] for array in columns)))

    with np.errstate(all="ignore"):
        value = float(statistic(*columns))
        if n < 2 or not np.isfinite(value):
            return unbounded(value, level, n)
        return _bootstrap(np.arange(n), resampled, value, level, seed, vectorized=False)


def as_sample(values: ArrayLike, name: str) -> NDArray[np.float64]:
    """``values`` as a non-empty one-dimensional float64 array, or ValueError."""
    array = np.asarray(values, dtype=np.float64)
    if array.ndim != 1 or array.size == 0:
        raise ValueError(f"{name} must be a non-empty one-dimensional array; got shape {array.shape}")
    return array


def as_pairs(a: ArrayLike, b: ArrayLike) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Two samples of one length, or ValueError."""
    first, second = as_sample(a, "a"), as_sample(b, "b")
    if first.size != second.size:
        raise ValueError(f"paired arrays have one value per input each; got {first.size} and {second.size}")
    return first, second


def _bootstrap(
    sample: NDArray[Any], statistic: Callable[..., Any], value: float, level: float, seed: int, *, vectorized: bool
) -> Estimate:
    n = sample.size
    options = {
        "confidence_level": level,
        "vectorized": vectorized,
        "batch": max(1, _BATCH_ELEMENTS // n),
        "rng": np.random.default_rng(seed),
    }
    with warnings.catch_warnings():
        # Degenerate resamples are recognised below, by bounds that are not finite.
        warnings.simplefilter("ignore", scipy.stats.DegenerateDataWarning)
        percentile = scipy.stats.bootstrap((sample,), statistic, n_resamples=RESAMPLES, method="percentile", **options)
        if not np.isfinite(percentile.bootstrap_distribution).all():
            return unbounded(value, level, n)
        low, high = percentile.confidence_interval
        if n <= BCA_LIMIT:
            bca = scipy.stats.bootstrap(
                (sample,), statistic, n_resamples=0, method="BCa", bootstrap_result=percentile, **options
            )
            # BCa is undefined where all resamples lie on one side of the value or leaving a row out changes nothing.
            if np.isfinite(bca.confidence_interval).all():
                low, high = bca.confidence_interval
    return enclosing(value, low, high, level, n)
