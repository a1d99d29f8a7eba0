"""Samplers of fault campaigns: which faults to try, when to stop, and what the trials say of all faults.

A sampler sees a fault space as strata, (id, number of faults) pairs, and asks for so many more trials in each. Whoever
runs them draws the faults of a stratum uniformly and without replacement. A trial's value is the part of its inputs whose
outcome is SDC (or DUE), and the estimand its mean over all faults: the mean over (fault, input) pairs, given the inputs.
The trials are the sampling units, so that the intervals allow for the inputs of a fault sharing its fate.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from hwbench.faults.design import CAUTION, Design, Flags, Floats, Guess, Integers, neyman_design, pilot_design, predict
from hwbench.faults.sampler import CampaignEstimate, Rates, Results, Sampler
from hwbench.stats import Estimate
from hwbench.stats.campaign import Spread

__all__ = ["CampaignEstimate", "Exhaustive", "Rates", "Results", "Sampler", "Stratified", "Uniform"]

SPENDING = (0.6, 0.2, 0.1, 0.05, 0.025, 0.025)
"""Parts of the error probability that successive looks at the interval may use up."""

GROWTH = 1.4
"""How many times the trials of one look the next one has."""

SMALLEST_PILOT = 60
"""Trials below which a pilot says too little to plan with."""


class Exhaustive(Sampler):
    """Every fault once: exact rates. Before the end, the interval spans what the missing faults could do."""

    def next(self, results: Results) -> dict[Hashable, int] | None:
        """All faults not tried yet."""
        done = np.bincount(self._positions(results.strata), minlength=self.size.size)
        return self._asked(self.size - done) or None

    def _rates(self, results: Results, members: list[Flags]) -> list[Rates]:
        stratum = self._positions(results.strata)
        return [
            Rates(self._bounds(stratum, results.sdc, part), self._bounds(stratum, results.due, part)) for part in members
        ]

    def _bounds(self, stratum: Integers, values: Floats, members: Flags) -> Estimate:
        seen = values[members[stratum]]
        population = int(self.size[members].sum())
        low = float(seen.sum()) / population
        value = float(seen.mean()) if seen.size else 0.5
        return Estimate(value, low, low + (population - seen.size) / population, self.level, seen.size)


@dataclass(frozen=True)
class _Trials:
    """Results as arrays.

    Attributes:
        stratum: Array [trials], position of the trial's stratum.
        sdc, due: Arrays [trials], values in [0, 1].
    """

    stratum: Integers
    sdc: Floats
    due: Floats

    def where(self, chosen: Flags) -> _Trials:
        return _Trials(self.stratum[chosen], self.sdc[chosen], self.due[chosen])

    def per_stratum(self, strata: int) -> Integers:
        return np.bincount(self.stratum, minlength=strata)


@dataclass(frozen=True)
class _Stage:
    """How a stage draws its strata and what was known before it.

    Attributes:
        design: How often each stratum is drawn.
        looks: Trials of the stage by each look at the interval.
        counts: For each look, array [strata] of trials by then.
        sdc, due: What was known of the two figures.
    """

    design: Design
    looks: tuple[int, ...]
    counts: tuple[Integers, ...]
    sdc: Guess
    due: Guess

    def rates(self, trials: _Trials, look: int, members: Flags, level: float) -> Rates:
        estimate = partial(self.design.estimate, self.looks[look], trials.stratum, members=members, level=level)
        return Rates(estimate(trials.sdc, self.sdc), estimate(trials.due, self.due))


class _TwoStage(Sampler):
    """A pilot, whose results fix the main stage, whose trials alone make the interval.

    Given the pilot, the faults that it tried are known and the others are sampled afresh, so that the pilot may choose
    design and number of trials at will. To reach a half-width, the interval is looked at when the planned trials are
    done and, while it is too wide, after each of a few increases. Their sizes too are fixed by the pilot, and each look
    has its own part of the error probability (`SPENDING`, Bonferroni's inequality): whatever look a campaign stops at,
    its interval holds at the level. After the last look it stops with the interval that it has.

    Args:
        strata, level: As for every sampler.
        n: How many trials to run in all; or else
        half_width: Half the width that the interval of the overall SDC rate is to have.
        seed: Seed of the choice of strata.

    Raises:
        ValueError: Not exactly one of ``n`` and ``half_width`` is given, or it is out of range; or as for every sampler.
    """

    def __init__(
        self,
        strata: Sequence[tuple[Hashable, int]],
        *,
        n: int | None = None,
        half_width: float | None = None,
        level: float = 0.95,
        seed: int = 0,
    ) -> None:
        super().__init__(strata, level)
        if (n is None) == (half_width is None):
            raise ValueError("give either n, the number of trials, or half_width, what the interval is to reach")
        if (n is not None and n < 1) or (half_width is not None and not 0 < half_width < 0.5):
            raise ValueError(f"n starts at 1 and half_width lies between 0 and 0.5; got n={n}, half_width={half_width}")
        self.n, self.half_width, self.seed = n, half_width, seed
        self._spending = SPENDING if n is None else (1.0,)
        nothing = Guess(np.zeros(self.size.size))
        self._pilot = self._stage(self._first_design(), (self._pilot_trials(),), 0, nothing, nothing)

    def next(self, results: Results) -> dict[Hashable, int] | None:
        """What the pilot lacks; then what the main stage lacks at its next look; None when it may stop."""
        done, pilot, main = self._split(results)
        lacking = self._pilot.counts[0] - done
        if (lacking > 0).any():
            return self._asked(lacking)
        stage = self._main_stage(pilot)
        everything = np.ones(self.size.size, dtype=np.bool_)
        for look, counts in enumerate(stage.counts):
            lacking = self._pilot.counts[0] + counts - done
            if (lacking > 0).any():
                return self._asked(lacking)
            reached = self._first(main, counts)
            found = stage.rates(reached, look, everything, self._look_level(look)).sdc
            if self.half_width is None or (found.high - found.low) / 2 <= self.half_width:
                return None
        return None

    def _rates(self, results: Results, members: list[Flags]) -> list[Rates]:
        done, pilot, main = self._split(results)
        if not main.stratum.size and (done < self._pilot.counts[0]).any():
            return [self._pilot.rates(pilot, 0, part, self.level) for part in members]
        stage = self._main_stage(pilot)
        tried = main.per_stratum(self.size.size)
        look = sum((tried >= counts).all() for counts in stage.counts[1:])
        level = self._look_level(look)
        rates = []
        for part in members:
            enough = min(self._pilot.counts[0][part].sum(), stage.design.remaining[part].sum())
            if tried[part].sum() >= enough:
                rates.append(stage.rates(main, look, part, level))
            else:
                rates.append(self._pilot.rates(pilot, 0, part, level))
        return rates

    @abstractmethod
    def _first_design(self) -> Design:
        """How the pilot draws."""

    @abstractmethod
    def _pilot_trials(self) -> int:
        """Trials of the pilot."""

    @abstractmethod
    def _main_stage(self, pilot: _Trials) -> _Stage:
        """The main stage, given the pilot's trials."""

    @abstractmethod
    def _draw(self, design: Design, looks: tuple[int, ...], rng: np.random.Generator) -> list[Integers]:
        """For each look, how many trials each stratum has by then."""

    def _stage(self, design: Design, looks: tuple[int, ...], number: int, sdc: Guess, due: Guess) -> _Stage:
        counts = self._draw(design, looks, np.random.default_rng([self.seed, number]))
        return _Stage(design, looks, tuple(counts), sdc, due)

    def _looks(self, planned: Spread, pilot: _Trials) -> tuple[int, ...]:
        """Trials of the main stage by each look."""
        if self.n is not None:
            return (max(0, self.n - pilot.stratum.size),)
        assert self.half_width is not None
        first = max(pilot.stratum.size, planned.trials(self.half_width, self._look_level(0)))
        return tuple(round(first * GROWTH**look) for look in range(len(SPENDING)))

    def _look_level(self, look: int) -> float:
        return 1 - (1 - self.level) * self._spending[look]

    def _split(self, results: Results) -> tuple[Integers, _Trials, _Trials]:
        """Trials per stratum, the pilot's trials, those of the main stage."""
        trials = _Trials(self._positions(results.strata), results.sdc, results.due)
        done = trials.per_stratum(self.size.size)
        early = self._earliest(trials, self._pilot.counts[0])
        return done, trials.where(early), trials.where(~early)

    def _first(self, trials: _Trials, counts: Integers) -> _Trials:
        return trials.where(self._earliest(trials, counts))

    def _earliest(self, trials: _Trials, counts: Integers) -> Flags:
        """Which trials are among the first ``counts`` of their stratum."""
        order = np.argsort(trials.stratum, kind="stable")
        done = trials.per_stratum(self.size.size)
        rank = np.empty(order.size, dtype=np.int64)
        rank[order] = np.arange(order.size) - np.repeat(np.cumsum(done) - done, done)
        earliest: Flags = rank < counts[trials.stratum]
        return earliest


class Uniform(_TwoStage):
    """Faults drawn uniformly from all strata together: the simple random sample.

    With ``n`` there is no pilot and every trial counts; `hwbench.stats.campaign.leveugle` gives the n of the worst case.
    With ``half_width`` a pilot estimates the variance between faults first.
    """

    def _first_design(self) -> Design:
        return Design(self.size, self.size, self.size / self.size.sum())

    def _pilot_trials(self) -> int:
        if self.half_width is None:
            return 0
        return min(int(self.size.sum()), max(SMALLEST_PILOT, round(0.3 * _floor(self.half_width, self.level))))

    def _main_stage(self, pilot: _Trials) -> _Stage:
        tried = pilot.per_stratum(self.size.size)
        remaining = self.size - tried
        total = int(remaining.sum())
        design = Design(self.size, remaining, remaining / max(total, 1))
        mean = (pilot.sdc.sum() + 0.5) / (pilot.sdc.size + 1)
        second, third = ((np.sum(pilot.sdc**k) + 0.5) / (pilot.sdc.size + 1) for k in (2, 3))
        skew = max(0.0, third - 3 * second * mean + 2 * mean**3)
        planned = Spread(CAUTION * (second - mean**2), skew, mean, 1 - mean, max(total, 1))
        known = (Guess(np.bincount(pilot.stratum, values, self.size.size)) for values in (pilot.sdc, pilot.due))
        return self._stage(design, self._looks(planned, pilot), 1, *known)

    def _draw(self, design: Design, looks: tuple[int, ...], rng: np.random.Generator) -> list[Integers]:
        counts, done, before = [], np.zeros_like(self.size), 0
        for look in looks:
            ends = np.cumsum(design.remaining - done)
            more = min(look - before, int(ends[-1]))
            drawn = rng.choice(ends[-1], more, replace=False, shuffle=False) if more else np.empty(0, dtype=np.int64)
            done = done + np.bincount(np.searchsorted(ends, drawn, side="right"), minlength=done.size)
            before = look
            counts.append(done)
        return counts


class Stratified(_TwoStage):
    """Trials where the outcomes vary: a pilot over all strata, then Neyman allocation with a share for the silent ones.

    Strata in which the pilot saw no event are sampled in proportion to their sizes and share one exact bound
    (`Design.estimate`); Ruospo et al. (2023), "Assessing convolutional neural networks reliability through statistical
    fault injections", DATE, on strata of layer and bit.
    """

    def _first_design(self) -> Design:
        return pilot_design(self.size)

    def _pilot_trials(self) -> int:
        population = int(self.size.sum())
        if self.half_width is None:
            assert self.n is not None
            return min(population, self.n // 4)
        return min(population, max(SMALLEST_PILOT, round(0.5 * _floor(self.half_width, self.level))))

    def _main_stage(self, pilot: _Trials) -> _Stage:
        tried = pilot.per_stratum(self.size.size)
        kin = self._kin()
        sdc, due = (
            predict(tried, np.bincount(pilot.stratum, values, self.size.size), kin) for values in (pilot.sdc, pilot.due)
        )
        if (tried >= self.size).all():
            design, planned = Design(self.size, self.size - tried, np.zeros(self.size.size)), Spread(0, 0, 0, 0)
        else:
            design, planned = neyman_design(self.size, tried, pilot.sdc, sdc, self._cost(pilot))
        return self._stage(design, self._looks(planned, pilot), 1, sdc, due)


def _floor(half_width: float, level: float) -> float:
    """Trials without any event that bound a rate by twice the half-width."""
    return math.log(2 / (1 - level)) / (2 * half_width)
