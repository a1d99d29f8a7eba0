"""Quantiles with distribution-free intervals."""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike

from hwbench.stats.estimate import Estimate, check_level, enclosing
from hwbench.stats.resampling import as_sample


def quantile(values: ArrayLike, q: float, level: float = 0.95) -> Estimate:
    """The q-quantile of values with its order-statistic interval, which assumes no distribution.

    The number of n values below the true quantile is binomial(n, q): the bounds are the sorted values x(l) and x(u)
    with the largest l and smallest u such that P(B < l) and P(B >= u) are at most (1-level)/2 each. Conover (1999),
    "Practical nonparametric statistics", 3rd ed., section 3.2. A bound that would lie beyond the smallest or the
    largest value does not exist and is infinite: the 99th percentile of 50 values has no upper bound. `minimum_samples`
    says how many values both bounds need.

    The value itself is interpolated linearly between order statistics (Hyndman and Fan's type 7, numpy's default).

    Args:
        values: Array [samples], finite.
        q: The quantile, in (0, 1).
        level: Confidence level.

    Raises:
        ValueError: ``values`` is empty, not one-dimensional or not finite, or q or level is out of range.
    """
    _check(q, level)
    sample = as_sample(values, "values")
    if not np.isfinite(sample).all():
        raise ValueError("a quantile needs finite values; drop or report the others first")
    bounds = scipy.stats.quantile_test(sample, q=0, p=q).confidence_interval(level)
    low = -math.inf if math.isnan(bounds.low) else bounds.low
    high = math.inf if math.isnan(bounds.high) else bounds.high
    return enclosing(np.quantile(sample, q), low, high, level, sample.size)


def minimum_samples(q: float, level: float = 0.95) -> int:
    """The fewest values with which both bounds of `quantile` exist.

    The smallest n with max(q, 1-q)^n < (1-level)/2: 6 for the median, 368 for the 99th percentile at 95 %.

    Raises:
        ValueError: q or level is out of range.
    """
    _check(q, level)
    return math.floor(math.log((1 - level) / 2) / math.log(max(q, 1 - q))) + 1


def _check(q: float, level: float) -> None:
    check_level(level)
    if not 0 < q < 1:
        raise ValueError(f"a quantile lies between 0 and 1, e.g. 0.99; got {q}")
