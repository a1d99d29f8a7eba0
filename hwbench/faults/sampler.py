"""What every sampler of fault campaigns has in common: strata in, trials asked for, results in, rates out."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from hwbench.bounds import TRIALS
from hwbench.faults.design import Flags, Floats, Integers
from hwbench.stats import Estimate
from hwbench.stats.estimate import check_level


class TooManyTrialsError(ValueError):
    """A campaign needs more trials than can be planned.

    Args:
        trials: The number that it needs.
    """

    def __init__(self, trials: int) -> None:
        self.trials = trials
        super().__init__(f"{trials:,} trials are needed, more than the limit of {TRIALS:,} per campaign")


class Results:
    """Outcomes of trials, in the order in which a sampler asked for them (only the order within a stratum matters).

    Args:
        strata: Stratum id of each trial.
        n_inputs, n_changed, n_due: Arrays [trials]: inputs run, those with SDC, those with DUE.

    Raises:
        ValueError: Lengths differ, a trial has no input, or more outcomes than inputs.
    """

    def __init__(self, strata: Sequence[Hashable], n_inputs: ArrayLike, n_changed: ArrayLike, n_due: ArrayLike) -> None:
        inputs, changed, due = (np.asarray(column, dtype=np.int64) for column in (n_inputs, n_changed, n_due))
        if {column.shape for column in (inputs, changed, due)} != {(len(strata),)}:
            raise ValueError(
                f"results need one value per trial in each column; got {len(strata)} strata and columns of "
                f"{inputs.shape}, {changed.shape}, {due.shape}"
            )
        wrong = np.flatnonzero((inputs < 1) | (changed < 0) | (due < 0) | (changed + due > inputs))
        if wrong.size:
            at = wrong[0]
            raise ValueError(f"trial {at}: {changed[at]} changed and {due[at]} due of {inputs[at]} inputs")
        self.strata = list(strata)
        self.inputs: Integers = inputs
        self.sdc: Floats = changed / inputs
        self.due: Floats = due / inputs

    @classmethod
    def none(cls) -> Results:
        """No trial yet."""
        return cls([], [], [], [])

    def __len__(self) -> int:
        return len(self.strata)


@dataclass(frozen=True)
class Wanted:
    """Trials to run next.

    Attributes:
        trials: Stratum id to how many more.
        inputs: How many inputs each is to be run over, a random block for each trial, its fault drawn with replacement: the
            value is a sample of what the fault does, so that it may be tried again. None for all inputs; faults are then
            drawn without replacement, and no fault again that was run over all inputs before.
        among: How many inputs those blocks are chosen among, always the same ones, because planning asks for no more; None for
            all inputs.
    """

    trials: dict[Hashable, int]
    inputs: int | None = None
    among: int | None = None


@dataclass(frozen=True)
class Rates:
    """SDC and DUE rate of some strata: means over (fault, input) pairs."""

    sdc: Estimate
    due: Estimate


@dataclass(frozen=True)
class CampaignEstimate:
    """What a campaign says, overall and by the groups asked for."""

    overall: Rates
    groups: dict[Hashable, Rates]


class Sampler(ABC):
    """Decides which trials to run. Deterministic: the same results and seed give the same answers, in any process.

    Args:
        strata: (id, number of faults) pairs. Where ids are tuples, as (tensor, bit), strata that share a component are
            expected to be alike; this makes pilots cheaper and touches no interval's validity.
        level: Confidence level of the intervals.

    Raises:
        ValueError: There is no stratum, an id is given twice, a stratum is empty, or level is out of range.
    """

    def __init__(self, strata: Sequence[tuple[Hashable, int]], level: float = 0.95) -> None:
        check_level(level)
        self.ids = [identity for identity, _ in strata]
        self.size: Integers = np.array([size for _, size in strata], dtype=np.int64)
        self.level = level
        self._position = {identity: position for position, identity in enumerate(self.ids)}
        if not strata or len(self._position) < len(strata) or self.size.min() < 1:
            raise ValueError(
                "a fault space needs at least one stratum, each with an id of its own and at least one fault"
            )

    @abstractmethod
    def next(self, results: Results) -> Wanted | None:
        """Return the trials to run next, given all results so far; None when the campaign is finished.

        Raises:
            TooManyTrialsError: More than `hwbench.bounds.TRIALS` are needed.
        """

    def estimate(
        self, results: Results, groups: Mapping[Hashable, Collection[Hashable]] | None = None
    ) -> CampaignEstimate:
        """SDC and DUE rates, overall and for groups of strata, from the trials so far.

        Between two stages this is an interim figure for display; the one after `next` returned None holds at the level.

        Args:
            results: All trials so far.
            groups: Group name to the ids of its strata, e.g. a tensor, a bit position, a role.

        Raises:
            ValueError: A stratum is not known.
        """
        everything = np.ones(self.size.size, dtype=np.bool_)
        wanted = {name: self._members(ids) for name, ids in (groups or {}).items()}
        overall, *rates = self._rates(results, [everything, *wanted.values()])
        return CampaignEstimate(overall, dict(zip(wanted, rates, strict=True)))

    @abstractmethod
    def _rates(self, results: Results, members: list[Flags]) -> list[Rates]:
        """The rates of each set of strata."""

    def _members(self, ids: Collection[Hashable]) -> Flags:
        members = np.zeros(self.size.size, dtype=np.bool_)
        members[self._positions(ids)] = True
        if not members.any():
            raise ValueError("a group needs at least one stratum")
        return members

    def _positions(self, ids: Collection[Hashable]) -> Integers:
        unknown = next((identity for identity in ids if identity not in self._position), None)
        if unknown is not None:
            raise ValueError(f"stratum {unknown!r} is not in the fault space")
        return np.array([self._position[identity] for identity in ids], dtype=np.int64)

    def _wanted(self, counts: Integers, inputs: int | None = None) -> Wanted | None:
        trials = {self.ids[position]: int(counts[position]) for position in np.flatnonzero(counts > 0)}
        return Wanted(trials, inputs) if trials else None
