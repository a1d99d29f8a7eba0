"""Figures of fault campaigns: means of bounded values, sample sizes, allocation over strata, inputs per fault."""

from __future__ import annotations

import math
from statistics import NormalDist
from typing import Any

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from hwbench.stats.estimate import Estimate, check_level, enclosing
from hwbench.stats.resampling import as_sample

Floats = NDArray[np.float64]


def leveugle(population: int, half_width: float, confidence: float = 0.95, p: float = 0.5) -> int:
    """How many faults, drawn uniformly, estimate a proportion to ± ``half_width``.

    n = N / (1 + e²(N-1) / (t² p(1-p))) with t the normal quantile. Leveugle, Calvez, Maistri and Vanhauwaert (2009),
    "Statistical fault injection: quantified error and confidence", DATE.

    Args:
        population: N, how many faults there are.
        half_width: e, half the width of the interval, above 0.
        confidence: Level of the interval.
        p: The proportion expected; 0.5 is the worst case.

    Raises:
        ValueError: An argument is out of range.
    """
    check_level(confidence)
    if population < 1 or half_width <= 0 or not 0 < p < 1:
        raise ValueError(f"need population >= 1, half_width > 0, 0 < p < 1; got {population}, {half_width}, {p}")
    t = NormalDist().inv_cdf((1 + confidence) / 2)
    return min(population, math.ceil(population / (1 + half_width**2 * (population - 1) / (t**2 * p * (1 - p)))))


def bounded_mean(values: ArrayLike, lower: float = 0.0, upper: float = 1.0, level: float = 0.95) -> Estimate:
    """Mean of independent values known to lie in [lower, upper], for skewed values with few events.

    The upper bound is the 1-α/2 quantile of Σ w_i x_i over the sample and one more value at ``upper``, the weights w
    uniform on the simplex (Dirichlet(1, ..., 1)); the lower bound likewise with one more value at ``lower``. Gaffke
    (2005), "Three test statistics for a nonparametric one-sided hypothesis on the mean of a nonnegative variable";
    Learned-Miller and Thomas (2019), "A new confidence interval for the mean of a bounded random variable",
    arXiv:1905.06208. Of values 0 and 1 it is the exact interval of Clopper and Pearson, with no event its upper bound is
    the rule of three; for large samples it approaches Student's. That it covers at its level for every bounded
    distribution is conjectured: no counter-example is known, and it is proven for two-valued ones.

    The tail of Σ w_i x_i is a linear combination of exponential variables, whose saddlepoint approximation (Lugannani
    and Rice 1980, Advances in Applied Probability 12) is explicit here; its error is below 1 % of the tail, towards
    wider intervals.

    Args:
        values: Array [n].
        lower, upper: What the values cannot exceed.
        level: Confidence level.

    Raises:
        ValueError: The array is empty or holds values outside the bounds, or level is out of range.
    """
    check_level(level)
    sample = as_sample(values, "values")
    slack = 1e-9 * max(1.0, abs(lower), abs(upper))
    if not (lower - slack <= sample.min() and sample.max() <= upper + slack):
        raise ValueError(f"values lie in [{lower}, {upper}] by definition; got {sample.min()} to {sample.max()}")
    distinct, counts = np.unique(np.clip(sample, lower, upper), return_counts=True)
    tail = (1 - level) / 2
    high = _dirichlet_quantile(distinct, counts, upper, tail)
    low = -_dirichlet_quantile(-distinct, counts, -lower, tail)
    return enclosing(float(sample.mean()), low, high, level, sample.size)


def _dirichlet_quantile(values: Floats, counts: NDArray[Any], extreme: float, tail: float) -> float:
    """The c that Σ w_i x_i exceeds with probability ``tail``, ``extreme`` counted as one more value.

    P(Σ w_i x_i > c) = P(Σ (x_i - c) G_i > 0) with exponential G. The saddlepoint s of c solves Σ 1/(1 - s(x_i - c)) = n;
    with η = c + 1/s both are functions of η > max x: s = mean of 1/(η - x_i), c = η - 1/s.
    """
    points = np.append(values, extreme)
    numbers = np.append(counts, 1).astype(np.float64)
    spread = extreme - float(points.min())
    if spread <= 0:
        return extreme
    total = numbers.sum()
    gaps = (extreme - points) / spread  # in [0, 1], 0 at the extreme

    def solve(log_eta: float) -> tuple[float, float]:
        distance = gaps + math.exp(log_eta)
        s = float((numbers / distance).sum() / total)
        scaled = s * distance
        centre = 1 / s - math.exp(log_eta)  # how far c lies below the extreme
        r = math.sqrt(max(2 * float((numbers * np.log(scaled)).sum()), 0.0))
        v = s * math.sqrt(float((numbers * ((centre - gaps) / scaled) ** 2).sum()))
        density = math.exp(-r * r / 2) / math.sqrt(2 * math.pi)
        probability = NormalDist().cdf(-r) + density * (1 / v - 1 / r) if r > _SMALL else 0.5
        return probability - tail, centre

    log_eta = scipy.optimize.brentq(lambda x: solve(x)[0], -30.0, math.log(total) + 12, xtol=1e-10)
    return extreme - spread * solve(log_eta)[1]


_SMALL = 1e-4
