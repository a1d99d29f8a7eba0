"""Sequential designs of sweeps: how many draws each setting gets, over how many inputs, and what every look may claim."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count

import numpy as np

from hwbench.stats.unseen import Sampled
from hwbench.studies.base import LEVEL

UPDATE_COST = 16.0
"""Least cost of a draw whatever its inputs (new weights, a compilation), in units of what one more input costs. Costs are a
model, because measured ones would make the table depend on the machine; a wrong one costs little, since the total is flat
near its least."""

PILOT = 16
"""Draws of the first look, and the least number of inputs of a draw."""

_EARLY = 96
"""Draws of a look between the pilot and the first one that could show that a loss is small."""

_LIMIT_SHARES: tuple[Sequence[float], Sequence[float]] = (0.3, 0.3, 0.2), (0.02, 0.03, 0.45)
"""Shares of the error probability of the lower and the upper bound that the first looks use up where there is a limit: pilot,
early look, first look that could show a small loss. Later ones use half of what is left each, the last one all of it."""

_SHARES: tuple[Sequence[float], Sequence[float]] = (0.1,), (0.1,)
"""The same without a limit."""

_NO_LIMIT_DRAWS = 64
"""Draws that remain affordable whatever the inputs of a draw, where there is no limit to decide on."""

_NOTICEABLE = 1.25
"""Width of an interval, as a multiple of the width that the inputs alone leave, below which more draws are not worth their
cost."""


@dataclass(frozen=True)
class Look:
    """A point at which intervals are computed.

    Attributes:
        draws: Draws of each setting until then.
        tails: Error probabilities that the lower and the upper bound may use up.
    """

    draws: int
    tails: tuple[float, float]


@dataclass(frozen=True)
class Design:
    """Draws of a sweep's settings: looks fixed beforehand, until what is wanted is decided.

    Each look's bounds use up part of the error probability, so that all of them hold at once and stopping at any of them, for
    whatever reason, is sound (Bonferroni over looks: alpha spending, Lan and DeMets 1983, "Discrete sequential boundaries for
    clinical trials", Biometrika 70). Most of the upper bound's part goes to the first look at which draws without a single
    loss can show that the mean loss is within the limit; the lower bound's to the looks before, which find large losses.

    Attributes:
        available: How many inputs there are.
        limit: Mean loss to decide on; None to narrow the interval only.
        half_width: Wanted half-width of the interval, where there is no limit or the inputs are too few to decide on it.
        effort: Draws over all inputs that a setting may cost at most.
        draws: A fixed number of draws, with one look; None for a sequential design.
        per_draw: A fixed number of inputs per draw; None to have it chosen.
        step: What numbers of inputs per draw are multiples of: the batch of the graph, where that is fixed.
        shared: Whether a draw does the same to all inputs; else (noise drawn input by input) it costs no update either.
        update_cost: Cost of a draw whatever its inputs, in units of what one more input costs.
    """

    available: int
    limit: float | None
    half_width: float
    effort: int
    draws: int | None = None
    per_draw: int | None = None
    step: int = PILOT
    shared: bool = True
    update_cost: float = UPDATE_COST

    @property
    def fixed(self) -> bool:
        """True if there is one look, after a given number of draws."""
        return self.draws is not None

    @property
    def first_inputs(self) -> int:
        """Inputs of each draw until the first look."""
        free = max(1.0, self.update_cost / (8 * self.step))  # so many times the step cost little beside the update
        times = 1 << int(math.log2(free)) if self.shared else 16
        wanted = self.available if self.fixed else self.step * times
        return min(self.per_draw or wanted, self.available)

    def inputs(self, pilot: Sequence[np.ndarray]) -> int:
        """Inputs of each later draw: those at which the total cost of a given precision is least.

        A draw over m inputs has the variance S_b² + S_w² / m and costs `update_cost` + m, least at m = √(cost S_w² / S_b²):
        Cochran (1977), "Sampling techniques", section 10.6. Powers of two times `step`; no more than leave enough draws.

        Args:
            pilot: Losses of the settings that go on, each ``[draws, inputs]``.
        """
        if self.per_draw or not self.shared or not pilot:
            return self.first_inputs
        within = float(np.mean([losses.var(axis=1, ddof=1).mean() for losses in pilot]))
        total = float(np.mean([losses.mean(axis=1).var(ddof=1) for losses in pilot]))
        between = max(total - within / pilot[0].shape[1], within / self.available**2)
        if not within or self.first_inputs < 2:
            return self.first_inputs
        chosen = self.first_inputs
        for power in count(1):
            more = self.first_inputs << power
            fewer = self.most(more) < min(self._least, 0.9 * self.most(chosen))
            if fewer or more > min(math.sqrt(self.update_cost * within / between), self.available):
                return chosen
            chosen = more
        raise AssertionError("unreachable: the loop returns")

    def looks(self, inputs: int) -> list[Look]:
        """All looks, if every later draw runs on so many inputs.

        Args:
            inputs: From `inputs`.
        """
        half = (1 - LEVEL) / 2
        if self.draws is not None:
            return [Look(self.draws, (half, half))]
        numbers, main, growth = [PILOT if self.shared else 1], self._decisive, 2
        if self.limit is None:
            main, growth = 4 * numbers[0], 4
        elif main > _EARLY:
            numbers.append(_EARLY)
        numbers += [main * growth**power for power in range(32)]
        most = self.most(inputs)
        numbers = [*(number for number in numbers if number < most), most]
        below, above = _LIMIT_SHARES if self.limit is not None else _SHARES
        if self.limit is not None and main <= _EARLY:
            below, above = below[1:], (above[0], *above[2:])
        return [
            Look(number, (half * _share(below, place, numbers), half * _share(above, place, numbers)))
            for place, number in enumerate(numbers)
        ]

    def most(self, inputs: int) -> int:
        """Draws that a setting may have at most, each over so many inputs."""
        update = self.update_cost if self.shared else 0.0
        return max(PILOT if self.shared else 1, int(self.effort * (update + self.available) / (update + inputs)))

    def decided(self, found: Sampled) -> bool:
        """True if a setting needs no more draws: the limit is decided, or the interval is narrow enough."""
        estimate = found.estimate
        if self.limit is not None and (estimate.high <= self.limit or estimate.low > self.limit):
            return True
        if self.limit is not None and self.decidable(found):
            return False
        half = (estimate.high - estimate.low) / 2
        of_inputs = (found.of_inputs() + found.mirrored().of_inputs()) / 2
        return half <= max(self.half_width, _NOTICEABLE * of_inputs if self.shared else 0.0)

    def decidable(self, found: Sampled) -> bool:
        """True if some number of draws can decide the limit, given the inputs."""
        if self.limit is None:
            return False
        distance = self.limit - found.value
        return found.reaches(distance) if distance >= 0 else found.mirrored().reaches(-distance)

    def draws_needed(self, found: Sampled) -> int | None:
        """Draws with which the interval would be on one side of the limit if the figures stay as they are.

        Returns:
            The number; None where the inputs are too few for any number.
        """
        if self.limit is None:
            return None
        if found.value <= self.limit:
            return found.draws_within(self.limit - found.value)
        return found.mirrored().draws_within(found.value - self.limit)

    @property
    def _decisive(self) -> int:
        """The least number of draws without a loss whose upper bound is within the limit."""
        tail = (1 - LEVEL) / 2 * _LIMIT_SHARES[1][2]
        return max(PILOT + 1, math.ceil(math.log(tail) / math.log1p(-min(max(self.limit or 1.0, 1e-9), 0.5))))

    @property
    def _least(self) -> int:
        """Draws that must remain affordable."""
        return _NO_LIMIT_DRAWS if self.limit is None else self._decisive


def _share(first: Sequence[float], place: int, looks: Sequence[int]) -> float:
    """The share of the error probability that one look uses up."""
    left = 1.0
    for at in range(place + 1):
        share = left if at == len(looks) - 1 else first[at] if at < len(first) else left / 2
        left -= share
    return share
