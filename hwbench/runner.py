"""The orchestrator: a specification becomes builds, builds become jobs, jobs become the measurement table."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, as_completed
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from pydantic import ValidationError

from hwbench import __version__
from hwbench.backend import Availability, backends
from hwbench.build import Build, Recipe, cache_home, make_build
from hwbench.dataset import Dataset, materialise, open_source
from hwbench.errors import JobError, ModelError, SpecError, UnavailableError, UnknownNameError
from hwbench.host import describe_host, package_versions
from hwbench.metrics import Metric, resolve_task
from hwbench.model import Model
from hwbench.profile import Precision, Profile, load_profile
from hwbench.spec import RunSpec
from hwbench.store import RunDirectory
from hwbench.studies import Analysis, Case, Study, Subject, studies
from hwbench.studies.coverage import ran_precisions
from hwbench.table import Row, to_frame
from hwbench.targets import open_target
from hwbench.verdict import Verdict, judge
from hwbench.worker.protocol import Job, JobResult, Limits

REFERENCE = "reference"


class Progress(Protocol):
    """Who is told how a run comes along. It is only called between jobs, so that nothing runs beside a measurement."""

    def plan(self, jobs: int) -> None:
        """So many jobs are to be done."""

    def step(self, text: str) -> None:
        """Something begins, or has just ended."""

    def advance(self) -> None:
        """One job is done."""

    def note(self, profile: str, status: str) -> None:
        """A profile is finished."""


class Silent:
    """Tells nobody."""

    def plan(self, jobs: int) -> None:
        """Nothing."""

    def step(self, text: str) -> None:
        """Nothing."""

    def advance(self) -> None:
        """Nothing."""

    def note(self, profile: str, status: str) -> None:
        """Nothing."""


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


@dataclass(frozen=True)
class Prepared:
    """A specification whose every part was opened and checked: nothing of it can be refused any more."""

    spec: RunSpec
    model: Model
    reference: Model
    profiles: Sequence[Profile]
    studies: Mapping[str, tuple[Study, Any]]
    data: Dataset
    calibration: Dataset
    calibration_note: str
    metrics: Sequence[Metric]
    task: str
    output: str

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed, by the name the user knows it under."""
        return {
            "model": self.model.sha256,
            "reference": self.reference.sha256,
            "data": self.data.key,
            "calibration": self.calibration.key,
            "seed": self.spec.seed,
            "profiles": [profile.model_dump(mode="json") for profile in self.profiles],
            "studies": {name: settings.model_dump(mode="json") for name, (_, settings) in self.studies.items()},
            "metric": [metric.name for metric in self.metrics],
            "hwbench": __version__,
        }


@contextmanager
def prepare(spec: RunSpec) -> Iterator[Prepared]:
    """Open and check everything a specification names; the data lie in a temporary folder while the context is open.

    Raises:
        InputError: Something the specification names cannot be used.
    """
    model = Model.open(Path(spec.model))
    reference = Model.open(Path(spec.reference)) if spec.reference else model
    if {(one.name, one.dtype) for one in model.inputs} != {(one.name, one.dtype) for one in reference.inputs}:
        raise ModelError(f"{spec.model} and its reference {spec.reference} take different inputs")
    profiles = [load_profile(name) for name in dict.fromkeys(spec.profiles)]
    _check_names(profiles)
    chosen = _studies(spec)
    home = cache_home() / "work"
    home.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=home, prefix="data-") as folder:
        data = materialise(open_source(spec.data), model.inputs, Path(folder), task=spec.task)
        data, calibration, note = _calibration(spec, model, data, Path(folder))
        output = next((one for one in model.outputs if one.name == (spec.output or model.outputs[0].name)), None)
        if output is None:
            raise UnknownNameError("output", str(spec.output), [one.name for one in model.outputs])
        metrics = resolve_task(spec.task, spec.metric, output, np.dtype(data.labels.dtype) if data.labels else None)
        if metrics[0].k and data.labels is not None and output.shape[1]:
            data.check_labels(output.shape[1])
        task = spec.task or ("classification" if metrics[0].k else "custom" if spec.metric else "regression")
        yield Prepared(spec, model, reference, profiles, chosen, data, calibration, note, metrics, task, output.name)


def execute(
    prepared: Prepared, out: Path, *, overwrite: bool = False, resume: bool = False, progress: Progress | None = None
) -> Outcome:
    """Carry out a run.

    Args:
        prepared: From `prepare`.
        out: The run directory.
        overwrite: Replace a run that is there.
        resume: Go on with a run that is there; jobs it finished are not repeated.
        progress: Who is told.

    Raises:
        InputError: The folder cannot be used, or the reference cannot run.
    """
    record = _record(prepared)
    with RunDirectory.create(out, record, overwrite=overwrite, resume=resume) as directory:
        run = _Run(prepared, directory, record, progress or Silent())
        try:
            run.carry_out()
        except BaseException:
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


@dataclass
class _Run:
    """The state of one run: what has been measured, and what ``run.json`` says of it."""

    prepared: Prepared
    directory: RunDirectory
    record: dict[str, Any]
    progress: Progress
    verdicts: list[Verdict] = field(default_factory=list)
    timings: dict[str, np.ndarray[Any, Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._target = open_target("local")
        self._availability: dict[str, Availability] = {}
        self._results: dict[str, JobResult] = {}
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
        for profile in self.prepared.profiles:
            self._rows[profile.name] = {name: [] for name in self.prepared.studies}
            self._plan_profile(profile, reference)
        wanted = {job.key: job for plan in self._plans for job in plan.jobs.values() if job.key not in self._results}
        self.progress.plan(len(wanted))
        self._analyse_ready()
        self._carry_out_together([job for job in wanted.values() if not job.exclusive])
        for job in (job for job in wanted.values() if job.exclusive):
            self.progress.step(_title(job, self._plans))
            self._job(job)
            self.progress.advance()
            self._analyse_ready()
        self._analyse_ready()

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
        self.record["finished"] = _now() if state != "running" else None
        self.record["verdicts"] = [_finite(vars(verdict)) for verdict in self.verdicts]
        self.directory.write_table(to_frame(self.rows))
        self.directory.write(self.record)

    def _reference(self) -> Subject:
        """Build and measure the reference: what every other figure is held against.

        Raises:
            ModelError: It cannot run on ONNX Runtime's CPU provider.
        """
        summary = "the model as given, on ONNX Runtime's CPU provider"
        profile = Profile(name=REFERENCE, backend="onnxruntime", summary=summary, precision=Precision(format="as-is"))
        self.progress.step(f"{REFERENCE}: build")
        try:
            self._require(profile)
            subject = self._subject(profile, self.prepared.reference)
        except UnavailableError as error:
            raise UnavailableError(f"the reference cannot run: {error.reason}", error.hint) from error
        except JobError as error:
            raise ModelError(f"{self.prepared.reference.path}: the reference cannot be prepared: {error}") from error
        case = self._case(profile, subject, subject)
        study = studies.get("accuracy")()
        plan = _Plan(case, study, study.settings_type(), study.plan(case, study.settings_type()))
        self.progress.step(f"{REFERENCE}: {study.name}")
        for job in plan.jobs.values():
            result = self._job(job)
            if not result.ok:
                raise ModelError(
                    f"{self.prepared.reference.path}: the reference does not run on ONNX Runtime's CPU provider: "
                    f"{result.detail}"
                )
        self._rows[REFERENCE] = {study.name: []}
        self._analyse(plan)
        return subject

    def _plan_profile(self, profile: Profile, reference: Subject) -> None:
        """Make the profile's build and plan its studies, or say why there is none."""
        entry = self.record["profiles"][profile.name]
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
            return
        others = self.record["profiles"].items()
        shared = [name for name, other in others if other["build"] == subject.build.key and name != profile.name]
        entry.update(status="ok", build=subject.build.key, shares_build_with=shared)
        case = self._case(profile, subject, reference)
        for study, settings in self.prepared.studies.values():
            self._plans.append(_Plan(case, study, settings, study.plan(case, settings)))

    def _carry_out_together(self, jobs: Sequence[Job]) -> None:
        """Run jobs that measure no time, several at once; their numbers do not depend on how many."""
        with self._pool() as pool:
            running = {pool.submit(self._carry_out, job): job for job in jobs}
            for future in as_completed(running):
                job = running[future]
                self._results[job.key] = future.result()
                self.progress.step(_title(job, self._plans))
                self.progress.advance()
                self._analyse_ready()

    @contextmanager
    def _pool(self) -> Iterator[ThreadPoolExecutor]:
        """Threads that wait for workers."""
        with ThreadPoolExecutor(self.prepared.spec.jobs) as pool:
            try:
                yield pool
            except BaseException:  # also Ctrl-C: the workers must not outlive the wait for them
                pool.shutdown(wait=False, cancel_futures=True)
                self._target.stop()
                raise

    def _analyse_ready(self) -> None:
        """Analyse every study whose jobs are all done, and save what that gives."""
        ready = [plan for plan in self._plans if all(job.key in self._results for job in plan.jobs.values())]
        for plan in ready:
            self._plans.remove(plan)
            self._analyse(plan)
            name = plan.case.profile.name
            if not any(other.case.profile.name == name for other in self._plans):
                self.progress.note(name, self.record["profiles"][name]["status"])
                self.save("running")

    def _analyse(self, plan: _Plan) -> None:
        results = {label: self._results[job.key] for label, job in plan.jobs.items()}
        analysis = plan.study.measure(plan.case, plan.settings, results)
        self._keep(plan.case.profile, plan.case.subject.build, plan.study.name, analysis)
        entry = self.record["profiles"].get(plan.case.profile.name)
        if entry is None:
            return
        if any(row.status in ("error", "timeout", "crash") for row in analysis.rows):
            entry["status"] = "error"
        if plan.study.name == "coverage" and results["coverage"].ok:
            entry["ran"]["precision"] = ran_precisions(results["coverage"].data["executed"])

    def _require(self, profile: Profile) -> None:
        """Raise `UnavailableError` unless the profile's backend and device work here."""
        if profile.backend not in self._availability:
            result = self._job(
                Job(
                    "hwbench.worker.tasks.probe:run",
                    backend=backends.reference(profile.backend),
                    limits=Limits(timeout_s=120),
                )
            )
            if not result.ok:
                raise UnavailableError(f"probing {profile.backend} ended in {result.status}: {result.detail}")
            self._availability[profile.backend] = Availability(**result.data)
        found = self._availability[profile.backend]
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
            entry["ran"] = {"device": device, "versions": dict(found.versions)}

    def _start_builds(self) -> None:
        """Make the builds of all profiles that can run here, several at once; what fails is told profile by profile."""
        with self._pool() as pool:
            for profile in self.prepared.profiles:
                try:
                    self._require(profile)
                except UnavailableError:
                    continue  # told when the profile's turn comes
                recipe = self._recipe(profile, self.prepared.model)
                if recipe.key not in self._builds:
                    self._builds[recipe.key] = pool.submit(self._make, recipe)

    def _subject(self, profile: Profile, model: Model) -> Subject:
        recipe = self._recipe(profile, model)
        started = self._builds.get(recipe.key)
        build = started.result() if started is not None else self._make(recipe)
        return Subject(build, profile.backend, profile.full_options)

    def _make(self, recipe: Recipe) -> Build:
        return make_build(recipe, self.directory.build_folder(recipe.key), self._target.run)

    def _recipe(self, profile: Profile, model: Model) -> Recipe:
        prepared = self.prepared
        needs = profile.precision.needs_calibration
        return Recipe(
            model=model,
            precision=profile.precision,
            shapes={name: file.shape[1:] for name, file in prepared.data.inputs.items()},
            calibration=prepared.calibration if needs else None,
            calibration_note=prepared.calibration_note if needs else "",
        )

    def _case(self, profile: Profile, subject: Subject, reference: Subject) -> Case:
        prepared = self.prepared
        return Case(
            profile=profile,
            subject=subject,
            reference=reference,
            model=prepared.model,
            data=prepared.data,
            metrics=prepared.metrics,
            output=prepared.output,
            classifies=all(metric.k for metric in prepared.metrics),
            batch=prepared.model.batch or prepared.spec.batch,
            seed=prepared.spec.seed,
            timeout_s=prepared.spec.timeout_s,
        )

    def _job(self, job: Job) -> JobResult:
        """Run a job once: studies and profiles that ask for the same work share it."""
        if job.key not in self._results:
            self._results[job.key] = self._carry_out(job)
        return self._results[job.key]

    def _carry_out(self, job: Job) -> JobResult:
        """Run a job unless an interrupted run has left its result. Called from several threads."""
        folder = self.directory.jobs / job.key
        result = JobResult.load(folder)
        if result is None:
            result = self._target.run(job, folder)
            if result.ok:
                result.store()
        return result

    def _keep(self, profile: Profile, build: Build | None, study: str, analysis: Analysis) -> None:
        key = build.key if build else ""
        model = self.prepared.model.name
        self._rows[profile.name][study] = [
            replace(row, model=model, profile=profile.name, build=key) for row in analysis.rows
        ]
        self.timings.update(analysis.timings)
        for kind, table in analysis.parts.items():
            self.directory.write_part(kind, profile.name, table)


def _title(job: Job, plans: Sequence[_Plan]) -> str:
    """What a job is for, in words."""
    for plan in plans:
        if any(other.key == job.key for other in plan.jobs.values()):
            return f"{plan.case.profile.name}: {plan.study.name}"
    return job.task


def _studies(spec: RunSpec) -> dict[str, tuple[Study, Any]]:
    names = (
        spec.studies if spec.studies is not None else [name for name in studies.names() if studies.get(name).default]
    )
    for name in spec.settings:
        studies.reference(name)
    chosen = {}
    for name in sorted(dict.fromkeys(names), key=_order):
        study = studies.get(name)()
        try:
            settings = study.settings_type.model_validate(spec.settings.get(name, {}))
        except ValidationError as error:
            problem = error.errors()[0]
            path = ".".join(str(part) for part in ("settings", name, *problem["loc"]))
            if problem["type"] == "extra_forbidden":
                known = [f"settings.{name}.{key}" for key in study.settings_type.model_fields]
                raise UnknownNameError("key", path, known) from None
            raise SpecError(f"{path}: {problem['msg']}, not {problem['input']!r}") from None
        chosen[name] = (study, settings)
    if not chosen:
        raise SpecError("no study is chosen; name at least one")
    return chosen


def _order(name: str) -> tuple[bool, str]:
    """Coverage first: it is quick, and says whether the rest is about the build that was asked for."""
    return name != "coverage", name


def _calibration(spec: RunSpec, model: Model, data: Dataset, folder: Path) -> tuple[Dataset, Dataset, str]:
    if spec.calibration is not None:
        given = materialise(open_source(spec.calibration), model.inputs, folder, task=spec.task)
        return data, replace(given, labels=None), "given"
    if spec.split_calibration is not None:
        held_out, kept = data.split(spec.split_calibration, spec.seed)
        return kept, replace(held_out, labels=None), f"{held_out.n} samples held out of the evaluation data"
    return data, replace(data, labels=None), "the evaluation inputs themselves, without their labels"


def _check_names(profiles: Sequence[Profile]) -> None:
    names = [profile.name for profile in profiles]
    for name in names:
        if names.count(name) > 1 or name == REFERENCE:
            raise SpecError(
                f"two profiles of this run are called {name!r}; rename the file of one"
                if name != REFERENCE
                else f"a profile cannot be called {REFERENCE!r}"
            )


def _record(prepared: Prepared) -> dict[str, Any]:
    spec = prepared.spec
    return {
        "hwbench": __version__,
        "created": _now(),
        "finished": None,
        "state": "running",
        "spec": spec.model_dump(mode="json"),
        "fingerprint": prepared.fingerprint,
        "seed": spec.seed,
        "host": describe_host(),
        "packages": package_versions(),
        "model": prepared.model.describe(),
        "reference": prepared.reference.describe(),
        "task": prepared.task,
        "primary": prepared.metrics[0].name,
        "higher_is_better": prepared.metrics[0].higher_is_better,
        "data": {
            "source": prepared.data.source,
            "n": prepared.data.n,
            "sha256": prepared.data.key,
            "labels": prepared.data.labels is not None,
            "calibration": {
                "source": prepared.calibration.source,
                "n": prepared.calibration.n,
                "note": prepared.calibration_note,
            },
        },
        "profiles": {
            profile.name: {
                "summary": profile.summary,
                "backend": profile.backend,
                "status": "pending",
                "detail": "",
                "hint": "",
                "build": "",
                "asked": {**profile.precision.model_dump(mode="json"), "options": profile.full_options},
                "ran": {},
                "target": profile.target.model_dump(mode="json"),
                "accept": profile.accept.model_dump(mode="json", exclude_none=True),
            }
            for profile in prepared.profiles
        },
        "verdicts": [],
    }


def _finite(record: Mapping[str, Any]) -> dict[str, Any]:
    """JSON has no infinity; an unbounded interval is written as null."""
    return {
        key: None if isinstance(value, float) and not np.isfinite(value) else value for key, value in record.items()
    }


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
