"""Figures of fault campaigns: means of bounded values, numbers of trials."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from hwbench.stats.estimate import Estimate, check_level, enclosing
from hwbench.stats.resampling import as_sample

_STANDARD = NormalDist()


def leveugle(population: int, half_width: float, confidence: float = 0.95, p: float = 0.5) -> int:
    """How many faults, drawn uniformly, estimate a proportion to ± ``half_width``.

    n = N / (1 + e²(N-1) / (t² p(1-p))) with t the normal quantile. Leveugle, Calvez, Maistri and Vanhauwaert (2009),
    "Statistical fault injection: quantified error and confidence", DATE.

    Args:
        population: N, how many faults there are.
        half_width: e, half the interval's width, above 0.
        confidence: Level of the interval.
        p: The proportion expected; 0.5 is the worst case.

    Raises:
        ValueError: An argument is out of range.
    """
    check_level(confidence)
    if population < 1 or half_width <= 0 or not 0 < p < 1:
        raise ValueError(f"need population >= 1, half_width > 0 and 0 < p < 1; got {population}, {half_width}, {p}")
    t = _STANDARD.inv_cdf((1 + confidence) / 2)
    return math.ceil(population / (1 + half_width**2 * (population - 1) / (t**2 * p * (1 - p))))


def bounded_mean(values: ArrayLike, lower: float = 0.0, upper: float = 1.0, level: float = 0.95) -> Estimate:
    """Mean of independent values known to lie in [lower, upper]; made for skewed values with few events.

    The upper bound is the 1-α/2 quantile of Σ w_i x_i over the sample and one more value at ``upper``, with weights w
    uniform on the simplex (Dirichlet(1, ..., 1)); the lower bound has one more value at ``lower``. Gaffke (2005), "Three
    test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable", Mathematical Methods
    of Statistics 14; Learned-Miller and Thomas (2019), "A new confidence interval for the mean of a bounded random
    variable", arXiv:1905.06208. For values of 0 and 1 it is the exact interval of Clopper and Pearson (without an event:
    the rule of three), for many values it approaches Student's. Its coverage is proven for two-valued variables and
    conjectured, with no counter-example known, for all bounded ones.

    The tail is that of a linear combination of exponential variables, taken from its saddlepoint approximation
    (Lugannani and Rice 1980, Advances in Applied Probability 12), whose error is below 1 % of the bound's distance, and
    towards the wider interval.

    Args:
        values: Array [n].
        lower: What the values cannot fall below.
        upper: What the values cannot exceed.
        level: Confidence level, at least 0.5.

    Raises:
        ValueError: The array is empty or holds values outside the bounds, or level is out of range.
    """
    check_level(level)
    if level < 0.5:
        raise ValueError(f"this interval is made for confidence levels from 0.5; got {level}")
    sample = as_sample(values, "values")
    slack = 1e-9 * (upper - lower)
    if not (lower - slack <= sample.min() and sample.max() <= upper + slack):
        raise ValueError(f"values must lie in [{lower}, {upper}]; got {sample.min()} to {sample.max()}")
    distinct, counts = np.unique(np.clip(sample, lower, upper), return_counts=True)
    tail = (1 - level) / 2
    high = dirichlet_quantile(distinct, counts, upper, tail)
    low = -dirichlet_quantile(-distinct, counts, -lower, tail)
    return enclosing(float(sample.mean()), low, high, level, sample.size)


def finite_population(fraction: float) -> float:
    """What an interval's width shrinks by where ``fraction`` of the population was tried, without replacement.

    f / -log(1-f), the logarithmic mean of 1 and 1-f: exact for the upper bound of a sample without an event (there the
    chance to miss K events is (1-f)^K), and above the sqrt(1-f) of normal theory everywhere, so on the safe side.
    """
    if fraction >= 1:
        return 0.0
    return fraction / -math.log1p(-fraction) if fraction > 0 else 1.0


@dataclass(frozen=True)
class Spread:
    """What a planned trial's value is expected to do: enough to foresee the width of `bounded_mean`.

    Attributes:
        variance, third: Central moments of the value.
        below, above: How far the value's bounds lie from its mean.
        population: How many trials there are to draw from, without replacement.
    """

    variance: float
    third: float
    below: float
    above: float
    population: float = math.inf

    def half_width(self, n: int, level: float) -> float:
        """The half-width to expect after ``n`` trials, by a Cornish-Fisher expansion to third order."""
        width = self._distance(n, level, self.above, self.third) + self._distance(n, level, self.below, -self.third)
        return width / 2 * finite_population(n / self.population)

    def trials(self, half_width: float, level: float) -> int:
        """The smallest number of trials after which the half-width is at most this, to 0.5 %."""
        few, many = 0, 1
        while self.half_width(many, level) > half_width:
            few, many = many, 2 * many
        while many - few > max(1, many // 200):
            middle = (few + many) // 2
            few, many = (middle, many) if self.half_width(middle, level) > half_width else (few, middle)
        return many

    def _distance(self, n: int, level: float, extreme: float, third: float) -> float:
        """How far one bound lies from the mean."""
        z = _STANDARD.inv_cdf((1 + level) / 2)
        deviation = math.sqrt(self.variance / n + (extreme / n) ** 2)
        if deviation == 0:
            return 0.0
        skewness = 2 * (third / n**2 + (extreme / n) ** 3) / deviation**3
        return extreme / n + deviation * (z + skewness * (z * z - 1) / 6)


def dirichlet_quantile(values: NDArray[Any], counts: NDArray[Any], extreme: float, tail: float) -> float:
    """The c that Σ w_i x_i exceeds with probability ``tail``, where ``extreme`` counts as one more value.

    P(Σ w_i x_i > c) = P(Σ (x_i - c) G_i > 0) with exponential G, whose saddlepoint s solves Σ 1/(1 - s(x_i - c)) = n.
    Seen as functions of η = c + 1/s > max x, s = mean of 1/(η - x_i) and c = η - 1/s are explicit. Where all values are equal,
    the weight of the extreme is Beta(1, n) distributed: the rule of three, exactly.
    """
    points, numbers = np.append(values, extreme), np.append(counts, 1).astype(np.float64)
    spread = extreme - float(points.min())
    if spread <= 0:
        return extreme
    if values.size == 1:
        return extreme - spread * math.exp(math.log(tail) / float(counts[0]))
    gaps = (extreme - points) / spread
    total = float(numbers.sum())

    def at(log_eta: float) -> tuple[float, float]:
        """The tail's probability and the distance of c from the extreme, in units of the spread."""
        eta = math.exp(log_eta)
        ratios = 1 / (gaps + eta)
        s = float(numbers @ ratios) / total
        # 1/(1 - s(x - c)) - 1, of mean 0. Written in it, neither r nor v loses digits where values hardly differ.
        d = ratios / s - 1
        r = math.sqrt(2 * max(0.0, float(numbers @ (d - np.log1p(d)))))
        v = math.sqrt(float(numbers @ d**2))
        probability = _STANDARD.cdf(-r) + _STANDARD.pdf(r) * (1 / v - 1 / r) if r > _FLAT else 0.5
        return probability, 1 / s - eta

    log_eta = scipy.optimize.brentq(lambda x: at(x)[0] - tail, -_STEEPEST, math.log(total) + 12, xtol=1e-10)
    return extreme - spread * at(log_eta)[1]


_FLAT = 1e-4
"""Below this distance from the mean, in standard deviations, the tail is a half."""

_STEEPEST = 34.0
"""exp(-34) is the precision of a float64: nearer to the extreme η cannot come."""
