"""The studies of a run on the cases they measure, each with its jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from hwbench.costs import passes
from hwbench.preparation import Prepared
from hwbench.record import with_note
from hwbench.studies import Analysis, Case, Study
from hwbench.table import Row
from hwbench.worker.protocol import Job, JobResult

# Deaths that a row's detail names.
_NAMED = 3


@dataclass(frozen=True)
class Death:
    """The workers that died in one variant of a job, or outside of its variants.

    Attributes:
        job: The study's label of the job.
        variant: The variant, or `hwbench.worker.protocol.WORKER`.
        reasons: How each of them died.
        counts: Whether the disturbance ended them, which makes it an outcome.
    """

    job: str
    variant: str
    reasons: tuple[str, ...]
    counts: bool


def describe_deaths(deaths: Sequence[Death]) -> str:
    """A remark on workers that died."""
    named = [
        f"{one.variant}: {', '.join(dict.fromkeys(one.reasons))}"
        + (" each time, while the fault-free build ran: DUE" if one.counts else "")
        for one in deaths[:_NAMED]
    ]
    more = f"; and {len(deaths) - _NAMED} more, in run.json" if len(deaths) > _NAMED else ""
    count = sum(len(one.reasons) for one in deaths)
    died = (
        "1 worker died, and its work was repeated"
        if count == 1
        else f"{count} workers died, and their work was repeated"
    )
    return f"{died} ({'; '.join(named)}{more})"


@dataclass
class Plan:
    """One study on one case: its jobs, and where its rows belong.

    Attributes:
        case: The case.
        study: The study.
        settings: Its settings.
        jobs: Its jobs, by the study's labels.
        rounds: Label to the round in which the study asked for it, from 0.
        declined: Labels of jobs that are not done because the budget is spent.
        concluding: Labels of the jobs from `Study.conclude`; None before it was asked.
        obstacle: From `Study.obstacle`; a study with one has no jobs.
    """

    case: Case
    study: Study
    settings: Any
    jobs: dict[str, Job]
    rounds: dict[str, int] = field(default_factory=dict)
    declined: set[str] = field(default_factory=set)
    concluding: frozenset[str] | None = None
    obstacle: str = ""

    @classmethod
    def of(cls, case: Case, study: Study, settings: Any) -> Plan:
        """The jobs that a study asks for first."""
        plan = cls(case, study, settings, {}, obstacle=study.obstacle(case, settings))
        if not plan.obstacle:
            plan.add(study.plan(case, settings), 0)
        return plan

    @property
    def title(self) -> str:
        """The profile and the study."""
        return f"{self.case.profile.name}: {self.study.name}"

    def add(self, more: Mapping[str, Job], number: int) -> None:
        """Take further jobs, asked for in some round."""
        self.jobs.update(more)
        self.rounds.update(dict.fromkeys(more, number))

    def done(self, results: Mapping[str, JobResult]) -> dict[str, JobResult]:
        """The results there are, by label."""
        return {label: results[job.key] for label, job in self.jobs.items() if job.key in results}

    def is_over(self, results: Mapping[str, JobResult]) -> bool:
        """True if every job is done or declined."""
        return all(job.key in results or label in self.declined for label, job in self.jobs.items())

    def is_cut(self, results: Mapping[str, JobResult]) -> bool:
        """True if the budget has cut it short."""
        return bool(self.declined) or any(result.unfinished for result in self.done(results).values())

    def can_analyse(self, results: Mapping[str, JobResult]) -> bool:
        """True if the finished jobs give figures, cut short or not."""
        if not self.is_cut(results):
            return True
        return not self.declined & (self.concluding or frozenset()) and self.is_enough(results)

    def is_enough(self, results: Mapping[str, JobResult]) -> bool:
        """True if the finished jobs suffice for the study's figures."""
        done = self.done(results)
        return bool(done) and self.study.enough(self.case, self.settings, done)

    @property
    def can_be_cut(self) -> bool:
        """True if the study gives figures from part of its jobs."""
        return type(self.study).enough is not Study.enough

    def progress(self, results: Mapping[str, JobResult]) -> tuple[int, int]:
        """Numbers of passes over the inputs: done, and planned."""
        done = self.done(results)
        unfinished = sum(len(result.unfinished) for result in done.values())
        return sum(passes(self.jobs[label]) for label in done) - unfinished, sum(map(passes, self.jobs.values()))

    def analysis(self, results: Mapping[str, JobResult], budget: str) -> Analysis:
        """The study's figures, which say so where the budget cut it short.

        Args:
            results: The results so far, by the jobs' keys.
            budget: The budget in words.
        """
        if self.obstacle:
            return Analysis([self.study.missing("unavailable", self.obstacle)])
        return self._with_deaths(self._analysis(results, budget), results)

    def deaths(self, results: Mapping[str, JobResult]) -> list[Death]:
        """The workers that died."""
        return [
            Death(label, variant, tuple(reasons), variant in result.caused)
            for label, result in self.done(results).items()
            for variant, reasons in result.deaths.items()
        ]

    def _with_deaths(self, analysis: Analysis, results: Mapping[str, JobResult]) -> Analysis:
        """An analysis whose main figure's rows name the workers that died."""
        deaths, rows = self.deaths(results), analysis.rows
        if not deaths or not rows:
            return analysis
        main = [row for row in rows if row.metric == self.study.headline] or rows
        note = describe_deaths(deaths)
        return replace(analysis, rows=[with_note(row, note) if row is main[0] else row for row in rows])

    def _analysis(self, results: Mapping[str, JobResult], budget: str) -> Analysis:
        finished = self.done(results)
        if not self.is_cut(results):
            return self.study.measure(self.case, self.settings, finished)
        done, planned = self.progress(results)
        cut = f"ended by {budget} after {done:,} of {planned:,} passes"
        if not self.can_analyse(results):
            return Analysis([self.study.missing("unavailable", cut)])
        analysis = self.study.measure(self.case, self.settings, finished)
        rows = [with_note(row, cut) if self._can_change(row) else row for row in analysis.rows]
        return replace(analysis, rows=rows)

    def _can_change(self, row: Row) -> bool:
        """True if more work would have changed a row."""
        return row.ci_low is not None or row.metric == self.study.headline


def plan_studies(prepared: Prepared, cases: Mapping[str, Case]) -> tuple[list[Plan], str | None]:
    """Plan every study of every case; studies of time are left out where the target is emulated.

    Args:
        prepared: The run.
        cases: The cases, by their profiles' names.

    Returns:
        The plans, and the name of the profile that timings are compared with; None if there is none.
    """
    chosen = prepared.studies.values()
    timed = [name for name, case in cases.items() if case.profile.target.kind != "emulated"]
    named = prepared.spec.baseline
    baseline = named if named in timed else None if named else next(iter(timed), None)
    with_points = {name: _with_points(prepared, case) for name, case in cases.items()}
    plans = []
    for name, case in with_points.items():
        compared = case if baseline in (None, name) else replace(case, baseline=with_points[str(baseline)])
        plans += [Plan.of(compared, study, settings) for study, settings in chosen if name in timed or not study.timing]
    return plans, baseline


def _with_points(prepared: Prepared, case: Case) -> Case:
    """A case whose launches time the points of all studies."""
    found = (study.points(case, settings) for study, settings in prepared.studies.values())
    return replace(case, points={name: point for points in found for name, point in points.items()})
