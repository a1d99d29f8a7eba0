"""Samplers of fault campaigns: which faults to try, when to stop, and what the trials say of all faults.

A sampler sees a fault space as strata, (id, number of faults) pairs, and asks for so many more trials in each. Whoever
runs them draws the faults of a stratum uniformly and without replacement. A trial's value is the part of its inputs whose
outcome is SDC (or DUE), and the estimand its mean over all faults: the mean over (fault, input) pairs, given the inputs.
The trials are the sampling units, so that the intervals allow for the inputs of a fault sharing its fate.
"""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Callable, Hashable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial

import numpy as np

from hwbench.faults.design import Design, Flags, Floats, Guess, Integers, moment, neyman_design, pilot_design, predict
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

PILOT_OF_MAIN = 0.15
"""A pilot goes on, doubling, until it has this part of the trials that it plans for the main stage."""


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

    pilot_part: float
    """Part of a given number of trials that the pilot takes."""

    pilot_scale: float
    """The pilot of a given half-width, as a multiple of the trials that would do if there were no event."""

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
        self._budget, self._target, self._seed = n or 0, half_width or 0.0, seed
        self._spending = (1.0,) if self._budget else SPENDING
        nothing = Guess(np.zeros(self.size.size))
        self._pilot = self._stage(self._first_design(), self._waves(), 0, nothing, nothing)

    def next(self, results: Results) -> dict[Hashable, int] | None:
        """What the pilot lacks; then what the main stage lacks at its next look; None when it may stop."""
        trials = self._trials(results)
        done = trials.per_stratum(self.size.size)
        wave, stage = self._planned(trials)
        if stage is None:
            return self._asked(self._pilot.counts[wave] - done)
        main = trials.where(~self._earliest(trials, self._pilot.counts[wave]))
        everything = np.ones(self.size.size, dtype=np.bool_)
        for look, counts in enumerate(stage.counts):
            lacking = self._pilot.counts[wave] + counts - done
            if (lacking > 0).any():
                return self._asked(lacking)
            reached = main.where(self._earliest(main, counts))
            found = stage.rates(reached, look, everything, self._look_level(look)).sdc
            if self._budget or (found.high - found.low) / 2 <= self._target:
                return None
        return None

    def _rates(self, results: Results, members: list[Flags]) -> list[Rates]:
        trials = self._trials(results)
        wave, stage = self._planned(trials)
        if stage is None:
            return [self._pilot.rates(trials, wave, part, self.level) for part in members]
        early = self._earliest(trials, self._pilot.counts[wave])
        pilot, main = trials.where(early), trials.where(~early)
        tried = main.per_stratum(self.size.size)
        look = sum(bool((tried >= counts).all()) for counts in stage.counts[1:])
        level = self._look_level(look)
        rates = []
        for part in members:
            enough = min(self._pilot.counts[wave][part].sum(), stage.design.remaining[part].sum())
            if tried[part].sum() >= enough:
                rates.append(stage.rates(main, look, part, level))
            else:
                rates.append(self._pilot.rates(pilot, wave, part, level))
        return rates

    def _planned(self, trials: _Trials) -> tuple[int, _Stage | None]:
        """The pilot's wave that is running, and None; or its last one, and the main stage that it plans."""
        for wave, counts in enumerate(self._pilot.counts):
            pilot = trials.where(self._earliest(trials, counts))
            if pilot.stratum.size < counts.sum():
                return wave, None
            stage = self._main_stage(pilot)
            if pilot.stratum.size >= PILOT_OF_MAIN * stage.looks[0]:
                break
        return wave, stage

    @abstractmethod
    def _first_design(self) -> Design:
        """How the pilot draws."""

    @abstractmethod
    def _main_stage(self, pilot: _Trials) -> _Stage:
        """The main stage, given the pilot's trials."""

    @abstractmethod
    def _draw(self, design: Design, looks: tuple[int, ...], rng: np.random.Generator) -> list[Integers]:
        """For each look, how many trials each stratum has by then."""

    def _waves(self) -> tuple[int, ...]:
        """Trials of the pilot by the end of each wave.

        A part of the budget; or, doubling, of the trials that without any event would bound a rate by the target.
        """
        population = int(self.size.sum())
        if self._budget:
            return (int(self.pilot_part * min(self._budget, population)),)
        silent = math.log(2 / (1 - self.level)) / (2 * self._target)
        first = min(population, max(SMALLEST_PILOT, round(self.pilot_scale * silent)))
        return tuple(min(population, first << wave) for wave in range((population // first).bit_length() + 1))

    def _stage(self, design: Design, looks: tuple[int, ...], number: int, sdc: Guess, due: Guess) -> _Stage:
        counts = self._draw(design, looks, np.random.default_rng([self._seed, number]))
        return _Stage(design, looks, tuple(counts), sdc, due)

    def _looks(self, planned: Spread, pilot: _Trials) -> tuple[int, ...]:
        """Trials of the main stage by each look."""
        if self._budget:
            return (self._budget - pilot.stratum.size,)
        first = max(pilot.stratum.size, planned.trials(self._target, self._look_level(0)))
        return tuple(round(first * GROWTH**look) for look in range(len(SPENDING)))

    def _look_level(self, look: int) -> float:
        return 1 - (1 - self.level) * self._spending[look]

    def _trials(self, results: Results) -> _Trials:
        return _Trials(self._positions(results.strata), results.sdc, results.due)

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

    pilot_part, pilot_scale = 0.0, 0.3

    def _first_design(self) -> Design:
        return Design(self.size, self.size, self.size / self.size.sum())

    def _main_stage(self, pilot: _Trials) -> _Stage:
        tried = pilot.per_stratum(self.size.size)
        remaining = self.size - tried
        total = int(remaining.sum())
        design = Design(self.size, remaining, remaining / max(total, 1))
        mean, second, third = (moment(pilot.sdc, power) for power in (1, 2, 3))
        skew = max(0.0, third - 3 * second * mean + 2 * mean**3)
        planned = Spread(second - mean**2, skew, mean, 1 - mean, max(total, 1))
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

    pilot_part, pilot_scale = 0.25, 0.5

    @cached_property
    def _kin(self) -> list[Integers]:
        """Family numbers of the strata, one array for each component of ids that are tuples of one length."""
        lengths = {len(identity) if isinstance(identity, tuple) else 0 for identity in self.ids}
        if len(lengths) > 1:
            return []
        columns = zip(*self.ids, strict=True) if lengths != {0} else ()
        return [_families(column) for column in columns]

    def _first_design(self) -> Design:
        return pilot_design(self.size)

    def _main_stage(self, pilot: _Trials) -> _Stage:
        tried = pilot.per_stratum(self.size.size)
        sdc, due = (
            predict(pilot.stratum, values, self.size.size, self._kin) for values in (pilot.sdc, pilot.due)
        )
        if (tried >= self.size).all():
            return self._stage(Design(self.size, self.size - tried, np.zeros(self.size.size)), (0,), 1, sdc, due)
        design, planned = neyman_design(self.size, tried, pilot.sdc, sdc, self._cost(pilot))
        looks = self._looks(planned, pilot)
        return self._stage(design.capped(looks[0]), looks, 1, sdc, due)

    def _cost(self, pilot: _Trials) -> Callable[[Spread], float]:
        """What a design is chosen by: the trials to the target, or the half-width after the budget."""
        if self._budget:
            return lambda planned: planned.half_width(self._budget - pilot.stratum.size, self.level)
        return lambda planned: planned.trials(self._target, self._look_level(0))

    def _draw(self, design: Design, looks: tuple[int, ...], rng: np.random.Generator) -> list[Integers]:
        start = rng.random()
        return [design.counts(look, looks[0], start) for look in looks]


def _families(labels: Sequence[Hashable]) -> Integers:
    """Equal labels numbered alike, from 0 in order of appearance."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([numbers[label] for label in labels], dtype=np.int64)
