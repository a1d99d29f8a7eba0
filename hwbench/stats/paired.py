"""Two proportions measured on the same inputs: their difference with its interval, and an exact test."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from hwbench.stats.estimate import Estimate, check_level, enclosing
from hwbench.stats.proportions import proportion


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
    """Difference mean(a) - mean(b) of two paired proportions with Tango's score interval.

    The bounds are the two δ at which (x - y - nδ) / sqrt(n(2q + δ(1-δ))) = ±z, where x and y count the inputs on which
    only a and only b hold, z is the normal quantile, and q, the probability of y's cell, is its maximum-likelihood
    estimate under δ: q = (sqrt(B² - 4AC) - B) / 2A with A = 2n, B = (2n - x + y)δ - x - y, C = -yδ(1-δ). Tango (1998),
    "Equivalence test and confidence interval for the difference in proportions for the paired-sample design",
    Statistics in Medicine 17, 891-908. At δ = 0 the statistic is McNemar's. Unlike a Wald interval it has a width where
    no pair disagrees: ±z²/(n + z²).

    Args:
        a: Bool array [inputs], e.g. "correct" under one build.
        b: The same under another, the same inputs in the same order.
        level: Confidence level.

    Raises:
        ValueError: The arrays are not bool, not one-dimensional, empty or of unequal length, or level is out of range.
    """
    check_level(level)
    table = _count(a, b)
    z = _normal_quantile(level)
    low = _tango_low(table.only_a, table.only_b, table.n, z)
    high = -_tango_low(table.only_b, table.only_a, table.n, z)
    return enclosing(table.difference, low, high, level, table.n)


def newcombe_paired(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Estimate:
    """Difference mean(a) - mean(b) of two paired proportions with Newcombe's hybrid score interval (his method 10).

    With Wilson's intervals (l, u) of both proportions and φ their correlation in the 2x2 table, its numerator corrected
    for continuity where positive: low = d - sqrt((pa-la)² - 2φ(pa-la)(ub-pb) + (ub-pb)²), high alike with the roles
    swapped. Newcombe (1998), "Improved confidence intervals for the difference between binomial proportions based on
    paired data", Statistics in Medicine 17, 2635-2650. Arguments and errors as in `paired_difference`.
    """
    table = _count(a, b)
    first = proportion(table.both + table.only_a, table.n, level)
    second = proportion(table.both + table.only_b, table.n, level)
    phi = _newcombe_phi(table)

    def reach(x: float, y: float) -> float:
        return math.sqrt(max(0.0, x * x - 2 * phi * x * y + y * y))

    low = table.difference - reach(first.value - first.low, second.high - second.value)
    high = table.difference + reach(first.high - first.value, second.value - second.low)
    return enclosing(table.difference, low, high, level, table.n)


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


def _tango_low(x: int, y: int, n: int, z: float) -> float:
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


def _newcombe_phi(table: _Table) -> float:
    margins = (
        (table.both + table.only_a)
        * (table.only_b + table.neither)
        * (table.both + table.only_b)
        * (table.only_a + table.neither)
    )
    if margins == 0:
        return 0.0
    determinant: float = table.both * table.neither - table.only_a * table.only_b
    if determinant > 0:
        determinant = max(determinant - table.n / 2, 0.0)
    return determinant / math.sqrt(margins)
