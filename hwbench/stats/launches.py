"""Figures over launches: a timing of several fresh processes, and the ratio of two measured in the same blocks.

A process keeps its memory layout, its threads' placement and often its clock for life, so that runs within one process agree
better with each other than with the next process's. The unit of replication is the launch. Kalibera and Jones (2013),
"Rigorous benchmarking in reasonable time", ISMM; pyperf starts 20 processes for the same reason.

Timings are positive and skewed, and their disturbances are proportional: all intervals here are Student's on logarithms, and
the figures geometric means. A slow mode that none of the launches met is in no interval.
"""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from hwbench.stats.estimate import Estimate, check_level
from hwbench.stats.resampling import as_pairs, as_sample


def over_launches(values: ArrayLike, pilot: int = 0, level: float = 0.95) -> Estimate:
    """Geometric mean of one figure per launch, with an interval from the spread between launches.

    The interval is exp(m ± t·s/sqrt(n)) for the mean m and the standard deviation s of the logarithms, t Student's quantile of
    n - 1 degrees of freedom. Where the number of launches was chosen by the spread of the first ``pilot`` ones
    (`launches_needed`), an interval from all of them would be too narrow; Stein's two-stage interval, with the pilot's t and s
    over sqrt(n), is exact then, and the wider of both is given. Stein (1945), "A two-sample test for a linear hypothesis
    whose power is independent of the variance", Annals of Mathematical Statistics 16. With one launch the interval is (0, inf).

    Args:
        values: Array [launches] of positive figures, in the order of the launches.
        pilot: Launches after which the total was chosen; 0 if it was fixed.
        level: Confidence level.

    Raises:
        ValueError: ``values`` is empty, not one-dimensional or not all positive and finite, or level is out of range.
    """
    check_level(level)
    logs = np.log(_positive(values, "values"))
    mean, half = float(logs.mean()), _half_width(logs, pilot, level)
    return Estimate(math.exp(mean), math.exp(mean - half), _exp(mean + half), level, logs.size)


def ratio_over_launches(a: ArrayLike, b: ArrayLike, pilot: int = 0, level: float = 0.95) -> Estimate:
    """Typical ratio a/b over blocks in which both were launched.

    What changes the machine's speed for longer than a block is in both figures of a pair and cancels. A single launch in a slow
    mode does not: from 6 blocks on, the estimate is Hodges and Lehmann's, the median of the Walsh averages of the log ratios,
    with Wilcoxon's exact signed-rank interval, which some such launches do not widen. Hollander, Wolfe and Chicken (2014),
    "Nonparametric statistical methods", 3rd ed., sections 3.2 and 3.3. Up to 5 blocks, too few for that, it is the geometric
    mean with the interval of `over_launches`.

    Args:
        a: Array [blocks] of positive figures.
        b: Array [blocks]; a[i] and b[i] are of the same block.
        pilot: Blocks after which their number was chosen; 0 if it was fixed.
        level: Confidence level.

    Raises:
        ValueError: As in `over_launches`, or the lengths differ.
    """
    check_level(level)
    first, second = as_pairs(a, b)
    ratios = _positive(first, "a") / _positive(second, "b")
    logs, rank = np.log(ratios), _signed_rank(ratios.size, (1 - level) / 2)
    if rank == 0:
        return over_launches(ratios, pilot, level)
    rows, columns = np.triu_indices(logs.size)
    walsh = np.sort((logs[rows] + logs[columns]) / 2)
    value, low, high = (float(np.exp(bound)) for bound in (np.median(walsh), walsh[rank - 1], walsh[-rank]))
    return Estimate(value, low, high, level, logs.size)


def _signed_rank(n: int, tail: float) -> int:
    """The largest k with P(T < k) ≤ ``tail`` for Wilcoxon's signed-rank statistic T of n pairs; 0 if there is none above 0."""
    counts = np.ones(1)
    for rank in range(1, n + 1):  # each rank is in the sum or not, with equal probability
        grown = np.zeros(counts.size + rank)
        grown[: counts.size] += counts / 2
        grown[rank:] += counts / 2
        counts = grown
    return int(np.searchsorted(np.cumsum(counts), tail, side="right"))


def ratio_of_launches(a: ArrayLike, b: ArrayLike, level: float = 0.95) -> Estimate:
    """Ratio of the geometric means of two independent sets of launches, with Welch's interval on logarithms.

    Welch (1947), "The generalization of Student's problem when several different population variances are involved",
    Biometrika 34. It does not know what changed between the two measurements but the builds: a machine that was slower on
    the second day is in the ratio. `ratio_over_launches` is for launches of the same blocks.

    Args:
        a: Array [launches] of positive figures.
        b: Array [launches], independent of ``a``.
        level: Confidence level.

    Raises:
        ValueError: As in `over_launches`.
    """
    check_level(level)
    first, second = np.log(_positive(a, "a")), np.log(_positive(b, "b"))
    difference, n = float(first.mean() - second.mean()), min(first.size, second.size)
    if n < 2:
        return Estimate(math.exp(difference), 0.0, math.inf, level, n)
    variances = [sample.var(ddof=1) / sample.size for sample in (first, second)]
    variance = float(sum(variances))
    if variance == 0:
        return Estimate(math.exp(difference), math.exp(difference), math.exp(difference), level, n)
    spread = sum(part**2 / (sample.size - 1) for part, sample in zip(variances, (first, second), strict=True))
    half = _student(variance**2 / spread, level) * math.sqrt(variance)
    return Estimate(math.exp(difference), math.exp(difference - half), _exp(difference + half), level, n)


def launches_needed(values: ArrayLike, precision: float, most: int, level: float = 0.95) -> int:
    """Launches after which the interval of `over_launches` is within ± ``precision`` of its figure, by a pilot's spread.

    Stein's rule: the smallest n, no fewer than the pilot's and at most ``most``, with t_(pilot-1)·s_pilot/sqrt(n) ≤
    log(1 + precision).

    Args:
        values: Array [pilot] of positive figures; for a ratio, the ratios by block.
        precision: The half-width wanted, as a share of the figure.
        most: The largest number that is allowed.
        level: Confidence level.
    """
    logs = np.log(_positive(values, "values"))
    if logs.size < 2:
        return most
    reach = _student(logs.size - 1, level) * float(logs.std(ddof=1)) / math.log1p(precision)
    return min(most, max(logs.size, math.ceil(reach**2)))


def share_between(values: ArrayLike, within: ArrayLike) -> float:
    """Share of a figure's variance over launches that lies between launches rather than within them.

    The variance of the launches' logarithms holds both; what the launches' own uncertainty explains is taken off (the method
    of moments of a one-way random-effects model). Searle, Casella and McCulloch (1992), "Variance components", chapter 3.

    Args:
        values: Array [launches] of positive figures.
        within: Array [launches], the variance of each figure's logarithm within its launch.

    Returns:
        Between 0 and 1; NaN with one launch or equal figures.
    """
    logs = np.log(_positive(values, "values"))
    total = float(logs.var(ddof=1)) if logs.size > 1 else math.nan
    return max(0.0, 1 - float(as_sample(within, "within").mean()) / total) if total > 0 else math.nan


def _half_width(logs: NDArray[np.float64], pilot: int, level: float) -> float:
    n = logs.size
    if n < 2:
        return math.inf
    half = _student(n - 1, level) * float(logs.std(ddof=1))
    if 2 <= pilot < n:
        half = max(half, _student(pilot - 1, level) * float(logs[:pilot].std(ddof=1)))
    return half / math.sqrt(n)


def _student(freedom: float, level: float) -> float:
    return float(scipy.special.stdtrit(freedom, (1 + level) / 2))


def _exp(value: float) -> float:
    return math.exp(value) if value < 700 else math.inf  # beyond what a float holds


def _positive(values: ArrayLike, name: str) -> NDArray[np.float64]:
    sample = as_sample(values, name)
    if not (np.isfinite(sample).all() and (sample > 0).all()):
        raise ValueError(
            f"{name} must hold positive, finite figures; smallest is {sample.min()}, largest {sample.max()}"
        )
    return sample
