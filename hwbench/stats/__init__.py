"""Statistics: figures with their intervals, and what may be concluded from them.

    proportions   one proportion: Clopper-Pearson, a one-sided upper bound
    paired        two proportions on the same inputs: their difference, McNemar
    resampling    means and any other statistic: bootstrap
    two_way       means over draws x inputs, and functions of them: pigeonhole bootstrap
    unseen        means over draws x inputs of bounded values, with draws and inputs that were not seen in the interval
    quantiles     order-statistic intervals of quantiles
    needed        inputs that an inconclusive figure needs
    series        intervals that allow for dependence between neighboring values
    launches      timings and their ratios over fresh processes
    timing        ratios of timings within a process
    multiplicity  p-values adjusted for how many there are

All functions are pure and deterministic in their seed. An interval's bound that the data cannot support is infinite.
SciPy's parts are loaded on first use, so that importing this package costs no more than numpy.
"""

from hwbench.stats.estimate import Estimate
from hwbench.stats.launches import (
    launches_needed,
    over_launches,
    ratio_of_launches,
    ratio_over_launches,
    share_between,
)
from hwbench.stats.multiplicity import holm
from hwbench.stats.needed import inputs_to_decide, paired_inputs_to_decide, shrinking
from hwbench.stats.paired import discordant_bounds, mcnemar_exact, paired_difference
from hwbench.stats.proportions import exact_upper, proportion
from hwbench.stats.quantiles import minimum_samples, quantile
from hwbench.stats.resampling import bootstrap_statistic, mean_interval, paired_mean_difference
from hwbench.stats.series import correlation_time, log_mean_variance, log_quantile_variance, series_quantile
from hwbench.stats.timing import ratio_of_means
from hwbench.stats.two_way import two_way_bootstrap, two_way_statistic

__all__ = [
    "Estimate",
    "bootstrap_statistic",
    "correlation_time",
    "discordant_bounds",
    "exact_upper",
    "holm",
    "inputs_to_decide",
    "launches_needed",
    "log_mean_variance",
    "log_quantile_variance",
    "mcnemar_exact",
    "mean_interval",
    "minimum_samples",
    "over_launches",
    "paired_difference",
    "paired_inputs_to_decide",
    "paired_mean_difference",
    "proportion",
    "quantile",
    "ratio_of_launches",
    "ratio_of_means",
    "ratio_over_launches",
    "series_quantile",
    "share_between",
    "shrinking",
    "two_way_bootstrap",
    "two_way_statistic",
]
