"""Sampling in two stages: a pilot plans, a main stage with trials of its own measures."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Hashable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from itertools import takewhile

import numpy as np

from hwbench.bounds import TRIALS
from hwbench.faults.design import Design, Flags, Floats, Guess, Integers, powers
from hwbench.faults.sampler import Rates, Results, Sampler, TooManyTrialsError, Wanted
from hwbench.stats.campaign import Spread

SPENDING = tuple(0.5**look for look in range(1, 13))
"""Parts of the error probability that successive looks at the interval may use up: 1 in all."""

GROWTH = 1.5
"""How many times the trials of one look the next one has."""

MARGIN = 1.4
"""How many times the trials foreseen the first look has: a second look would cost as many more, and workers of its own."""

SMALLEST_PILOT = 60
"""Trials below which a pilot says too little to plan with."""

PILOT_OF_MAIN = 0.11
"""Part of the trials planned for the main stage up to which a pilot is doubled."""


PILOT_INPUTS = 16
"""Inputs that a pilot's trials run over where their number is to be chosen: enough to tell faults apart from inputs."""

PILOT_AMONG = 64
"""Inputs that a pilot's blocks are chosen among: each input costs a golden pass, and a pilot need not see them all."""


@dataclass(frozen=True)
class Inputs:
    """The inputs that trials may run over.

    A trial over m of M inputs, each trial drawing its own, has the variance S_b² + S_w² (1/m - 1/M), with S_b² the variance
    between faults and S_w² the mean variance between one fault's inputs; it costs ``trial_cost`` + m. The pilot tells both
    (`hwbench.faults.design.powers`), and the campaign takes the m whose foreseen trials cost least in all: Cochran (1977),
    "Sampling techniques", section 10.6, over powers of two and M.

    Attributes:
        available: M, how many there are.
        trial_cost: What a trial costs whatever its inputs, in units of what one more input costs: more than the default on
            small networks, less on large ones. A wrong one costs little, because the total is flat near its least.
        per_trial: How many each trial runs over; None to have it chosen.

    Raises:
        ValueError: There is no input, or the cost is below 0.
    """

    available: int
    trial_cost: float = 8.0
    per_trial: int | None = None

    def __post_init__(self) -> None:
        if self.available < 1 or self.trial_cost < 0 or (self.per_trial is not None and self.per_trial < 1):
            raise ValueError(f"a trial needs one input or more, and no cost below 0; got {self}")

    @property
    def of_pilot(self) -> int | None:
        """How many a pilot's trials run over; None for all."""
        return self.cut(self.per_trial or PILOT_INPUTS)

    @property
    def choices(self) -> Sequence[int | None]:
        """How many a trial may run over, few to many, None for all."""
        if self.per_trial is not None:
            return [self.of_pilot]
        return [*(1 << power for power in range((self.available - 1).bit_length())), None]

    def cut(self, number: int) -> int | None:
        """So many inputs, or None for all."""
        return number if number < self.available else None

    def cost(self, trials: int, inputs: int | None) -> float:
        """What trials over so many inputs each cost, in units of one more input."""
        return trials * (self.trial_cost + (inputs or self.available))


@dataclass(frozen=True)
class Trials:
    """Results as arrays.

    Attributes:
        stratum: Array [trials], position of the trial's stratum.
        inputs: Array [trials], how many inputs it ran over.
        sdc, due: Arrays [trials], values in [0, 1].
    """

    stratum: Integers
    inputs: Integers
    sdc: Floats
    due: Floats

    def where(self, chosen: Flags) -> Trials:
        """The trials that a mask [trials] chooses."""
        return Trials(self.stratum[chosen], self.inputs[chosen], self.sdc[chosen], self.due[chosen])

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
        inputs: How many inputs its trials run over; None for all.
    """

    design: Design
    looks: tuple[int, ...]
    sdc: Guess
    due: Guess
    inputs: int | None = None

    def rates(self, trials: Trials, look: int, members: Flags, level: float) -> Rates:
        """What the stage's trials by some look say of some strata (`Design.estimate`)."""
        estimate = partial(self.design.estimate, self.looks[look], trials.stratum, members=members, level=level)
        return Rates(estimate(trials.sdc, self.sdc), estimate(trials.due, self.due))


class TwoStage(Sampler):
    """A pilot, whose results fix the main stage, whose trials alone make the interval.

    Given the pilot, the faults that it tried over all inputs are known and the others are sampled afresh, so that the pilot
    may choose design, number of trials and inputs per trial at will (the idea of Stein 1945, "A two-sample test for a linear
    hypothesis whose power is independent of the variance", Annals of Mathematical Statistics 16). Where pilot or main stage
    run over some of the inputs only, no fault is known, and the main stage samples all of them afresh.

    To reach a half-width, the interval is looked at when the planned trials are done and, while it is too wide, after each
    of a few increases. Their sizes too are fixed by the pilot, and each look has its own part of the error probability
    (`SPENDING`, Bonferroni's inequality): whatever look a campaign stops at, its interval holds at the level. After the last
    look it stops with the interval that it has.

    Args:
        strata, level: As for every sampler.
        n: How many trials to run in all; or else
        half_width: Half the width that the interval of the overall SDC rate is to have.
        inputs: The inputs that trials may run over; None for all, always. With ``n`` their number is chosen by the caller.
        seed: Seed of the choice of strata.
        steps: Stages that ``n`` trials are run in, each twice the one before, for a campaign that may have to end after any of
            them. What ends it must not depend on outcomes.

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
        inputs: Inputs | None = None,
        level: float = 0.95,
        seed: int = 0,
        steps: int = 1,
    ) -> None:
        super().__init__(strata, level)
        if (n is None) == (half_width is None):
            raise ValueError("give either n, the number of trials, or half_width, what the interval is to reach")
        if (n is not None and n < 1) or (half_width is not None and not 0 < half_width < 0.5):
            raise ValueError(f"n starts at 1 and half_width lies between 0 and 0.5; got n={n}, half_width={half_width}")
        if n is not None and inputs is not None and inputs.per_trial is None:
            raise ValueError(
                "with n, the number of trials, say how many inputs each runs over, or leave inputs out for all"
            )
        self._budget, self._target, self._seed = n or 0, half_width or 0.0, seed
        self._spending = (1.0,) * steps if self._budget else SPENDING
        self._inputs = inputs
        of_pilot = inputs.of_pilot if inputs is not None else None
        nothing, first = Guess(np.zeros(self.size.size)), replace(self._first_design(), repeats=of_pilot is not None)
        self._pilot = Stage(first, self._waves(), nothing, nothing, of_pilot)

    def next(self, results: Results) -> Wanted | None:
        """What the pilot lacks; then what the main stage lacks at its next look; None when it may stop."""
        trials = self._trials(results)
        _, first, stage = self._planned(trials)
        if stage is None:
            wanted = self._wanted(first - trials.per_stratum(self.size.size), self._pilot.inputs)
            among = None if self._pilot.inputs is None else max(PILOT_AMONG, self._pilot.inputs)
            return wanted and replace(wanted, among=among)
        main = trials.where(~trials.among_first(first))
        everything = np.ones(self.size.size, dtype=np.bool_)
        for look, counts in enumerate(self._counts(stage, 1)):
            lacking = counts - main.per_stratum(self.size.size)
            if (lacking > 0).any():
                return self._wanted(lacking, stage.inputs)
            reached = main.where(main.among_first(counts))
            found = stage.rates(reached, look, everything, self._look_level(look)).sdc
            if not self._budget and (found.high - found.low) / 2 <= self._target:
                break
        return None

    def _rates(self, results: Results, members: list[Flags]) -> list[Rates]:
        trials = self._trials(results)
        wave, first, stage = self._planned(trials)
        if stage is None:
            return [self._pilot.rates(trials, wave, part, self.level) for part in members]
        early = trials.among_first(first)
        pilot, main = trials.where(early), trials.where(~early)
        tried, reached = main.per_stratum(self.size.size), 0
        with suppress(TooManyTrialsError):  # of a look that cannot be reached
            for _ in takewhile(lambda counts: bool((tried >= counts).all()), self._counts(stage, 1)):
                reached += 1
        look = max(0, reached - 1)
        level = self._look_level(look)

        def rates(part: Flags) -> Rates:
            """From the stage that has more trials there; from the main one where it has tried all, or the pilot few inputs."""
            few = tried[part].sum() < min(first[part].sum(), stage.design.remaining[part].sum())
            if self._pilot.inputs is not None or not few:
                return stage.rates(main, look, part, level)
            return self._pilot.rates(pilot, wave, part, level)

        # Looks spend parts of the error probability, so that the interval holds at the level asked for wherever one stops.
        return [_at_level(rates(part), self.level) for part in members]

    def _planned(self, trials: Trials) -> tuple[int, Integers, Stage | None]:
        """The pilot's last wave so far, its trials per stratum and, if they are all done and enough, the main stage."""
        for wave, counts in enumerate(self._counts(self._pilot, 0)):
            pilot = trials.where(trials.among_first(counts))
            if pilot.stratum.size < counts.sum():
                return wave, counts, None
            stage = self._main_stage(pilot)
            _require_plannable(stage, stage.looks[0])  # before a larger pilot is run for it
            if self._budget or pilot.stratum.size >= PILOT_OF_MAIN * stage.looks[0]:
                break
        return wave, counts, stage

    def _counts(self, stage: Stage, number: int) -> Iterator[Integers]:
        """For each look, array [strata] of the stage's trials by then."""
        draws = self._draw(stage.design, stage.looks, np.random.default_rng([self._seed, number]))
        for look in stage.looks:
            _require_plannable(stage, look)  # before as many are drawn
            yield next(draws)

    @abstractmethod
    def _first_design(self) -> Design:
        """How the pilot draws."""

    def _main_stage(self, pilot: Trials) -> Stage:
        """The main stage, given the pilot's trials: the cheapest by what they foresee.

        With more inputs a trial its costs fall, then rise; all inputs, where no fault is tried twice, may be cheaper still.
        """
        if self._inputs is None:
            return self._stage(pilot, None)
        *some, last = self._inputs.choices
        best = self._stage(pilot, last)
        least = self._inputs.cost(best.looks[0], last)
        before = math.inf
        for inputs in some:
            stage = self._stage(pilot, inputs)
            cost = self._inputs.cost(stage.looks[0], inputs)
            if cost > before:
                break
            before = cost
            if cost < least:
                best, least = stage, cost
        return best

    @abstractmethod
    def _stage(self, pilot: Trials, inputs: int | None) -> Stage:
        """The main stage over so many inputs a trial (None: all), given the pilot's trials."""

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
            left, last = self._budget - pilot.stratum.size, len(self._spending) - 1
            return tuple(max(1, left >> (last - step)) for step in range(last + 1))
        first = max(pilot.stratum.size, round(MARGIN * planned.trials(self._target, self._look_level(0))))
        return tuple(round(first * GROWTH**look) for look in range(len(SPENDING)))

    def _look_level(self, look: int) -> float:
        return 1 - (1 - self.level) * self._spending[look]

    def _trials(self, results: Results) -> Trials:
        return Trials(self._positions(results.strata), results.inputs, results.sdc, results.due)

    def _powers(self, pilot: Trials, inputs: int | None) -> Floats:
        """The powers of the pilot's SDC values, as trials over so many inputs would have them."""
        if self._inputs is None or inputs == self._pilot.inputs:
            return np.stack([pilot.sdc, pilot.sdc**2, pilot.sdc**3])
        return powers(pilot.sdc, pilot.inputs, inputs or self._inputs.available)

    def _known(self, total: Floats, inputs: int | None) -> Floats:
        """Array [strata]: what is known exactly once the pilot gave these sums, if the main stage has so many inputs."""
        return total if self._pilot.inputs is None and inputs is None else np.zeros_like(total)

    def _remaining(self, pilot: Trials, inputs: int | None) -> Integers:
        """Array [strata]: the faults that a main stage over so many inputs draws from."""
        exact = self._pilot.inputs is None and inputs is None
        return self.size - pilot.per_stratum(self.size.size) if exact else self.size


def _require_plannable(stage: Stage, look: int) -> None:
    needed = look if stage.design.repeats else min(look, int(stage.design.remaining.sum()))
    if needed > TRIALS:
        raise TooManyTrialsError(needed)


def _at_level(rates: Rates, level: float) -> Rates:
    return Rates(replace(rates.sdc, level=level), replace(rates.due, level=level))
