"""Figures and losses from per-input values: losses are paired by input, and a few infinite values have a companion.

The outputs of a regression are unbounded. One infinite output makes every mean error infinite, and it is: an input of
that kind has been seen. That figure says nothing of the other inputs, so `Figures` also holds the one over the finite
values; the share that is not finite is the DUE rate.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from hwbench import stats
from hwbench.metrics import Metric
from hwbench.npy import Array
from hwbench.stats import Estimate


@dataclass(frozen=True)
class Figures:
    """A figure over all inputs and, where some values are not finite, over the others.

    Attributes:
        whole: Over all inputs.
        finite: Over the inputs with finite values; None where that is all or none of them.
        left_out: How many values, or pairs of values, are not finite.
    """

    whole: Estimate
    finite: Estimate | None = None
    left_out: int = 0


def input_figure(metric: Metric, values: Array, spread: Array | None, level: float, seed: int) -> Figures:
    """A metric over all inputs.

    The exact interval of `stats.proportion` for proportions, else a bootstrap over inputs.

    Args:
        metric: The metric.
        values: Float64 ``[n]``, from `Metric.per_sample`.
        spread: Float64 ``[n]``, from `Metric.spread`.
        level: Confidence level.
        seed: Seed of the resampling.
    """
    kept = np.isfinite(values)
    if kept.all():
        return Figures(_figure(metric, values, spread, level, seed))
    worst = -math.inf if metric.higher_is_better else math.inf
    finite = _figure(metric, values[kept], _some(spread, kept), level, seed) if kept.any() else None
    return Figures(_certain(worst, level, values.size), finite, int(values.size - kept.sum()))


def input_loss(
    metric: Metric, reference: Array, values: Array, spread: Array | None, level: float, seed: int, *, same: bool
) -> Figures:
    """How much worse ``values`` are than ``reference`` on the same inputs, in the metric's unit.

    Tango's score interval for proportions, else a bootstrap that resamples the inputs of both together.

    Args:
        metric: The metric.
        reference: Float64 ``[n]``, from `Metric.per_sample`.
        values: The same, of the same inputs in the same order.
        spread: Float64 ``[n]``, from `Metric.spread`.
        level: Confidence level.
        seed: Seed of the resampling.
        same: Whether both come from the same computation: the loss is then exactly 0. Equal values alone do not show
            that where they are 0 or 1: two builds that are right on the same n inputs can differ on the next one.
    """
    n = values.size
    if same:
        return Figures(_certain(0.0, level, n))
    kept = np.isfinite(reference) & np.isfinite(values)
    if kept.all():
        return Figures(_loss(metric, reference, values, spread, level, seed))
    some = (reference[kept], values[kept], _some(spread, kept))
    finite = _loss(metric, *some, level, seed) if kept.any() else None
    return _with_infinite(reference, values, finite, level)


def two_way_figure(metric: Metric, values: Array, spread: Array | None, level: float, seed: int) -> Figures:
    """A metric over draws and inputs, with a bootstrap over both.

    Args:
        metric: The metric.
        values: Float64 ``[draws, n]``.
        spread: Float64 ``[n]``, from `Metric.spread`.
        level: Confidence level.
        seed: Seed of the resampling.
    """
    kept = np.isfinite(values)
    if kept.all() and metric.is_mean:
        return Figures(stats.two_way_bootstrap(values, level, seed))
    finite = None
    if kept.any():
        matrices = [np.where(kept, values, 0.0), _kept_spread(spread, kept), kept]
        found = stats.two_way_statistic(lambda v, s, k: metric.link(v / k, s / k), matrices, level, seed)
        finite = replace(found, n=int(kept.sum()))
    if finite is not None and kept.all():
        return Figures(finite)
    worst = -math.inf if metric.higher_is_better else math.inf
    return Figures(_certain(worst, level, values.size), finite, int(values.size - kept.sum()))


def two_way_loss(
    metric: Metric, reference: Array, values: Array, spread: Array | None, level: float, seed: int
) -> Figures:
    """How much worse ``values`` are than ``reference`` over draws and inputs, paired draw by draw and input by input.

    Exactly 0 where no draw changes a value.

    Args:
        metric: The metric.
        reference: Float64 ``[draws, n]``, or ``[n]`` where all draws share it.
        values: Float64 ``[draws, n]``.
        spread: Float64 ``[n]``, from `Metric.spread`.
        level: Confidence level.
        seed: Seed of the resampling.
    """
    reference = np.broadcast_to(reference, values.shape)
    if np.array_equal(reference, values, equal_nan=True):
        return Figures(_certain(0.0, level, values.size))
    kept = np.isfinite(reference) & np.isfinite(values)
    if kept.all() and metric.is_mean:
        return Figures(stats.two_way_bootstrap(metric.worsening(reference, values), level, seed))
    finite = None
    if kept.any():
        before = np.where(kept, reference, 0.0)
        matrices = [before, np.where(kept, values, 0.0) - before, _kept_spread(spread, kept), kept]
        finite = replace(stats.two_way_statistic(_worsening(metric), matrices, level, seed), n=int(kept.sum()))
    if finite is not None and kept.all():
        return Figures(finite)
    return _with_infinite(reference, values, finite, level)


def _figure(metric: Metric, values: Array, spread: Array | None, level: float, seed: int) -> Estimate:
    if metric.is_proportion(values):
        return stats.proportion(int(values.sum()), values.size, level)
    if metric.is_mean:
        return stats.mean_interval(values, level, seed)
    arrays = [values, _or_zeros(spread, values)]
    return stats.bootstrap_statistic(lambda v, s: float(metric.link(v.mean(), s.mean())), arrays, level, seed)


def _loss(metric: Metric, reference: Array, values: Array, spread: Array | None, level: float, seed: int) -> Estimate:
    if metric.is_proportion(reference, values):
        better, worse = (reference, values) if metric.higher_is_better else (values, reference)
        return stats.paired_difference(better > 0, worse > 0, level)
    if metric.is_mean:
        return stats.mean_interval(metric.worsening(reference, values), level, seed)

    def worsening(before: Array, after: Array, scale: Array) -> float:
        return float(
            metric.worsening(metric.link(before.mean(), scale.mean()), metric.link(after.mean(), scale.mean()))
        )

    return stats.bootstrap_statistic(worsening, [reference, values, _or_zeros(spread, values)], level, seed)


def _worsening(metric: Metric) -> Callable[[Array, Array, Array, Array], Array]:
    """The loss from means over draws and inputs: before, change, labels' spread, share of the values that count.

    From the change, not from the mean after it: where nothing changes in a resample, the loss is 0 and not a rounding error.
    """

    def worsening(before: Array, change: Array, spread: Array, kept: Array) -> Array:
        after = metric.link((before + change) / kept, spread / kept)
        return metric.worsening(metric.link(before / kept, spread / kept), after)

    return worsening


def _with_infinite(reference: Array, values: Array, finite: Estimate | None, level: float) -> Figures:
    """The loss where some values are not finite: infinite, unless the same ones are on both sides."""
    before, after = np.isfinite(reference), np.isfinite(values)
    left_out = int(np.count_nonzero(~(before & after)))
    if (before & ~after).any():
        return Figures(_certain(math.inf, level, values.size), finite, left_out)
    if (after & ~before).any():
        return Figures(_certain(-math.inf, level, values.size), finite, left_out)
    return Figures(finite or Estimate(math.nan, -math.inf, math.inf, level, values.size), finite, left_out)


def _certain(value: float, level: float, n: int) -> Estimate:
    return Estimate(value, value, value, level, n)


def _some(spread: Array | None, kept: Array) -> Array | None:
    return None if spread is None else spread[kept]


def _or_zeros(spread: Array | None, values: Array) -> Array:
    return np.zeros_like(values) if spread is None else spread


def _kept_spread(spread: Array | None, kept: Array) -> Array:
    return np.zeros((1, 1)) if spread is None else np.where(kept, spread, 0.0)
