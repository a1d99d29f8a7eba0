"""A mean over draws and inputs with an interval that covers draws and inputs that were not seen, however rare they matter."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import cached_property
from statistics import NormalDist
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwbench.stats.campaign import dirichlet_quantile
from hwbench.stats.estimate import Estimate, check_level, enclosing

Floats = NDArray[np.float64]
_STANDARD = NormalDist()
_MOST_DRAWS = 1e7
"""Number of draws that is taken for infinitely many."""


@dataclass(frozen=True)
class Sample:
    """A sample's values with their multiplicities.

    Attributes:
        values: Distinct values, ascending.
        counts: How often each occurs; not whole where a larger sample of the same values is imagined.
    """

    values: Floats
    counts: Floats

    @classmethod
    def of(cls, values: Floats) -> Sample:
        """The sample of an array [n]."""
        distinct, counts = np.unique(values, return_counts=True)
        return cls(distinct, counts.astype(np.float64))

    @cached_property
    def size(self) -> float:
        """Number of values."""
        return float(self.counts.sum())

    @cached_property
    def mean(self) -> float:
        """Their mean."""
        return float(self.values @ self.counts) / self.size

    @cached_property
    def deviation(self) -> float:
        """Their standard deviation; 0 of one value."""
        squares = float(self.counts @ (self.values - self.mean) ** 2)
        return math.sqrt(squares / (self.size - 1)) if self.size > 1 else 0.0

    def mirrored(self) -> Sample:
        """The sample of the negative values."""
        return Sample(-self.values[::-1], self.counts[::-1])

    def times(self, factor: float) -> Sample:
        """A sample that is so many times as large."""
        return replace(self, counts=self.counts * factor)

    def rare(self, extreme: float, tail: float) -> float:
        """Distance of the upper bound that holds however rare the values near the extreme are."""
        return max(0.0, dirichlet_quantile(self.values, self.counts, extreme, tail) - self.mean)

    def seen(self, extreme: float, tail: float) -> float:
        """Distance of the normal upper bound, which covers the spread that was seen; `rare`, where that is nearer."""
        normal = -_STANDARD.inv_cdf(tail) * self.deviation / math.sqrt(self.size)
        return min(normal, self.rare(extreme, tail))


@dataclass(frozen=True)
class Sampled:
    """Mean over draws x inputs of bounded values, from draws that each ran on some of the inputs.

    The draws' means are independent and, given the inputs, unbiased; each input's mean over the draws that met it is, over
    the choice of inputs. For either sample there are two distances from the mean to an upper bound: the one that was seen
    (normal), and one that also covers unseen values of any rarity, Gaffke's, as `hwbench.stats.campaign.bounded_mean` has
    it. Without a single event the bound of the two together is the larger of both: n draws and m inputs without an event
    leave no room for a rate of 3.7 / n of collapsing draws and of 3.7 / m of sensitive inputs at once. Independent spreads
    that were seen add as squares (Zou and Donner 2008, "Construction of confidence limits about effect measures",
    Statistics in Medicine 27). So the distance is the larger of √(rare_draws² + seen_inputs²) and
    √(seen_draws² + rare_inputs²). Coverage: tests/test_stats_unseen.py.

    Attributes:
        draws: The draws' means.
        inputs: The inputs' means; None where draws do not share what befalls an input, so that the inputs' means alone hold
            both (noise drawn input by input).
        lower, upper: What a value cannot fall below or exceed.
        tails: Error probabilities that the lower and the upper bound may use, from `Looks`.
        level: Confidence level of the interval over all looks.
        n: How many (draw, input) pairs there are.
        available: How many inputs more draws could meet.
    """

    draws: Sample | None
    inputs: Sample
    lower: float
    upper: float
    tails: tuple[float, float]
    level: float
    n: int
    available: int

    @property
    def value(self) -> float:
        """The mean."""
        return self.inputs.mean if self.draws is None else self.draws.mean

    @cached_property
    def estimate(self) -> Estimate:
        """The mean with its interval."""
        low = max(self.lower, self.value - self.mirrored().distance())
        high = min(self.upper, self.value + self.distance())
        return enclosing(self.value, low, high, self.level, self.n)

    def mirrored(self) -> Sampled:
        """The same of the negative values, so that a lower bound is an upper one."""
        draws = self.draws.mirrored() if self.draws else None
        tails = (self.tails[1], self.tails[0])
        return replace(
            self, draws=draws, inputs=self.inputs.mirrored(), lower=-self.upper, upper=-self.lower, tails=tails
        )

    def distance(self, factor: float = 1.0) -> float:
        """From the mean to the upper bound, had there been so many times the draws."""
        tail = self.tails[1]
        inputs = self.inputs.times(max(1.0, min(factor, self.available / self.inputs.size)))
        if self.draws is None:
            return inputs.rare(self.upper, tail)
        draws = self.draws.times(factor)
        # The inputs are the same at every look, so that their part has the whole error probability.
        of_inputs = (1 - self.level) / 2
        rare = math.hypot(draws.rare(self.upper, tail), inputs.seen(self.upper, of_inputs))
        return max(rare, math.hypot(draws.seen(self.upper, tail), inputs.rare(self.upper, of_inputs)))

    def of_inputs(self) -> float:
        """The part of the upper distance that more draws do not take away."""
        inputs = self.inputs.times(max(1.0, self.available / self.inputs.size))
        return inputs.rare(self.upper, (1 - self.level) / 2)

    def reaches(self, distance: float) -> bool:
        """True if some number of draws would bring the upper bound that near to the mean."""
        return self.draws is not None and distance > 0 and self.distance(_MOST_DRAWS / self.draws.size) <= distance

    def draws_within(self, distance: float) -> int | None:
        """Number of draws that would bring the upper bound that near to the mean; None if the inputs are too few."""
        if self.draws is None or not self.reaches(distance):
            return None
        few, many = 0.0, 1.0
        while self.distance(many) > distance:
            few, many = many, 2 * many
        while many - few > 0.01 * many:
            middle = (few + many) / 2
            few, many = (middle, many) if self.distance(middle) > distance else (few, middle)
        return math.ceil(many * self.draws.size)


def sampled_mean(
    values: Floats,
    draws: NDArray[np.int64],
    inputs: NDArray[np.int64],
    bounds: tuple[float, float],
    tails: tuple[float, float],
    level: float = 0.95,
    *,
    available: int,
    shared: bool = True,
) -> Sampled:
    """Mean over draws x inputs.

    Args:
        values: Array [pairs].
        draws: Array [pairs], the number of the draw.
        inputs: Array [pairs], the index of the input.
        bounds: What a value cannot fall below or exceed.
        tails: Error probabilities of the lower and the upper bound.
        level: Confidence level of the interval over all looks.
        available: How many inputs there are to meet.
        shared: Whether a draw does the same to all inputs, so that draws are a sample of their own.

    Raises:
        ValueError: There is no value, one is outside the bounds, or the level is out of range.
    """
    check_level(level)
    if not values.size or not bounds[0] <= values.min() <= values.max() <= bounds[1]:
        raise ValueError(f"expected values in {list(bounds)}; got {values.size}")
    of_draws = Sample.of(_means(values, draws)) if shared else None
    return Sampled(of_draws, Sample.of(_means(values, inputs)), *bounds, tails, level, values.size, available)


def _means(values: Floats, groups: NDArray[Any]) -> Floats:
    """The mean of the values of each group that has any."""
    counts = np.bincount(groups)
    sums = np.bincount(groups, weights=values)
    means: Floats = sums[counts > 0] / counts[counts > 0]
    return means
