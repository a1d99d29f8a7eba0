"""Series of timings: intervals that allow for the dependence of neighboring values."""

from __future__ import annotations

import math

import numpy as np
import scipy
from numpy.typing import ArrayLike, NDArray

from hwbench.stats.estimate import Estimate, check_level, enclosing
from hwbench.stats.resampling import as_sample


def series_quantile(values: ArrayLike, q: float, level: float = 0.95) -> Estimate:
    """The q-quantile of a series whose neighboring values depend on each other.

    The order-statistic interval of `quantile` with the effective number of values n/τ in place of n, where τ is the
    `correlation_time` of the indicator "value is at most the quantile". A tail's indicator shows the dependence late, so the
    median's τ is used where it is larger; τ's own uncertainty, about 2τ·sqrt(τ/n), is added (Sokal 1997, "Monte Carlo
    methods in statistical mechanics", section 3). The tests simulate the coverage on autoregressive series of 2,000 values
    with coefficients up to 0.99. A bound for which the effective values do not suffice is infinite.

    Args:
        values: Array [samples], finite, in the order in which they were measured.
        q: The quantile, in (0, 1).
        level: Confidence level.

    Returns:
        The estimate; ``n`` is the number of values, not the effective one.

    Raises:
        ValueError: As in `quantile`.
    """
    check_level(level)
    if not 0 < q < 1:
        raise ValueError(f"a quantile lies between 0 and 1, e.g. 0.99; got {q}")
    sample = as_sample(values, "values")
    if not np.isfinite(sample).all():
        raise ValueError("a quantile needs finite values; drop or report the others first")
    n, tail = sample.size, (1 - level) / 2
    time = max(correlation_time(sample <= np.quantile(sample, share)) for share in {q, 0.5})
    effective = max(1, int(n / (time * (1 + 2 * math.sqrt(time / n)))))
    ordered = np.sort(sample)
    below = int(scipy.stats.binom.ppf(tail, effective, q))
    above = int(scipy.stats.binom.isf(tail, effective, q)) + 1
    low = ordered[math.floor(below * n / effective) - 1] if below > 0 else -math.inf
    high = ordered[math.ceil(above * n / effective) - 1] if above <= effective else math.inf
    return enclosing(np.quantile(sample, q), low, high, level, n)


def correlation_time(values: ArrayLike) -> float:
    """Integrated autocorrelation time: the number of values in a series that are worth one independent value.

    Geyer's initial monotone sequence estimator: sums of neighboring autocovariances, as long as they are positive and made
    to fall. Geyer (1992), "Practical Markov chain Monte Carlo", Statistical Science 7. At least 1.

    Args:
        values: Array [samples] in the order in which they were measured.
    """
    sample = as_sample(values, "values")
    n, centered = sample.size, sample - sample.mean()
    spectrum = np.fft.rfft(centered, 1 << (2 * n - 1).bit_length())
    covariance: NDArray[np.float64] = np.fft.irfft(spectrum * np.conj(spectrum))[:n]
    if n < 4 or covariance[0] <= 0:
        return 1.0
    pairs = covariance[0 : n - 1 : 2] + covariance[1:n:2]
    negative = np.flatnonzero(pairs <= 0)
    positive = np.minimum.accumulate(pairs[: negative[0] if negative.size else None])
    return max(1.0, 2 * float(positive.sum()) / float(covariance[0]) - 1)


def log_mean_variance(values: ArrayLike) -> float:
    """Variance of the logarithm of a series' mean: var·τ/n over the mean squared (delta method)."""
    sample = as_sample(values, "values")
    return float(sample.var()) * correlation_time(sample) / sample.size / float(sample.mean()) ** 2


def log_quantile_variance(values: ArrayLike, q: float) -> float:
    """Variance of the logarithm of a series' quantile, by the width of its 68 % interval; infinite where that is open."""
    estimate = series_quantile(values, q, level=0.6827)
    bounded = estimate.low > 0 and math.isfinite(estimate.high)
    return (math.log(estimate.high / estimate.low) / 2) ** 2 if bounded else math.inf
