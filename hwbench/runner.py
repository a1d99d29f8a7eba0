"""The orchestrator: a specification becomes builds, builds become jobs, jobs become the measurement table."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.backend import Availability, backends
from hwbench.build import Build, Recipe, make_build
from hwbench.errors import JobError, TargetLostError, UnavailableError
from hwbench.model import Model
from hwbench.preparation import REFERENCE, REFERENCE_PROFILE, Prepared, check_builds
from hwbench.profile import Profile
from hwbench.progress import Progress, Silent
from hwbench.record import finite, first_record, found_there, now, with_factor
from hwbench.reference import settle_labels, try_reference
from hwbench.store import RunDirectory
from hwbench.studies import Analysis, Case, Study, Subject, studies
from hwbench.studies.coverage import ran_precisions
from hwbench.studies.launches import in_blocks
from hwbench.table import Row, from_frame, to_frame
from hwbench.targets import Targets
from hwbench.verdict import Verdict, judge
from hwbench.worker.protocol import Job, JobResult, Limits

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
    prepared: Prepared, out: Path, *, overwrite: bool = False, resume: bool = False, progress: Progress | None = None
) -> Outcome:
    """Carry out a run.

    Args:
        prepared: From `prepare`.
        out: The run directory.
        overwrite: Replace a run that is there.
        resume: Go on with a run that is there; jobs it finished are not repeated, and a complete run is left as it is.
        progress: Who is told.

    Raises:
        InputError: The folder cannot be used, or the reference cannot run.
        UnavailableError: The scheduler does not answer, or a worker of it does not fit.
        TargetLostError: The scheduler, or its last worker, went away; the run can be resumed.
    """
    with Targets(prepared.spec.scheduler, boards=prepared.has_boards) as targets:
        return _execute(prepared, out, targets, progress or Silent(), overwrite=overwrite, resume=resume)


def _execute(
    prepared: Prepared, out: Path, targets: Targets, progress: Progress, *, overwrite: bool, resume: bool
) -> Outcome:
    record = first_record(prepared)
    progress.step(f"{REFERENCE}: accuracy")
    measured = try_reference(prepared)
    prepared = settle_labels(prepared, next(iter(measured.values())))
    for study, settings in prepared.studies.values():
        study.check(settings, prepared.data, classifies=prepared.classifies)
    check_builds(prepared)
    with RunDirectory.create(out, record, overwrite=overwrite, resume=resume) as directory:
        if resume and directory.read()["state"] == "complete":
            verdicts = [Verdict(**verdict) for verdict in directory.read()["verdicts"]]
            return Outcome(directory, from_frame(directory.table()), verdicts, {})
        run = _Run(prepared, directory, record, progress, targets, measured)
        try:
            run.carry_out()
        except BaseException as error:
            if isinstance(error, TargetLostError):
                run.give_up(error)
            run.save("interrupted")
            raise
        run.save("complete")
        directory.finish()
        return Outcome(directory, run.rows, run.verdicts, run.timings)


@dataclass(frozen=True)
class _Plan:
    """One study on one case: what is to be done, and where its rows belong."""

    case: Case
    study: Study
    settings: Any
    jobs: Mapping[str, Job]

    @property
    def title(self) -> str:
        """What it is, in words."""
        return f"{self.case.profile.name}: {self.study.name}"


@dataclass
class _Run:
    """The state of one run: what has been measured, and what ``run.json`` says of it."""

    prepared: Prepared
    directory: RunDirectory
    record: dict[str, Any]
    progress: Progress
    targets: Targets
    _results: dict[str, JobResult]
    verdicts: list[Verdict] = field(default_factory=list)
    timings: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._builds: dict[str, Future[Build]] = {}
        self._plans: list[_Plan] = []
        self._rows: dict[str, dict[str, list[Row]]] = {}

    @property
    def rows(self) -> list[Row]:
        """All rows so far, in the order of profiles and studies whatever order they were measured in."""
        return [row for of_profile in self._rows.values() for of_study in of_profile.values() for row in of_study]

    def carry_out(self) -> None:
        """Reference, then every profile's build, then numbers several jobs at a time, then timings one by one."""
        reference = self._reference()
        self._start_builds()
        placed = {profile.name: self._place(profile, reference) for profile in self.prepared.profiles}
        self._plan_studies({name: case for name, case in placed.items() if case is not None})
        self._analyse_ready()
        while wanted := self._wanted():
            self.progress.plan(len(wanted))
            self._carry_out_together([job for job in wanted if not job.exclusive])
            for job in in_blocks([job for job in wanted if job.exclusive], self.prepared.spec.seed):
                self.progress.step(self._plan_of(job).title)
                self._job(job)
                self.progress.advance()
                self._analyse_ready()

    def _wanted(self) -> list[Job]:
        """The jobs that are planned and not done."""
        planned = {job.key: job for plan in self._plans for job in plan.jobs.values()}
        return [job for key, job in planned.items() if key not in self._results]

    def save(self, state: str) -> None:
        """Bring table and ``run.json`` up to date, so that whatever happens next, what is finished can be read."""
        self.verdicts = [
            verdict
            for profile in self.prepared.profiles
            for verdict in judge(
                profile, [row for row in self.rows if row.profile == profile.name], self.prepared.metrics[0].name
            )
        ]
        self.record["state"] = state
        self.record["finished"] = now() if state != "running" else None
        self.record["verdicts"] = [finite(vars(verdict)) for verdict in self.verdicts]
        self.directory.write_table(to_frame(self.rows))
        self.directory.write(self.record)

    def give_up(self, reason: TargetLostError) -> None:
        """Say of every study that is not analysed yet why it is not."""
        for plan in self._plans:
            missing = Analysis([plan.study.missing("error", str(reason))])
            self._keep(plan.case.profile, plan.case.subject.build, plan.study.name, missing)
            self.record["profiles"][plan.case.profile.name]["status"] = "error"

    def _reference(self) -> Subject:
        """Place the reference's build in the run and analyse what `try_reference` measured of it."""
        profile = REFERENCE_PROFILE
        subject = self._subject(profile, self.prepared.reference)
        study = studies.get("accuracy")()
        case = self.prepared.case(profile, subject, subject)
        settings = study.settings_type()
        self._rows[REFERENCE] = {study.name: []}
        self._analyse(_Plan(case, study, settings, study.plan(case, settings)))
        return subject

    def _place(self, profile: Profile, reference: Subject) -> Case | None:
        """Make the profile's build and the case that its studies measure, or say why there is none."""
        entry = self.record["profiles"][profile.name]
        self._rows[profile.name] = {name: [] for name in self.prepared.studies}
        try:
            self.progress.step(f"{profile.name}: build")
            self._require(profile)
            subject = self._subject(profile, self.prepared.model)
        except (UnavailableError, JobError) as error:
            status = "unavailable" if isinstance(error, UnavailableError) else "error"
            reason, hint = (error.reason, error.hint) if isinstance(error, UnavailableError) else (str(error), "")
            entry.update(status=status, detail=reason, hint=hint)
            for name, (study, _) in self.prepared.studies.items():
                self._keep(profile, None, name, Analysis([study.missing(status, str(error))]))
            self.progress.note(profile.name, status)
            return None
        others = self.record["profiles"].items()
        shared = [name for name, other in others if other["build"] == subject.build.key and name != profile.name]
        entry.update(status="ok", build=subject.build.key, shares_build_with=shared)
        case = self.prepared.case(profile, subject, reference)
        timed = (study.points(case, settings) for study, settings in self.prepared.studies.values())
        return replace(case, points={name: point for points in timed for name, point in points.items()})

    def _plan_studies(self, cases: Mapping[str, Case]) -> None:
        """Plan every study of every case; timings are compared with the baseline profile's."""
        timed = [name for name, case in cases.items() if case.profile.target.kind != "emulated"]
        named = self.prepared.spec.baseline
        baseline = named if named in timed else None if named else next(iter(timed), None)
        self.record["baseline"] = baseline
        for name, case in cases.items():
            if baseline not in (None, name):
                case = replace(case, baseline=cases[baseline])
            for study, settings in self.prepared.studies.values():
                if study.timing and name not in timed:
                    missing = Analysis([study.missing("unavailable", EMULATED)])
                    self._keep(case.profile, case.subject.build, study.name, missing)
                else:
                    self._plans.append(_Plan(case, study, settings, study.plan(case, settings)))
            if name not in timed and all(study.timing for study, _ in self.prepared.studies.values()):
                self.progress.note(name, "ok")

    def _carry_out_together(self, jobs: Sequence[Job]) -> None:
        """Run jobs that measure no time, several at once; their numbers do not depend on how many."""
        with self._pool(max(self.prepared.spec.jobs, self.targets.helping)) as pool:
            running = {pool.submit(self._carry_out, job, anywhere=True): job for job in jobs}
            for future in as_completed(running):
                job = running[future]
                self._results[job.key] = future.result()
                self.progress.step(self._plan_of(job).title)
                self.progress.advance()
                self._tell(self._plan_of(job))
                self._analyse_ready()

    def _tell(self, plan: _Plan) -> None:
        """Have a study say how far it is."""
        done = {label: self._results[job.key] for label, job in plan.jobs.items() if job.key in self._results}
        self.progress.figures(plan.title, partial(plan.study.progress, plan.case, plan.settings, done))

    def _plan_of(self, job: Job) -> _Plan:
        """The first of the plans that a job is for."""
        return next(plan for plan in self._plans if any(other.key == job.key for other in plan.jobs.values()))

    @contextmanager
    def _pool(self, threads: int) -> Iterator[ThreadPoolExecutor]:
        """Threads that wait for workers."""
        with ThreadPoolExecutor(threads) as pool:
            try:
                yield pool
            except BaseException:  # also Ctrl-C: the workers must not outlive the wait for them
                pool.shutdown(wait=False, cancel_futures=True)
                self.targets.stop()
                raise

    def _analyse_ready(self) -> None:
        """Analyse every study whose jobs are all done and which asks for no more of them, and save what that gives."""
        ready = [plan for plan in self._plans if all(job.key in self._results for job in plan.jobs.values())]
        for plan in ready:
            more = plan.study.extend(plan.case, plan.settings, self._results_of(plan))
            if more:
                self._plans[self._plans.index(plan)] = replace(plan, jobs={**plan.jobs, **more})
                continue
            self._plans.remove(plan)
            self._analyse(plan)
            name = plan.case.profile.name
            if not any(other.case.profile.name == name for other in self._plans):
                self.progress.note(name, self.record["profiles"][name]["status"])
                self.save("running")

    def _results_of(self, plan: _Plan) -> dict[str, JobResult]:
        return {label: self._results[job.key] for label, job in plan.jobs.items()}

    def _analyse(self, plan: _Plan) -> None:
        results = self._results_of(plan)
        analysis = plan.study.measure(plan.case, plan.settings, results)
        subject = plan.case.subject
        for file in analysis.files:
            self.directory.keep_compiled(subject.build.key, subject.compiled_key, file)
        self._keep(plan.case.profile, plan.case.subject.build, plan.study.name, analysis)
        entry = self.record["profiles"].get(plan.case.profile.name)
        if entry is None:
            return
        if any(row.status in ("error", "timeout", "crash") for row in analysis.rows):
            entry["status"] = "error"
        if plan.study.name == "coverage" and results["coverage"].ok:
            entry["ran"]["precision"] = ran_precisions(results["coverage"].data["executed"])

    def _require(self, profile: Profile) -> None:
        """Raise `UnavailableError` unless the profile's backend and device work on its target."""
        machine = profile.target.machine
        about = self.targets.of(machine).describe()
        reference, limits = backends.reference(profile.backend), Limits(timeout_s=120)
        result = self._job(Job("hwbench.worker.tasks.probe:run", backend=reference, limits=limits, machine=machine))
        if not result.ok:
            raise UnavailableError(f"probing {profile.backend} ended in {result.status}: {result.detail}")
        found = Availability(**result.data)
        if not found.available:
            raise UnavailableError(found.reason, found.hint)
        device = backends.get(profile.backend)().device(profile.full_options)
        if device.lower() not in {name.lower() for name in found.devices}:
            raise UnavailableError(
                f"{profile.backend} has no working device {device!r} here; it has {', '.join(found.devices) or 'none'}",
                found.hints.get(device, ""),
            )
        entry = self.record["profiles"].get(profile.name)
        if entry is not None:
            entry["ran"] = found_there(profile, device, found, about, self.record["packages"])

    def _start_builds(self) -> None:
        """Make the builds of all profiles that can run here, several at once; what fails is told profile by profile."""
        with self._pool(self.prepared.spec.jobs) as pool:
            for profile in self.prepared.profiles:
                try:
                    self._require(profile)
                except UnavailableError:
                    continue  # told when the profile's turn comes
                recipe = self.prepared.recipe(profile, self.prepared.model)
                if recipe.key not in self._builds:
                    self._builds[recipe.key] = pool.submit(self._make, recipe)

    def _subject(self, profile: Profile, model: Model) -> Subject:
        recipe = self.prepared.recipe(profile, model)
        started = self._builds.get(recipe.key)
        build = started.result() if started is not None else self._make(recipe)
        return Subject(build, profile.backend, profile.full_options, profile.target.machine)

    def _make(self, recipe: Recipe) -> Build:
        return make_build(recipe, self.directory.build_folder(recipe.key), self.targets.run)

    def _job(self, job: Job) -> JobResult:
        """Run a job once: studies and profiles that ask for the same work share it."""
        if job.key not in self._results:
            self._results[job.key] = self._carry_out(job)
        return self._results[job.key]

    def _carry_out(self, job: Job, *, anywhere: bool = False) -> JobResult:
        """Run a job unless an interrupted run has left its result. Called from several threads.

        Args:
            job: The work.
            anywhere: Whether a cluster's worker may do what is for the local machine.
        """
        folder = self.directory.jobs / job.key
        result = JobResult.load(folder)
        if result is None:
            result = self.targets.run(job, folder, anywhere=anywhere)
            if result.ok:
                result.store()
        return result

    def _keep(self, profile: Profile, build: Build | None, study: str, analysis: Analysis) -> None:
        key = build.key if build else ""
        model = self.prepared.model.name
        ran = self.record["profiles"].get(profile.name, {}).get("ran", {})
        self._rows[profile.name][study] = [
            with_factor(replace(row, model=model, profile=profile.name, build=key), ran) for row in analysis.rows
        ]
        self.timings.update(analysis.timings)
        for kind, table in analysis.parts.items():
            self.directory.write_part(kind, profile.name, table)
        for name, table in analysis.lists.items():
            self.directory.write_list(profile.name, name, table)
