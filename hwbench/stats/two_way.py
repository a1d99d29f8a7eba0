"""A mean over draws x inputs with an interval that generalises to other draws and other inputs."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from hwbench.stats.estimate import Estimate, check_level, enclosing, unbounded
from hwbench.stats.resampling import RESAMPLES

_BLOCK_ELEMENTS = 1 << 21
"""Elements of a float64 work array: 16 MiB."""


def two_way_bootstrap(matrix: ArrayLike, level: float = 0.95, seed: int = 0, resamples: int = RESAMPLES) -> Estimate:
    """Mean of a draws x inputs matrix with a pigeonhole bootstrap interval.

    Every resample draws rows and columns with replacement, independently: m* = Σ w_d v_i x_di / DI with multinomial
    weights w and v. Owen (2007), "The pigeonhole bootstrap", Annals of Applied Statistics 1. An interval over inputs or
    draws alone would be far too narrow: all inputs of a draw share its faults, and draws are bimodal (harmless, or the
    model collapses). The interval is the percentile one, expanded for few draws: its tail is Φ(-sqrt(m/(m-1)) t) with t
    Student's quantile of m-1 degrees of freedom, m = min(D, I). Hesterberg (2015), "What teachers should know about the
    bootstrap", The American Statistician 69.

    What no draw hit is not in the interval: of a matrix of equal values it has zero width, though with D draws an
    outcome of probability `exact_upper(0, D).high` may have gone unseen. With one draw or one input, or with values
    that are not all finite, the bounds are infinite.

    Peak memory beyond the matrix: at most four work arrays of 16 MiB, or of I float64 each where that is more. Integer
    and bool matrices are converted block by block.

    Args:
        matrix: Array [draws, inputs] of floats, integers or bools.
        level: Confidence level.
        seed: Seed of the resampling.
        resamples: How many resamples.

    Returns:
        The estimate; ``n`` is draws x inputs.

    Raises:
        ValueError: The matrix is not two-dimensional or is empty, or level is out of range.
    """
    check_level(level)
    data = np.asarray(matrix)
    if data.ndim != 2 or data.size == 0:
        raise ValueError(f"expected a non-empty matrix [draws, inputs]; got shape {data.shape}")
    with np.errstate(invalid="ignore"):
        mean = float(data.mean(dtype=np.float64))
    fewest = min(data.shape)
    if fewest < 2 or not math.isfinite(mean):
        return unbounded(mean, level, data.size)
    if data.min() == data.max():
        value = float(data.flat[0])
        return Estimate(value, value, value, level, data.size)
    tail = _expanded_tail(level, fewest)
    low, high = np.quantile(resampled_means(data, seed, resamples), [tail, 1 - tail])
    return enclosing(mean, low, high, level, data.size)


def two_way_statistic(
    statistic: Callable[..., Any],
    matrices: Sequence[ArrayLike],
    level: float = 0.95,
    seed: int = 0,
    resamples: int = RESAMPLES,
) -> Estimate:
    """A function of the means of several draws x inputs matrices, with the interval of `two_way_bootstrap`.

    All matrices are resampled with the same weights, so that what they share cancels: a ratio of two means, or the
    difference of two root mean squares over the same draws and inputs. A resample on which the statistic is not finite
    means that there are too few draws or inputs to bound it: the bounds are infinite then.

    Args:
        statistic: Called with one mean per matrix, then with one array [resamples] per matrix; works element by element.
        matrices: Finite arrays, each [draws, inputs] or broadcast to it.
        level: Confidence level.
        seed: Seed of the resampling.
        resamples: How many resamples.

    Returns:
        The estimate; ``n`` is draws x inputs.

    Raises:
        ValueError: The matrices do not broadcast to a non-empty one [draws, inputs], or level is out of range.
    """
    check_level(level)
    data = np.broadcast_arrays(*matrices)
    if data[0].ndim != 2 or data[0].size == 0:
        raise ValueError(f"expected non-empty matrices [draws, inputs]; got shape {data[0].shape}")
    n, fewest = data[0].size, min(data[0].shape)
    with np.errstate(all="ignore"):
        value = float(statistic(*(matrix.mean(dtype=np.float64) for matrix in data)))
        if fewest < 2 or not math.isfinite(value):
            return unbounded(value, level, n)
        spread = np.asarray(statistic(*(resampled_means(matrix, seed, resamples) for matrix in data)))
    if not np.isfinite(spread).all():
        return unbounded(value, level, n)
    tail = _expanded_tail(level, fewest)
    low, high = np.quantile(spread, [tail, 1 - tail])
    return enclosing(value, low, high, level, n)


def resampled_means(data: NDArray[Any], seed: int, resamples: int) -> NDArray[np.float64]:
    """The bootstrap distribution behind `two_way_bootstrap`: array [resamples] of means."""
    draws, inputs = data.shape
    chunk = max(1, min(resamples, _BLOCK_ELEMENTS // max(inputs, draws)))
    if chunk == resamples:
        rows, columns = _all_weights(seed, draws, inputs, resamples)
        sums: NDArray[np.float64] = np.einsum("ri,ri->r", rows @ data.astype(np.float64, copy=False), columns)
        return sums / np.float64(draws * inputs)
    row_rng, column_rng = _streams(seed)
    width = max(1, min(inputs, _BLOCK_ELEMENTS // draws))
    totals: NDArray[np.float64] = np.zeros(resamples)
    for first in range(0, resamples, chunk):
        count = min(chunk, resamples - first)
        row_weights = _weights(row_rng, count, draws)
        column_weights = _weights(column_rng, count, inputs)
        for start in range(0, inputs, width):
            part = slice(start, start + width)
            weighted = row_weights @ data[:, part].astype(np.float64, copy=False)
            totals[first : first + count] += np.einsum("ri,ri->r", weighted, column_weights[:, part])
    return totals / np.float64(draws * inputs)


def _streams(seed: int) -> tuple[np.random.Generator, np.random.Generator]:
    """One generator for rows and one for columns, so that the means do not depend on how resamples are cut into chunks."""
    rows, columns = np.random.default_rng(seed).spawn(2)
    return rows, columns


@lru_cache(maxsize=4)
def _all_weights(seed: int, draws: int, inputs: int, resamples: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """All weights at once, kept: a study asks for dozens of intervals of one shape, and the weights take most of the time."""
    rows, columns = _streams(seed)
    return _weights(rows, resamples, draws), _weights(columns, resamples, inputs)


def _weights(rng: np.random.Generator, count: int, size: int) -> NDArray[np.float64]:
    """Multinomial weights [count, size]: how often each of ``size`` items is drawn, with replacement."""
    weights = np.empty((count, size))
    for row in weights:
        # Counting uniform draws is an order of magnitude faster than `Generator.multinomial` with many categories.
        row[:] = np.bincount(rng.integers(0, size, size), minlength=size)
    return weights


def _expanded_tail(level: float, m: int) -> float:
    student = scipy.special.stdtrit(m - 1, (1 + level) / 2)
    return float(scipy.special.ndtr(-math.sqrt(m / (m - 1)) * student))
