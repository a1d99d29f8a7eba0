"""Intervals of one proportion."""

from __future__ import annotations

from typing import Literal

import scipy

from hwbench.stats.estimate import Estimate, check_level, enclosing


def proportion(k: int, n: int, level: float = 0.95) -> Estimate:
    """Proportion k/n with Wilson's score interval (no continuity correction).

    With p = k/n and z the normal quantile: (p + z²/2n ± z·sqrt(p(1-p)/n + z²/4n²)) / (1 + z²/n). Wilson (1927),
    "Probable inference, the law of succession, and statistical inference", JASA 22.

    Args:
        k: Successes, 0 <= k <= n.
        n: Trials, at least 1.
        level: Confidence level.

    Raises:
        ValueError: k, n or level is out of range.
    """
    return _interval(k, n, level, "wilson", "two-sided")


def clopper_pearson(k: int, n: int, level: float = 0.95) -> Estimate:
    """Proportion k/n with the exact two-sided interval, which covers at least at its level whatever the proportion.

    Bounds are the beta quantiles B(α/2; k, n-k+1) and B(1-α/2; k+1, n-k). Clopper and Pearson (1934), "The use of
    confidence or fiducial limits illustrated in the case of the binomial", Biometrika 26. Arguments and errors as in
    `proportion`.
    """
    return _interval(k, n, level, "exact", "two-sided")


def exact_upper(k: int, n: int, level: float = 0.95) -> Estimate:
    """Proportion k/n with an exact one-sided upper bound; the low bound is 0.

    The bound is the beta quantile B(level; k+1, n-k), for k = 0 that is 1 - (1-level)^(1/n), about 3/n at 95 %. Clopper
    and Pearson (1934). Arguments and errors as in `proportion`.
    """
    return _interval(k, n, level, "exact", "less")


def _interval(
    k: int, n: int, level: float, method: Literal["wilson", "exact"], alternative: Literal["two-sided", "less"]
) -> Estimate:
    check_level(level)
    if n < 1 or not 0 <= k <= n:
        raise ValueError(f"a proportion needs n >= 1 trials and 0 <= k <= n successes; got k={k}, n={n}")
    test = scipy.stats.binomtest(int(k), int(n), alternative=alternative)
    bounds = test.proportion_ci(confidence_level=level, method=method)
    return enclosing(k / n, bounds.low, bounds.high, level, int(n))
