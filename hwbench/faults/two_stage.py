"""Sampling in two stages: a pilot plans, a main stage with trials of its own measures."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import takewhile

import numpy as np

from hwbench.faults.design import Design, Flags, Floats, Guess, Integers
from hwbench.faults.sampler import Rates, Results, Sampler
from hwbench.stats.campaign import Spread

SPENDING = tuple(0.5**look for look in range(1, 13))
"""Parts of the error probability that successive looks at the interval may use up: 1 in all."""

GROWTH = 1.5
"""How many times the trials of one look the next one has."""

SMALLEST_PILOT = 60
"""Trials below which a pilot says too little to plan with."""

PILOT_OF_MAIN = 0.15
"""Part of the trials planned for the main stage up to which a pilot is doubled."""


@dataclass(frozen=True)
class Trials:
    """Results as arrays.

    Attributes:
        stratum: Array [trials], position of the trial's stratum.
        sdc, due: Arrays [trials], values in [0, 1].
    """

    stratum: Integers
    sdc: Floats
    due: Floats

    def where(self, chosen: Flags) -> Trials:
        """The trials that a mask [trials] chooses."""
        return Trials(self.stratum[chosen], self.sdc[chosen], self.due[chosen])

    def per_stratum(self, strata: int) -> Integers:
        """Array [strata], how many trials each has."""
        return np.bincount(self.stratum, minlength=strata)

    def among_first(self, counts: Integers) -> Flags:
        """Which trials are among the first ``counts`` of their stratum; counts is an array [strata]."""
        order = np.argsort(self.stratum, kind="stable")
        done = self.per_stratum(counts.size)
        rank = np.empty(order.size, dtype=np.int64)
        rank[order] = np.arange(order.size) - np.repeat(np.cumsum(done) - done, done)
        first: Flags = rank < counts[self.stratum]
        return first


@dataclass(frozen=True)
class Stage:
    """How a stage draws its strata and what was known before it.

    Attributes:
        design: How often each stratum is drawn.
        looks: Trials of the stage by each look at the interval.
        sdc, due: What was known of the two figures.
    """

    design: Design
    looks: tuple[int, ...]
    sdc: Guess
    due: Guess

    def rates(self, trials: Trials, look: int, members: Flags, level: float) -> Rates:
        """What the stage's trials by some look say of some strata (`Design.estimate`)."""
        estimate = partial(self.design.estimate, self.looks[look], trials.stratum, members=members, level=level)
        return Rates(estimate(trials.sdc, self.sdc), estimate(trials.due, self.due))


class TwoStage(Sampler):
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
    """The first wave of a pilot for a half-width, as a part of the trials that would do if there were no event."""

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
        self._pilot = Stage(self._first_design(), self._waves(), nothing, nothing)

    def next(self, results: Results) -> dict[Hashable, int] | None:
        """What the pilot lacks; then what the main stage lacks at its next look; None when it may stop."""
        trials = self._trials(results)
        _, first, stage = self._planned(trials)
        if stage is None:
            return self._asked(first - trials.per_stratum(self.size.size))
        main = trials.where(~trials.among_first(first))
        everything = np.ones(self.size.size, dtype=np.bool_)
        for look, counts in enumerate(self._counts(stage, 1)):
            lacking = counts - main.per_stratum(self.size.size)
            if (lacking > 0).any():
                return self._asked(lacking)
            reached = main.where(main.among_first(counts))
            found = stage.rates(reached, look, everything, self._look_level(look)).sdc
            if self._budget or (found.high - found.low) / 2 <= self._target:
                break
        return None

    def _rates(self, results: Results, members: list[Flags]) -> list[Rates]:
        trials = self._trials(results)
        wave, first, stage = self._planned(trials)
        if stage is None:
            return [self._pilot.rates(trials, wave, part, self.level) for part in members]
        early = trials.among_first(first)
        pilot, main = trials.where(early), trials.where(~early)
        tried = main.per_stratum(self.size.size)
        reached = takewhile(lambda counts: bool((tried >= counts).all()), self._counts(stage, 1))
        look = max(0, sum(1 for _ in reached) - 1)
        level = self._look_level(look)

        def rates(part: Flags) -> Rates:
            """From the stage that has more trials there, or from the main one where that has tried all that was left."""
            if tried[part].sum() >= min(first[part].sum(), stage.design.remaining[part].sum()):
                return stage.rates(main, look, part, level)
            return self._pilot.rates(pilot, wave, part, level)

        return [rates(part) for part in members]

    def _planned(self, trials: Trials) -> tuple[int, Integers, Stage | None]:
        """The pilot's last wave so far, its trials per stratum and, if they are all done and enough, the main stage."""
        for wave, counts in enumerate(self._counts(self._pilot, 0)):
            pilot = trials.where(trials.among_first(counts))
            if pilot.stratum.size < counts.sum():
                return wave, counts, None
            stage = self._main_stage(pilot)
            if self._budget or pilot.stratum.size >= PILOT_OF_MAIN * stage.looks[0]:
                break
        return wave, counts, stage

    def _counts(self, stage: Stage, number: int) -> Iterator[Integers]:
        """For each look, array [strata] of the stage's trials by then."""
        return self._draw(stage.design, stage.looks, np.random.default_rng([self._seed, number]))

    @abstractmethod
    def _first_design(self) -> Design:
        """How the pilot draws."""

    @abstractmethod
    def _main_stage(self, pilot: Trials) -> Stage:
        """The main stage, given the pilot's trials."""

    @abstractmethod
    def _draw(self, design: Design, looks: tuple[int, ...], rng: np.random.Generator) -> Iterator[Integers]:
        """For each look, array [strata] of trials by then, none below those of the look before."""

    def _waves(self) -> tuple[int, ...]:
        """Trials of the pilot by the end of each wave, doubling from a part of those that would do if there were no event."""
        population = int(self.size.sum())
        if self._budget:
            return (int(self.pilot_part * min(self._budget, population)),)
        silent = math.log(2 / (1 - self.level)) / (2 * self._target)
        first = min(population, max(SMALLEST_PILOT, round(self.pilot_scale * silent)))
        return tuple(min(population, first << wave) for wave in range((population // first).bit_length() + 1))

    def _looks(self, planned: Spread, pilot: Trials) -> tuple[int, ...]:
        """Trials of the main stage by each look."""
        if self._budget:
            return (self._budget - pilot.stratum.size,)
        first = max(pilot.stratum.size, planned.trials(self._target, self._look_level(0)))
        return tuple(round(first * GROWTH**look) for look in range(len(SPENDING)))

    def _look_level(self, look: int) -> float:
        return 1 - (1 - self.level) * self._spending[look]

    def _trials(self, results: Results) -> Trials:
        return Trials(self._positions(results.strata), results.sdc, results.due)
