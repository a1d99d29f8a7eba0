"""Intervals of one proportion."""

from __future__ import annotations

import scipy

from hwbench.stats.estimate import Estimate, check_level, enclosing


def proportion(k: int, n: int, level: float = 0.95) -> Estimate:
    """Proportion k/n with the exact two-sided interval, which covers at least at its level whatever the proportion.

    Bounds are the beta quantiles B(α/2; k, n-k+1) and B(1-α/2; k+1, n-k). Clopper and Pearson (1934), "The use of
    confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26. Each bound by itself errs with
    probability α/2 at most, and a limit is compared with one bound. Shorter exact intervals (Blaker 2000) do not promise
    that, and Wilson's score interval covers with 0.84 instead of 0.95 at n = 20 and p = 0.991.

    Args:
        k: Successes, 0 <= k <= n.
        n: Trials, at least 1.
        level: Confidence level.

    Raises:
        ValueError: k, n or level is out of range.
    """
    _check(k, n, level)
    low, high = exact_bounds(k, n, (1 - level) / 2)
    return enclosing(k / n, low, high, level, int(n))


def exact_upper(k: int, n: int, level: float = 0.95) -> Estimate:
    """Proportion k/n with an exact one-sided upper bound; the low bound is 0.

    The bound is the beta quantile B(level; k+1, n-k), for k = 0 that is 1 - (1-level)^(1/n), about 3/n at 95 %. Clopper
    and Pearson (1934). Arguments and errors as in `proportion`.
    """
    _check(k, n, level)
    return enclosing(k / n, 0.0, exact_bounds(k, n, 1 - level)[1], level, int(n))


def exact_bounds(k: float, n: float, tail: float) -> tuple[float, float]:
    """The beta quantiles of `proportion` with ``tail`` beyond each; expected counts need not be whole."""
    low = 0.0 if k <= 0 else float(scipy.special.betaincinv(k, n - k + 1, tail))
    high = 1.0 if k >= n else float(scipy.special.betaincinv(k + 1, n - k, 1 - tail))
    return low, high


def _check(k: int, n: int, level: float) -> None:
    check_level(level)
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"a proportion needs n >= 1 trials and 0 <= k <= n successes; got k={k}, n={n}")
