"""The orchestrator: a specification becomes builds, builds become jobs, jobs become the measurement table."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import ExitStack, closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.agenda import Agenda
from hwbench.analyses import Analyses
from hwbench.budget import ANALYSIS, Budget
from hwbench.build import Build
from hwbench.errors import JobError, RunDirectoryError, TargetLostError, UnavailableError
from hwbench.files import require_text
from hwbench.making import Making
from hwbench.plans import Plan, plan_studies
from hwbench.preparation import REFERENCE, REFERENCE_PROFILE, Prepared, check_builds
from hwbench.profile import Profile
from hwbench.progress import Progress, Silent
from hwbench.record import DEATHS, INTERLEAVED, chance_warning, finite, first_record, now, with_factor
from hwbench.reference import settle_labels, try_reference
from hwbench.run_record import problem
from hwbench.scheduler import Running, Scheduler
from hwbench.store import RUN_FILE, RunDirectory, damaged
from hwbench.studies import Analysis, Case, Subject, studies
from hwbench.studies.coverage import ran_precisions
from hwbench.studies.launches import in_blocks, interleave
from hwbench.studies.timed import timed_batch
from hwbench.table import Row, from_frame, to_frame
from hwbench.targets import Targets
from hwbench.verdict import Verdict, judge
from hwbench.worker.protocol import Job

EMULATED = "emulated: time and memory are measured on real hardware only"


@dataclass(frozen=True)
class Outcome:
    """What a run came to.

    Attributes:
        directory: Where it lies.
        rows: Its table.
        verdicts: Its verdicts.
        timings: Name to raw durations in seconds.
    """

    directory: RunDirectory
    rows: Sequence[Row]
    verdicts: Sequence[Verdict]
    timings: Mapping[str, np.ndarray[Any, Any]]


def execute(
    prepared: Prepared,
    out: Path,
    *,
    overwrite: bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    budget: Budget | None = None,
) -> Outcome:
    """Carry out a run.

    Args:
        prepared: From `prepare`.
        out: The run directory.
        overwrite: Replace a run that is there.
        resume: Go on with a run that is there; jobs it finished are not repeated, and a complete run is left as it is.
        progress: Receiver of progress.
        budget: The time there is; default: that of the specification, from now on.

    Raises:
        InputError: The folder cannot be used, or the reference cannot run.
        UnavailableError: The scheduler does not answer, or a worker of it does not fit.
        TargetLostError: The scheduler, or its last worker, went away; the run can be resumed.
    """
    budget = budget or Budget(prepared.spec.budget)
    with prepared.targets() as targets:
        (outcome,) = interleave(
            [_steps(prepared, out, targets, progress or Silent(), budget, overwrite=overwrite, resume=resume)]
        )
        return outcome


def execute_interleaved(
    runs: Sequence[tuple[Prepared, Path]], *, overwrite: bool = False, progress: Progress | None = None
) -> list[Outcome]:
    """Carry out several runs whose timings alternate: launch k of every run before launch k + 1 of any.

    Args:
        runs: Each one's specification, from `prepare`, and run directory.
        overwrite: Replace runs that are there.
        progress: Receiver of progress.

    Raises:
        InputError: As in `execute`.
        UnavailableError: As in `execute`.
    """
    name = hashlib.sha256(repr([(str(out.resolve()), now()) for _, out in runs]).encode()).hexdigest()[:16]
    with ExitStack() as stack:
        steps = []
        for prepared, out in runs:
            targets = stack.enter_context(prepared.targets())
            budget, tell = Budget(prepared.spec.budget), progress or Silent()
            run = _steps(prepared, out, targets, tell, budget, overwrite=overwrite, resume=False, interleaved=name)
            steps.append(stack.enter_context(closing(run)))
        return interleave(steps, runs[0][0].spec.seed)


def _steps(
    prepared: Prepared,
    out: Path,
    targets: Targets,
    progress: Progress,
    budget: Budget,
    *,
    overwrite: bool,
    resume: bool,
    interleaved: str | None = None,
) -> Generator[Job, None, Outcome]:
    """Carry out a run, pausing before each exclusive job with that job."""
    require_text(out, RunDirectoryError)
    record = first_record(prepared) | ({INTERLEAVED: interleaved} if interleaved else {})
    progress.step(f"{REFERENCE}: accuracy")
    measured = try_reference(prepared, budget)
    if all(result.ok for result in measured.values()):
        prepared = settle_labels(prepared, next(iter(measured.values())))
    for study, settings in prepared.studies.values():
        study.check(settings, prepared.data, classifies=prepared.classifies)
    check_builds(prepared)
    with RunDirectory.create(out, record, overwrite=overwrite, resume=resume) as directory:
        if resume and (there := directory.read())["state"] == "complete":
            if wrong := problem(there):
                raise damaged(out / RUN_FILE, wrong)
            verdicts = [Verdict(**verdict) for verdict in there["verdicts"]]
            return Outcome(directory, from_frame(directory.table()), verdicts, {})
        done = {key: result for key, result in measured.items() if result.ok}
        say = prepared.repairs.append
        scheduler = Scheduler(targets, directory.jobs, prepared.spec.jobs, budget, done, say)
        run = _Run(prepared, directory, record, progress, scheduler)
        try:
            yield from run.carry_out()
        except BaseException as error:
            if isinstance(error, TargetLostError):
                run.give_up(error)
            run.save("interrupted")
            raise
        run.save("complete")
        directory.finish()
        return Outcome(directory, run.rows, run.verdicts, run.timings)


@dataclass
class _Run:
    """The state of one run: what has been measured, and what ``run.json`` says of it."""

    prepared: Prepared
    directory: RunDirectory
    record: dict[str, Any]
    progress: Progress
    scheduler: Scheduler
    verdicts: list[Verdict] = field(default_factory=list)
    timings: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        scheduler = self.scheduler
        self._budget, self._results = scheduler.budget, scheduler.results
        self._analyses = Analyses(self.directory, self._results)
        self._making = Making(self.prepared, self.directory, scheduler, self.record)
        self._agenda = Agenda(self._budget, scheduler.costs, self._results, scheduler.at_once, self._is_undecided)
        self._rows: dict[str, dict[str, list[Row]]] = {}
        self._announced: set[str] = set()
        self._undecided: dict[tuple[str, int], bool] = {}
        self._repairs = 0

    @property
    def rows(self) -> list[Row]:
        """All rows so far, in the order of profiles and studies whatever order they were measured in."""
        return [row for of_profile in self._rows.values() for of_study in of_profile.values() for row in of_study]

    def carry_out(self) -> Iterator[Job]:
        """Reference, every profile's build, numbers several jobs at a time, timings one by one, pausing before each."""
        reference = self._reference()
        self._making.start()
        placed = {profile.name: self._place(profile, reference) for profile in self.prepared.profiles}
        self._plan_studies({name: case for name, case in placed.items() if case is not None})
        if self._budget.limited:
            self._time_batches()
        self._analyse_ready()
        while self._agenda.waiting():
            self._announce()
            self.scheduler.together(self._agenda.next, self._look, self._ended)
            self._agenda.begin_exclusive()
            for job in self._exclusive():
                yield job
                self.progress.step(self._agenda.of(job).title)
                if self._agenda.affords(job):
                    self.scheduler.run(job, self._agenda.of(job).study.name)
                if job.key not in self._results:
                    self._agenda.decline(job)
                self.progress.advance()
                self._analyse_ready()
            self._agenda.round += 1
            self._analyse_ready()

    def _exclusive(self) -> list[Job]:
        """The jobs that measure time or memory, in the order in which they run."""
        return in_blocks(self._agenda.exclusive(), self.prepared.spec.seed)

    def _time_batches(self) -> None:
        """Time one batch of every build on its target, so that the first jobs get a fair share of the budget."""
        for plan in self._agenda.plans:
            job = timed_batch(plan.case)
            if job.key not in self._results and not self._budget.over:
                result = self.scheduler.run(job, "estimates")
                if result.ok:
                    self.scheduler.costs.timed(job, **result.data)

    def _announce(self) -> None:
        """Report newly planned jobs to the progress."""
        fresh = self._agenda.waiting().keys() - self._announced
        self._announced |= fresh
        if fresh:
            self.progress.plan(len(fresh))

    def _report_repairs(self) -> None:
        """Say which damaged builds and results were made again since the last call."""
        repairs = self.prepared.repairs
        for text in repairs[self._repairs :]:
            self.progress.say(text)
        self._repairs = len(repairs)
        self.record["repairs"] = list(repairs)

    def save(self, state: str) -> None:
        """Bring table and ``run.json`` up to date, so that whatever happens next, what is finished can be read."""
        self.verdicts = [
            verdict
            for profile in self.prepared.profiles
            for verdict in self._judge(profile, [row for row in self.rows if row.profile == profile.name])
        ]
        self._report_repairs()
        self.record["state"] = state
        self.record["finished"] = now() if state != "running" else None
        self.record["verdicts"] = [finite(vars(verdict)) for verdict in self.verdicts]
        self.record["budget"] = self._budget.record()
        self.directory.write_table(to_frame(self.rows))
        self.directory.write(self.record)

    def _judge(self, profile: Profile, rows: Sequence[Row]) -> list[Verdict]:
        unlabeled = self.prepared.data.labels is None
        return judge(profile, rows, self.prepared.metrics[0].name, unlabeled=unlabeled)

    def give_up(self, reason: TargetLostError) -> None:
        """Say of every study that is not analysed yet why it is not."""
        for plan in self._agenda.plans:
            missing = Analysis([plan.study.missing("error", str(reason))])
            self._keep(plan.case.profile, plan.case.subject.build, plan.study.name, missing)
            self.record["profiles"][plan.case.profile.name]["status"] = "error"

    def _reference(self) -> Subject:
        """Place the reference's build in the run and analyse what `try_reference` measured of it."""
        profile = REFERENCE_PROFILE
        subject = self._making.subject(profile, self.prepared.reference)
        study = studies.get("accuracy")()
        case = self.prepared.case(profile, subject, subject)
        settings = study.settings_type()
        self._rows[REFERENCE] = {study.name: []}
        plan = Plan.of(case, study, settings)
        plan.declined |= plan.jobs.keys() - plan.done(self._results)  # by the budget
        self._analyse(plan)
        self.record["warnings"] += chance_warning(self.prepared, self._rows[REFERENCE][study.name])
        return subject

    def _place(self, profile: Profile, reference: Subject) -> Case | None:
        """Make the profile's build and the case that its studies measure, or say why there is none."""
        entry = self.record["profiles"][profile.name]
        self._rows[profile.name] = {name: [] for name in self.prepared.studies}
        try:
            self.progress.step(f"{profile.name}: build")
            self._making.require(profile)
            subject = self._making.subject(profile, self.prepared.model)
        except (UnavailableError, JobError) as error:
            status = "unavailable" if isinstance(error, UnavailableError) else "error"
            reason, hint = (error.reason, error.hint) if isinstance(error, UnavailableError) else (str(error), "")
            entry.update(status=status, detail=reason, hint=hint)
            for name, (study, _) in self.prepared.studies.items():
                self._keep(profile, None, name, Analysis([study.missing(status, str(error))]))
            self.progress.note(profile.name, status)
            return None
        self._report_repairs()
        others = self.record["profiles"].items()
        shared = [name for name, other in others if other["build"] == subject.build.key and name != profile.name]
        entry.update(status="ok", build=subject.build.key, shares_build_with=shared)
        if kept := subject.build.manifest["contents"].get("kept_in_float"):
            entry["kept_in_float"] = kept
        return self.prepared.case(profile, subject, reference)

    def _plan_studies(self, cases: Mapping[str, Case]) -> None:
        """Plan every study of every case, or say why it cannot be."""
        planned_studies, self.record["baseline"] = plan_studies(self.prepared, cases)
        self._agenda.plans = [plan for plan in planned_studies if not self._restore(plan)]
        for name, case in cases.items():
            planned = [plan.study.name for plan in planned_studies if plan.case.profile.name == name]
            for study, _ in self.prepared.studies.values():
                if study.name not in planned:
                    missing = Analysis([study.missing("unavailable", EMULATED)])
                    self._keep(case.profile, case.subject.build, study.name, missing)
            if not any(plan.case.profile.name == name for plan in self._agenda.plans):
                self.progress.note(name, self.record["profiles"][name]["status"])

    def _ended(self, job: Job) -> None:
        """Take what a job gave."""
        plan = self._agenda.of(job)
        if job.key not in self._results:
            self._agenda.decline(job)
        self.progress.step(plan.title)
        self.progress.advance()
        interim = partial(plan.study.progress, plan.case, plan.settings, plan.done(self._results))
        self.progress.figures(plan.title, interim)
        self._analyse_ready()
        self._announce()

    def _look(self, running: Sequence[Running]) -> None:
        """Say how far the running jobs are."""
        most = max(running, key=lambda one: one.left_s)
        plan = self._agenda.of(most.job)
        done, total = plan.progress(self._results)
        finished = sum(one.finished for one in running if self._agenda.of(one.job) is plan)
        self.progress.passes(plan.title, done + finished, total, self._agenda.left_s(running))

    def _analyse_ready(self) -> None:
        """Analyse every study whose jobs are all done and which asks for no more of them, and save what that gives."""
        for plan in [plan for plan in self._agenda.plans if plan.is_over(self._results)]:
            if more := self._further(plan):
                plan.add(more, self._agenda.round if plan.concluding else self._agenda.round + 1)
                continue
            self._agenda.plans.remove(plan)
            self._analyse(plan)
            name = plan.case.profile.name
            if not any(other.case.profile.name == name for other in self._agenda.plans):
                self.progress.note(name, self.record["profiles"][name]["status"])
                self.save("running")

    def _further(self, plan: Plan) -> dict[str, Job]:
        """Further jobs of a study; once the budget has cut it short, only those that its figures need in any case."""
        done = plan.done(self._results)
        if plan.obstacle:
            more = {}
        elif not plan.is_cut(self._results):
            more = plan.study.extend(plan.case, plan.settings, done)
        elif plan.concluding is None and plan.is_enough(self._results):
            more = plan.study.conclude(plan.case, plan.settings, done)
            plan.concluding = frozenset(more)
        else:
            more = {}
        return {label: job for label, job in more.items() if label not in plan.jobs}

    def _is_undecided(self, plan: Plan) -> bool:
        """True if an acceptance rule about a study's figures is undecided by its results so far."""
        done, profile = plan.done(self._results), plan.case.profile
        key = plan.title, len(done)
        if key not in self._undecided:
            rows = plan.study.measure(plan.case, plan.settings, done).rows if plan.is_enough(self._results) else []
            verdicts = self._judge(profile, rows)
            self._undecided[key] = any(
                verdict.study == plan.study.name and verdict.outcome in ("inconclusive", "unavailable")
                for verdict in verdicts
            )
        return self._undecided[key]

    def _analyse(self, plan: Plan) -> None:
        """Analyse a study and keep what it found; results that no other study needs are removed."""
        results, began = plan.done(self._results), time.monotonic()
        analysis = plan.analysis(self._results, self._budget.name)
        about = {"profile": plan.case.profile.name, "study": plan.study.name}
        for death in plan.deaths(self._results):
            self.record.setdefault(DEATHS, []).append(about | vars(death))
        self._budget.charge(ANALYSIS, time.monotonic() - began)
        remarks: dict[str, Any] = {}
        if plan.study.name == "coverage" and "coverage" in results and results["coverage"].ok:
            remarks["precision"] = ran_precisions(results["coverage"].data["executed"])
        subject = plan.case.subject
        files = [self.directory.keep_compiled(subject.build.key, subject.compiled_key, file) for file in analysis.files]
        files += self._keep(plan.case.profile, subject.build, plan.study.name, analysis)
        self._remark(plan, analysis, remarks)
        if plan.case.profile.name != REFERENCE:
            self._analyses.store(plan, analysis, self.directory.hashes(files), remarks)
            self._analyses.drop_jobs(plan, self._agenda.plans)

    def _restore(self, plan: Plan) -> bool:
        """Take over what an interrupted run found in a study; False if that has to be found again."""
        found = self._analyses.load(plan)
        if found is None:
            return False
        analysis, remarks = found
        self._keep(plan.case.profile, plan.case.subject.build, plan.study.name, analysis)
        self._remark(plan, analysis, remarks)
        return True

    def _remark(self, plan: Plan, analysis: Analysis, remarks: Mapping[str, Any]) -> None:
        """Note in a profile's record what a study showed of the whole build."""
        entry = self.record["profiles"].get(plan.case.profile.name)
        if entry is None:
            return
        if any(row.status in ("error", "timeout", "crash") for row in analysis.rows):
            entry["status"] = "error"
        if "precision" in remarks:
            entry["ran"]["precision"] = remarks["precision"]

    def _keep(self, profile: Profile, build: Build | None, study: str, analysis: Analysis) -> list[str]:
        """Keep what a study found of a profile; the names of the tables that were written."""
        key = build.key if build else ""
        model = self.prepared.model.name
        ran = self.record["profiles"].get(profile.name, {}).get("ran", {})
        self._rows[profile.name][study] = [
            with_factor(replace(row, model=model, profile=profile.name, build=key), ran) for row in analysis.rows
        ]
        self.timings.update(analysis.timings)
        parts = [self.directory.write_part(kind, profile.name, table) for kind, table in analysis.parts.items()]
        return parts + [self.directory.write_list(profile.name, name, table) for name, table in analysis.lists.items()]
