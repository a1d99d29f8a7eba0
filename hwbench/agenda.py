"""Order of a run's jobs, the time each may take, and the jobs declined because the budget is spent."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence

from hwbench.budget import Budget
from hwbench.costs import Costs
from hwbench.plans import Plan
from hwbench.scheduler import Running
from hwbench.worker.protocol import Job, JobResult

# A job is not begun where it is expected to take so many times what is left.
_HOPELESS = 1.5
# Timings of a study that come before time is kept for further rounds, and the part of the time that is kept.
_FIRST, _KEPT = 2, 0.4
# Part of the time that is kept for jobs that measure time or memory while others run, at most.
_ALONE = 0.4
# Part of the time that a job may take at least whose estimate is a guess.
_LEAST = 0.1


class Agenda:
    """The jobs of a run in the order of their worth.

    Without a budget that is the order in which they were planned, round after round. With one, what every study needs at least
    comes first, jobs that can be cut between variants last among it, each with its share of the time; then timings; then the
    further rounds, those of studies with an undecided acceptance rule first.

    Args:
        budget: The time there is.
        costs: How long jobs take.
        results: The results so far, by the jobs' keys.
        at_once: How many jobs that measure no time run at once.
        undecided: Whether an acceptance rule of a plan's study is undecided by its results so far.
    """

    def __init__(
        self,
        budget: Budget,
        costs: Costs,
        results: Mapping[str, JobResult],
        at_once: int,
        undecided: Callable[[Plan], bool],
    ) -> None:
        self.plans: list[Plan] = []
        self.round = 0
        self._budget, self._costs, self._results = budget, costs, results
        self._at_once, self._undecided = at_once, undecided
        self._kept = 0.0
        self._alone: float | None = None

    def waiting(self, *, exclusive: bool | None = None) -> dict[str, Job]:
        """The jobs that are planned, neither done nor declined, by key; all of them, or some."""
        return {
            job.key: job
            for plan in self.plans
            for label, job in plan.jobs.items()
            if job.key not in self._results and label not in plan.declined and exclusive in (None, job.exclusive)
        }

    def of(self, job: Job) -> Plan:
        """The first of the plans that a job is for."""
        return next(plan for plan, _ in self._uses(job))

    def next(self, running: Sequence[Running]) -> tuple[Job, str, float] | None:
        """The next job that measures no time, the study it is for, and the seconds it may take; None for none in this round.

        Args:
            running: The jobs that run.
        """
        busy = {one.job.key for one in running}
        while waiting := [
            job
            for key, job in self.waiting(exclusive=False).items()
            if key not in busy and self._round(job) <= self.round
        ]:
            job = min(waiting, key=self._rank) if self._budget.limited else waiting[0]
            share = self._share(job, waiting, running)
            if share > 0 and not self._is_hopeless(job, share):
                return job, self.of(job).study.name, share
            self.decline(job)
        return None

    def exclusive(self) -> list[Job]:
        """The jobs of this round that measure time or memory."""
        return [job for job in self.waiting(exclusive=True).values() if self._round(job) <= self.round]

    def affords(self, job: Job) -> bool:
        """True if there is time for a job that measures time or memory: the first few of a study go before all else."""
        if not self._budget.limited:
            return True
        is_first = all(len(plan.done(self._results)) < _FIRST for plan, _ in self._uses(job))
        left = self._budget.left - (0.0 if is_first else self._kept)
        return left > 0 and not self._is_hopeless(job, left)

    def begin_exclusive(self) -> None:
        """Keep a part of the time that is left for further rounds."""
        waiting = self.waiting(exclusive=True)
        others = any(plan for plan in self.plans if not plan.jobs.keys() & waiting)
        self._kept = _KEPT * self._budget.left if self._budget.limited and others else 0.0

    def decline(self, job: Job) -> None:
        """Leave a job undone in every plan that names it."""
        for plan, label in self._uses(job):
            plan.declined.add(label)
            self._budget.decline(plan.case.profile.name, plan.study.name, label)

    def left_s(self, running: Sequence[Running] = ()) -> float | None:
        """Estimate of the seconds that all waiting and running jobs take; None before anything was timed."""
        waiting = self.waiting()
        for one in running:
            waiting.pop(one.job.key, None)
        if not any(self._costs.known(job) for job in (*waiting.values(), *(one.job for one in running))):
            return None
        together = sum(self._costs.of(job) for job in waiting.values() if not job.exclusive)
        alone = sum(self._costs.of(job) for job in waiting.values() if job.exclusive)
        together += sum(one.left_s for one in running)
        return min(together / self._at_once + alone, self._budget.left)

    def _uses(self, job: Job) -> Iterator[tuple[Plan, str]]:
        """The plans that name a job, and their labels for it."""
        for plan in self.plans:
            yield from ((plan, label) for label, other in plan.jobs.items() if other.key == job.key)

    def _round(self, job: Job) -> int:
        return min(plan.rounds[label] for plan, label in self._uses(job))

    def _rank(self, job: Job) -> tuple[int, bool, bool, int]:
        """Lowest first: the round; whole jobs before those that can be cut; undecided studies; those with the least done."""
        plan, number = self.of(job), self._round(job)
        if number == 0:
            return 0, len(job.variants) > 1, False, 0
        return min(number, 1), False, not self._undecided(plan), plan.progress(self._results)[0]

    def _share(self, job: Job, waiting: Sequence[Job], running: Sequence[Running]) -> float:
        """Seconds that a job may take."""
        if not self._budget.limited:
            return math.inf
        if any(label in (plan.concluding or ()) for plan, label in self._uses(job)):
            return self._budget.left
        left = self._budget.left
        if self._round(job) == 0 and len(job.variants) < 2:  # what no study can do without
            return left
        left -= self._reserve()
        if self._round(job) > 0:
            return left
        whole = sum(self._costs.of(other) for other in waiting if len(other.variants) < 2)
        parts = sum(self._costs.of(other) for other in waiting if len(other.variants) > 1)
        capacity = left * self._at_once - sum(min(one.left_s, left) for one in running) - whole
        least = 0.0 if self._costs.trusted(job) else _LEAST * left
        return min(left, max(least, self._costs.of(job) * max(capacity, 0.0) / parts))

    def _reserve(self) -> float:
        """Seconds kept for timings, and for what studies need at their end."""
        alone = sum(self._costs.of(job) for job in self.exclusive())
        together, waiting = 0.0, self.waiting()
        for plan in self.plans:
            if plan.concluding is None and plan.is_enough(self._results):
                ends = plan.study.conclude(plan.case, plan.settings, plan.done(self._results))
                together += sum(self._costs.of(job) for job in ends.values() if job.key not in waiting)
        if self._alone is None:
            self._alone = _ALONE * self._budget.left
        return min(alone, self._alone) + together / self._at_once

    def _can_be_cut(self, job: Job) -> bool:
        """True if a job is of use with only some of its variants run."""
        return len(job.variants) > 1 and all(plan.can_be_cut for plan, _ in self._uses(job))

    def _is_hopeless(self, job: Job, share: float) -> bool:
        if not self._budget.limited or not self._costs.trusted(job):
            return False
        least = self._costs.of(job) / (len(job.variants) if self._can_be_cut(job) else 1)
        return least > _HOPELESS * share
