"""Samplers of fault campaigns: which faults to try, when to stop, and what the trials say of all faults.

A sampler sees a fault space as strata, (id, number of faults) pairs, and asks for so many more trials in each. Whoever
runs them draws the faults of a stratum uniformly, without replacement where a trial runs over all inputs, else with it
(`Wanted`). A trial's value is the part of its inputs whose outcome is SDC (or DUE), and the estimand its mean over all
faults: the mean over (fault, input) pairs, given the inputs. The trials are the sampling units, so that the intervals
allow for the inputs of a fault sharing its fate.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Hashable, Iterator, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from hwbench.bounds import TRIALS
from hwbench.faults.design import (
    Design,
    Flags,
    Floats,
    Guess,
    Integers,
    moment,
    neyman_design,
    pilot_design,
    predict,
    sums,
)
from hwbench.faults.sampler import CampaignEstimate, Rates, Results, Sampler, TooManyTrialsError, Wanted
from hwbench.faults.two_stage import Inputs, Stage, Trials, TwoStage
from hwbench.stats import Estimate
from hwbench.stats.campaign import Spread

__all__ = [
    "CampaignEstimate",
    "Exhaustive",
    "Inputs",
    "Rates",
    "Results",
    "Sampler",
    "Stratified",
    "TooManyTrialsError",
    "Uniform",
    "Wanted",
]


class Exhaustive(Sampler):
    """Every fault once: exact rates. Before the end, the interval spans what the missing faults could do."""

    def next(self, results: Results) -> Wanted | None:
        """All faults not tried yet."""
        if self.size.sum() > TRIALS:
            raise TooManyTrialsError(int(self.size.sum()))
        done = np.bincount(self._positions(results.strata), minlength=self.size.size)
        return self._wanted(self.size - done)

    def _rates(self, results: Results, members: list[Flags]) -> list[Rates]:
        stratum = self._positions(results.strata)
        return [
            Rates(self._bounds(stratum, results.sdc, part), self._bounds(stratum, results.due, part))
            for part in members
        ]

    def _bounds(self, stratum: Integers, values: Floats, members: Flags) -> Estimate:
        seen = values[members[stratum]]
        population = int(self.size[members].sum())
        low = float(seen.sum()) / population
        value = float(seen.mean()) if seen.size else 0.5
        return Estimate(value, low, low + (population - seen.size) / population, self.level, seen.size)


class Uniform(TwoStage):
    """Faults drawn uniformly from all strata together: the simple random sample.

    With ``n`` there is no pilot and every trial counts; `hwbench.stats.campaign.leveugle` gives the n of the worst case.
    With ``half_width`` a pilot estimates the variance between faults first.
    """

    pilot_part, pilot_scale = 0.0, 0.3

    def _first_design(self) -> Design:
        return Design(self.size, self.size, self.size / self.size.sum())

    def _stage(self, pilot: Trials, inputs: int | None) -> Stage:
        remaining = self._remaining(pilot, inputs)
        total = int(remaining.sum())
        design = Design(self.size, remaining, remaining / max(total, 1), repeats=inputs is not None)
        mean, second, third = (moment(values) for values in self._powers(pilot, inputs))
        skew = max(0.0, third - 3 * second * mean + 2 * mean**3)
        variance = max(0.0, second - mean**2)
        planned = Spread(variance, skew, mean, 1 - mean, math.inf if design.repeats else max(total, 1))
        sdc, due = (
            Guess(self._known(sums(pilot.stratum, values, self.size.size), inputs)) for values in (pilot.sdc, pilot.due)
        )
        return Stage(design, self._looks(planned, pilot), sdc, due, inputs)

    def _draw(self, design: Design, looks: tuple[int, ...], rng: np.random.Generator) -> Iterator[Integers]:
        done, before = np.zeros_like(self.size), 0
        for look in looks:
            if design.repeats:
                done, before = done + rng.multinomial(look - before, design.shares), look
                yield done
                continue
            ends = np.cumsum(design.remaining - done)
            more = min(look - before, int(ends[-1]))
            drawn = rng.choice(ends[-1], more, replace=False, shuffle=False) if more else np.empty(0, dtype=np.int64)
            done = done + np.bincount(np.searchsorted(ends, drawn, side="right"), minlength=done.size)
            before = look
            yield done


class Stratified(TwoStage):
    """Trials where the outcomes vary: a pilot over all strata, then Neyman allocation with a share for the silent ones.

    Strata in which the pilot saw no event are in effect merged: they are sampled in proportion to their sizes and share
    one exact bound, which is part of the one interval (`Design.estimate`), so that no error probability is spent on them
    apart. Ruospo et al. (2023), "Assessing convolutional neural networks reliability through statistical fault
    injections", DATE, on strata of layer and bit. Much is gained where few strata hold the risk (the exponents of floats);
    where every event is rare and the half-width near the rate itself, no design beats uniform sampling by much.
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

    def _stage(self, pilot: Trials, inputs: int | None) -> Stage:
        predicted = (predict(pilot.stratum, values, self.size.size, self._kin) for values in (pilot.sdc, pilot.due))
        sdc, due = (replace(guess, known=self._known(guess.known, inputs)) for guess in predicted)
        remaining = self._remaining(pilot, inputs)
        if not remaining.any():
            return Stage(Design(self.size, remaining, np.zeros(self.size.size)), (0,), sdc, due)
        powers, repeats = self._powers(pilot, inputs), inputs is not None
        design, planned = neyman_design(self.size, remaining, powers, sdc, self._cost(pilot), repeats=repeats)
        looks = self._looks(planned, pilot)
        return Stage(design.capped(looks[0]), looks, sdc, due, inputs)

    def _cost(self, pilot: Trials) -> Callable[[Spread], float]:
        """What a design is chosen by: the trials to the target, or the half-width after the budget."""
        if self._budget:
            return lambda planned: planned.half_width(self._budget - pilot.stratum.size, self.level)
        return lambda planned: planned.trials(self._target, self._look_level(0))

    def _draw(self, design: Design, looks: tuple[int, ...], rng: np.random.Generator) -> Iterator[Integers]:
        start = rng.random()
        return (design.counts(look, looks[0], start) for look in looks)


def _families(labels: Sequence[Hashable]) -> Integers:
    """Equal labels numbered alike, from 0 in order of appearance."""
    numbers = {label: number for number, label in enumerate(dict.fromkeys(labels))}
    return np.array([numbers[label] for label in labels], dtype=np.int64)
