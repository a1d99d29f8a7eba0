"""One stage of a sampled fault campaign: how often each stratum is drawn, and what the trials then say."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from hwbench.stats import Estimate
from hwbench.stats.campaign import Spread, bounded_mean, finite_population

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Flags = NDArray[np.bool_]

PROPORTIONAL_PARTS = tuple(step / 20 for step in range(2, 21))
"""Parts of a stage's trials that may go to all strata in proportion to their sizes."""

_KIN_TRIALS = 2.0
"""How many trials of a stratum's own weigh as much as what its kin show."""

_EXTRA_TRIALS, _EXTRA_EVENTS = 1.0, 0.5
"""Added to a pilot, so that no rate is predicted as 0."""

_LARGEST_RATE = 0.9
_SMALLEST_VARIANCE = 0.05
"""As a part of the variance that a stratum's second moment would allow: a pilot of equal values proves little."""


@dataclass(frozen=True)
class Guess:
    """What is known of a figure before a stage.

    Attributes:
        known: Array [strata], sum of the values of the faults tried before; they are known exactly, not estimated.
        total, trials: Arrays [strata], the sum and number of pseudo-trials that predict the mean of the rest; None if
            nothing is predicted.
    """

    known: Floats
    total: Floats | None = None
    trials: Floats | None = None

    @property
    def mean(self) -> Floats:
        """Predicted mean value of each stratum, 0 if nothing is predicted."""
        return np.zeros_like(self.known) if self.total is None or self.trials is None else self.total / self.trials

    def updated(self, stratum: Integers, values: Floats) -> tuple[Floats, Floats]:
        """Predictions that have seen the stage's trials, none its own.

        Returns:
            Array [trials], for each trial the mean of its stratum's pseudo-trials and other trials; before it array
            [strata], the mean of that over the stratum's trials, or the prediction where there are none. All 0 where no
            trial has an event: there is nothing to adjust, and the estimate of nothing seen is 0.
        """
        if self.total is None or self.trials is None or (values.size and not values.any()):
            return np.zeros_like(self.known), np.zeros(values.size)
        number = np.bincount(stratum, minlength=self.known.size)
        total = self.total + np.bincount(stratum, values, self.known.size)
        others = (total[stratum] - values) / (self.trials + number - 1)[stratum]
        means = np.bincount(stratum, others, self.known.size) / np.maximum(number, 1)
        return np.where(number > 0, means, self.mean), others


@dataclass(frozen=True)
class Design:
    """How often each stratum is drawn.

    Attributes:
        size: Array [strata], all faults.
        remaining: Array [strata], faults not tried before this stage.
        shares: Array [strata], the probability that a trial of this stage lies in the stratum; sums to 1.
        repeats: Whether faults are drawn with replacement, as they are where a trial samples the inputs too: no number of
            trials then makes a stratum known, nor an interval narrower than that of independent trials.
    """

    size: Integers
    remaining: Integers
    shares: Floats
    repeats: bool = False

    def certain(self, trials: int) -> Flags:
        """Which strata are tried in full by a stage of so many trials: array [strata]."""
        if self.repeats or trials >= self.remaining.sum():
            return np.full(self.size.size, not self.repeats)
        full: Flags = trials * self.shares >= self.remaining - 1e-6
        return full

    def counts(self, trials: int, planned: int, start: float) -> Integers:
        """How many of a stage's trials go to each stratum: its share, randomly rounded so that its expectation is kept.

        Systematic sampling of the strata (Madow and Madow 1944, "On the theory of systematic sampling, I", Annals of
        Mathematical Statistics 15). Counts sum to ``planned`` where ``trials`` is that, and none falls as ``trials`` grows.

        Args:
            trials: Trials of the stage.
            planned: For how many trials the strata are laid side by side.
            start: A uniform random number in [0, 1).
        """
        laid = np.cumsum(planned * self.shares) - planned * self.shares
        drawn = np.floor(trials * self.shares + (start + laid) % 1.0).astype(np.int64)
        if self.repeats:
            return drawn
        return np.where(self.certain(trials), self.remaining, np.minimum(drawn, self.remaining))

    def capped(self, trials: int) -> Design:
        """This design with no stratum expected to give more of ``trials`` than it has; the others take what it cannot."""
        if self.repeats or trials >= self.remaining.sum():
            return self
        most = self.remaining / trials
        full = np.zeros(self.size.size, dtype=np.bool_)
        shares = self.shares
        while (over := shares > most * (1 + 1e-9)).any():
            full |= over
            free = np.where(full, 0.0, self.shares)
            shares = np.where(full, most, free * (1 - most[full].sum()) / free.sum())
        return replace(self, shares=shares)

    def estimate(
        self, trials: int, stratum: Integers, values: Floats, guess: Guess, members: Flags, level: float
    ) -> Estimate:
        """Mean value over all faults of some strata, from the trials of this stage.

        With R faults left in a stratum, drawn with probability q, a trial of value y becomes x = R/q · (y - g), g being
        what its stratum was expected to give: the guess, and the stratum's other trials. The mean of x and Σ R g
        together are the sum over all that is left, whatever the guesses, so one interval for a bounded mean over all x
        (`bounded_mean`) holds for frequent and silent strata alike. The silent ones, drawn in proportion to their
        sizes, share its one exact bound. This is importance sampling with a defensive mixture (Hesterberg 1995,
        "Weighted average importance sampling and defensive mixture distributions", Technometrics 37) and control
        variates; in strata with many trials it is the classical stratified estimate (Cochran 1977, chapter 5).

        Args:
            trials: For how many trials the stage's counts were drawn.
            stratum: Array [trials], the position of each trial's stratum.
            values: Array [trials] in [0, 1].
            guess: What was known of these values before the stage.
            members: Array [strata], the strata asked about.
            level: Confidence level.

        Returns:
            The estimate, within [0, 1]. ``n`` counts the trials in these strata, those before the stage included.
        """
        strata = self.size.size
        asked = members[stratum]
        stratum, values = stratum[asked], values[asked]
        tried = np.bincount(stratum, minlength=strata)
        rest = members & ~(self.certain(trials) & (tried >= self.remaining))
        n, population = int((tried + self.size - self.remaining)[members].sum()), float(self.size[members].sum())
        exact = float(guess.known[members].sum() + values[~rest[stratum]].sum()) / population
        left = np.where(rest, self.remaining, 0) / population
        if not left.any():
            return Estimate(exact, exact, exact, level, n)
        at, y = stratum[rest[stratum]], values[rest[stratum]]
        expected, others = guess.updated(at, y)
        offset = exact + float(left @ expected)
        if not at.size:
            return Estimate(min(1.0, offset), exact, min(1.0, exact + float(left.sum())), level, n)
        chance = float(self.shares[rest].sum())
        unit = np.divide(left * chance, self.shares, out=np.zeros(strata), where=rest)
        x = unit[at] * (y - others)
        lower = min(float((-unit * expected).min()), float(x.min()))
        upper = max(float((unit * (1 - expected)).max()), float(x.max()))
        fraction = 0.0 if self.repeats else at.size / chance * float((self.shares[rest] / self.remaining[rest]).min())
        return _shifted(bounded_mean(x, lower, upper, level), offset, finite_population(fraction), n)


def pilot_design(size: Integers) -> Design:
    """A first stage that knows nothing but sizes: half of it in proportion to them, half to their square roots."""
    roots = np.sqrt(size)
    return Design(size, size, (size / size.sum() + roots / roots.sum()) / 2)


def sums(stratum: Integers, values: Floats, strata: int) -> Floats:
    """Array [strata], sum of the values of each stratum's trials."""
    return np.bincount(stratum, values, strata).astype(np.float64)


def powers(values: Floats, inputs: Integers, per_trial: int) -> Floats:
    """What the powers of a pilot's values would be, had each trial run over another number of inputs.

    Of k events in n inputs, k(k-1)/(n(n-1)) and k(k-1)(k-2)/(n(n-1)(n-2)) are without bias the probabilities that two and
    three of a fault's inputs, drawn without replacement, all have the event (Hoeffding 1948, "A class of statistics with
    asymptotically normal distribution", Annals of Mathematical Statistics 19); they give the second and third moment of the
    share of ``per_trial`` inputs. This is how a pilot tells the variance between faults from that between inputs.

    Args:
        values: Array [trials], shares of inputs with an event.
        inputs: Array [trials], how many inputs each ran over.
        per_trial: How many it would run over.

    Returns:
        Array [3, trials]: unbiased for the expected value, its square and its cube; these themselves where ``inputs`` is
        ``per_trial``.
    """
    n, k, m = inputs.astype(np.float64), values * inputs, float(per_trial)
    two = k * (k - 1) / np.maximum(n * (n - 1), 1)
    three = two * (k - 2) / np.maximum(n - 2, 1)
    square = (values + (m - 1) * two) / m
    cube = (values + 3 * (m - 1) * two + (m - 1) * (m - 2) * three) / m**2
    return np.stack([values, square, cube])


def moment(values: Floats) -> float:
    """Mean of a power of the values, with half an event more than a pilot saw; 1 is its value if the pilot saw none."""
    event = float(values.max(initial=0.0)) or 1.0
    return float(values.sum() + _EXTRA_EVENTS * event) / (values.size + _EXTRA_TRIALS)


def predict(stratum: Integers, values: Floats, strata: int, kin: Sequence[Integers]) -> Guess:
    """What a pilot says of each stratum's mean.

    A stratum's own trials and, weighing as much as two of them, the rate expected from its kin: the overall rate times
    what each kinship (its tensor, its bit position) multiplies it by.

    Args:
        stratum: Array [pilot trials], position of each trial's stratum.
        values: Array [pilot trials] in [0, 1].
        strata: How many strata there are.
        kin: Arrays [strata] of family numbers, one array for each kinship.
    """
    tried, total = np.bincount(stratum, minlength=strata), sums(stratum, values, strata)
    rate = moment(values)
    expected = np.full(strata, rate)
    for family in kin:
        events, trials = np.bincount(family, total), np.bincount(family, tried)
        expected = expected * ((events + _KIN_TRIALS * rate) / (trials + _KIN_TRIALS) / rate)[family]
    pseudo = _KIN_TRIALS * np.minimum(expected, _LARGEST_RATE)
    return Guess(total, total + pseudo, (tried + _KIN_TRIALS).astype(np.float64))


def neyman_design(
    size: Integers,
    remaining: Integers,
    powers: Floats,
    guess: Guess,
    cost: Callable[[Spread], float],
    *,
    repeats: bool = False,
) -> tuple[Design, Spread]:
    """The main stage that is best as far as a pilot can tell, and what to expect of its trials.

    A part of the trials in proportion to the strata's sizes, which the silent strata live on; the rest in proportion to
    size times standard deviation (Neyman 1934, "On the two different aspects of the representative method", Journal of
    the Royal Statistical Society 97).

    Args:
        size: Array [strata], all faults.
        remaining: Array [strata], faults to draw from.
        powers: Array [3, pilot trials], from `powers`.
        guess: What `predict` says of the strata.
        cost: What is least for the best part, e.g. the trials needed.
        repeats: Whether faults are drawn with replacement.
    """
    weight = remaining / size.sum()
    p = guess.mean
    first, second, third = (moment(values) for values in powers)
    second, third = second / first, third / first
    variance = np.maximum(second * p - p * p, _SMALLEST_VARIANCE * second * p)
    skew = np.maximum(third * p - 3 * second * p * p + 2 * p**3, 0.0)
    proportional, neyman = weight / weight.sum(), weight * np.sqrt(variance) / (weight @ np.sqrt(variance))

    def candidate(part: float) -> tuple[Design, Spread]:
        shares = part * proportional + (1 - part) * neyman
        unit = np.divide(weight, shares, out=np.zeros_like(weight), where=shares > 0)
        moments = float(unit * weight @ variance), float(unit**2 * weight @ skew)
        bounds = float((unit * p).max()), float((unit * (1 - p)).max())
        population = math.inf if repeats else float(unit.max() * size.sum())
        return Design(size, remaining, shares, repeats), Spread(*moments, *bounds, population=population)

    return min((candidate(part) for part in PROPORTIONAL_PARTS), key=lambda found: cost(found[1]))


def _shifted(part: Estimate, offset: float, shrink: float, n: int) -> Estimate:
    """An estimate moved by ``offset``, its interval shrunk and kept within [0, 1]."""
    bounds = (part.value, part.value + (part.low - part.value) * shrink, part.value + (part.high - part.value) * shrink)
    value, low, high = (min(1.0, max(0.0, offset + bound)) for bound in bounds)
    return Estimate(value, low, high, part.level, n)
