"""Two proportions measured on the same inputs: their difference with its interval, and an exact test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from hwbench.stats.estimate import Estimate, check_level, enclosing
from hwbench.stats.proportions import exact_bounds

_BONFERRONI_BELOW = 10
"""Inputs from which on `discordant_bounds` needs no Bonferroni correction, by exact enumeration."""


@dataclass(frozen=True)
class _Table:
    """The paired 2x2 table: inputs on which both hold, only a, only b, neither."""

    both: int
    only_a: int
    only_b: int
    neither: int

    @property
    def n(self) -> int:
        return self.both + self.only_a + self.only_b + self.neither

    @property
    def difference(self) -> float:
        return (self.only_a - self.only_b) / self.n


def paired_difference(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Estimate:
    """Difference mean(a) - mean(b) of two paired proportions with the interval of `discordant_bounds`.

    Args:
        a: Bool array [inputs], e.g. "correct" under one build.
        b: The same under another, the same inputs in the same order.
        level: Confidence level.

    Raises:
        ValueError: The arrays are not bool, not one-dimensional, empty or of unequal length, or level is out of range.
    """
    check_level(level)
    table = _count(a, b)
    low, high = discordant_bounds(table.only_a, table.only_b, table.n, level)
    return enclosing(table.difference, low, high, level, table.n)


def discordant_bounds(only_a: float, only_b: float, n: float, level: float = 0.95) -> tuple[float, float]:
    """Bounds of the difference of two paired proportions, from the counts of inputs on which only one of them holds.

    The wider, bound by bound, of two intervals:

    - Tango's score interval: the two δ at which (x - y - nδ) / sqrt(n(2q + δ(1-δ))) = ±z, where x and y are the counts,
      z is the normal quantile, and q, the probability of y's cell, is its maximum-likelihood estimate under δ:
      q = (sqrt(B² - 4AC) - B) / 2A with A = 2n, B = (2n - x + y)δ - x - y, C = -yδ(1-δ). Tango (1998), "Equivalence test
      and confidence interval for the difference in proportions for the paired-sample design", Statistics in Medicine 17.
    - The exact intervals (l, u) of both cells' probabilities combined for their difference: low = d - sqrt((x/n-l)² -
      2ρ(x/n-l)(u-y/n) + (u-y/n)²), high alike with the roles swapped, ρ the correlation of the two counts in the
      multinomial. Zou and Donner (2008), "Construction of confidence limits about effect measures", Statistics in
      Medicine 27.

    By exact enumeration Tango's alone covers with 0.93 of 0.95 where few inputs disagree, one of its tails with 0.053 in
    place of 0.025, and each of the two less where nearly all disagree; both together cover at the level from 10 inputs on.
    Of fewer, the two exact intervals at half the error are combined by Bonferroni's inequality.

    Args:
        only_a: Inputs on which only the first holds; an expected count need not be whole.
        only_b: Inputs on which only the second holds.
        n: Inputs.
        level: Confidence level.
    """
    if n < _BONFERRONI_BELOW:
        (low_a, high_a), (low_b, high_b) = (exact_bounds(count, n, (1 - level) / 4) for count in (only_a, only_b))
        return low_a - high_b, high_a - low_b
    z = _normal_quantile(level)
    low = min(_tango_low(only_a, only_b, n, z), _combined_low(only_a, only_b, n, level))
    high = min(_tango_low(only_b, only_a, n, z), _combined_low(only_b, only_a, n, level))
    return low, -high


def mcnemar_exact(a: ArrayLike, b: ArrayLike) -> float:
    """Two-sided exact p-value of "a and b hold equally often": a binomial test of the disagreeing pairs at 1/2.

    1.0 where no pair disagrees. McNemar (1947), "Note on the sampling error of the difference between correlated
    proportions or percentages", Psychometrika 12. Arguments and errors as in `paired_difference`.
    """
    table = _count(a, b)
    disagreeing = table.only_a + table.only_b
    if disagreeing == 0:
        return 1.0
    return float(scipy.stats.binomtest(table.only_a, disagreeing, 0.5).pvalue)


def _count(a: ArrayLike, b: ArrayLike) -> _Table:
    first, second = _as_bool(a, "a"), _as_bool(b, "b")
    if first.size != second.size:
        raise ValueError(f"paired arrays have one value per input each; got {first.size} and {second.size}")
    both = int(np.count_nonzero(first & second))
    only_a, only_b = int(np.count_nonzero(first)) - both, int(np.count_nonzero(second)) - both
    return _Table(both, only_a, only_b, first.size - both - only_a - only_b)


def _as_bool(values: ArrayLike, name: str) -> NDArray[np.bool_]:
    array = np.asarray(values)
    if array.dtype != np.bool_ or array.ndim != 1 or array.size == 0:
        raise ValueError(
            f"{name} must be a non-empty one-dimensional bool array (e.g. prediction == label); "
            f"got {array.dtype} of shape {array.shape}"
        )
    return array


def _normal_quantile(level: float) -> float:
    return float(scipy.special.ndtri((1 + level) / 2))


def _combined_low(x: float, y: float, n: float, level: float) -> float:
    """The lower bound from the cells' exact intervals; the upper one is minus the lower bound with x and y swapped."""
    tail = (1 - level) / 2
    below, above = x / n - exact_bounds(x, n, tail)[0], exact_bounds(y, n, tail)[1] - y / n
    correlation = -math.sqrt(x * y / ((n - x) * (n - y))) if max(x, y) < n else 0.0
    reach = math.sqrt(below**2 - 2 * correlation * below * above + above**2)
    return max(-1.0, (x - y) / n - reach)


def _tango_low(x: float, y: float, n: float, z: float) -> float:
    """The lower bound; the upper one is minus the lower bound with x and y swapped.

    Where the variance vanishes at the estimate (no pair disagrees, or all do in one direction) the estimate is a
    second, spurious root of the equation solved below; there the true one has a closed form.
    """
    if x == y == 0:
        return -z * z / (n + z * z)
    if x == n:
        return (n - z * z) / (n + z * z)
    if y == n:
        return -1.0

    def excess(delta: float) -> float:
        b = (2 * n - x + y) * delta - x - y
        c = -y * delta * (1 - delta)
        q = (math.sqrt(max(0.0, b * b - 8 * n * c)) - b) / (4 * n)
        variance = n * (2 * q + delta * (1 - delta))
        return x - y - n * delta - z * math.sqrt(max(0.0, variance))

    return float(scipy.optimize.brentq(excess, -1.0, (x - y) / n, xtol=1e-12))
