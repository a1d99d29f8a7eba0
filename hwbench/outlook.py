"""The work that a run would do, without doing it: builds, jobs, passes over the inputs, and an estimate of the time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from hwbench.budget import Budget
from hwbench.build import Recipe, is_cached, make_build
from hwbench.costs import inputs, passes
from hwbench.durations import format_duration
from hwbench.errors import JobError, UnavailableError
from hwbench.making import require
from hwbench.plans import Plan, plan_studies
from hwbench.preparation import REFERENCE_PROFILE, Prepared
from hwbench.profile import Profile
from hwbench.scheduler import Scheduler
from hwbench.studies import Case, Study, Subject
from hwbench.studies.timed import timed_batch
from hwbench.targets import Targets
from hwbench.worker.protocol import Job

# What a static quantizer does with a calibration sample, in passes of the model; and what it takes besides, in seconds.
_QUANTIZER_PASSES, _QUANTIZER_S = 4, 5.0


@dataclass(frozen=True)
class StudyOutlook:
    """A study's first work for one profile.

    Attributes:
        study: Its name.
        jobs: How many jobs; those that an earlier study or profile asks for too are counted there.
        passes: How many times they go through their inputs.
        inputs: How many inputs they run in all.
        seconds: Estimate of their time, one by one; None where nothing could be timed.
        open: Whether the study may ask for more once it has seen what they gave.
    """

    study: str
    jobs: int
    passes: int
    inputs: int
    seconds: float | None
    open: bool


@dataclass(frozen=True)
class ProfileOutlook:
    """A run's work for one profile.

    Attributes:
        profile: Its name.
        build: ``cached``, ``to make``, ``shared`` with an earlier profile, or ``unavailable``.
        detail: Why it is unavailable, or what the estimate rests on.
        build_s: Estimate of the seconds to make the build.
        studies: Its studies.
    """

    profile: str
    build: str
    detail: str
    build_s: float
    studies: Sequence[StudyOutlook]


@dataclass(frozen=True)
class Outlook:
    """The work of a run.

    Attributes:
        profiles: For each profile.
        seconds: Estimate of the wall time, further rounds aside.
        budget: The run's budget in seconds; None without one.
    """

    profiles: Sequence[ProfileOutlook]
    seconds: float
    budget: float | None

    def to_json(self) -> dict[str, Any]:
        """The plan as a JSON object."""
        return asdict(self)

    @property
    def summary(self) -> str:
        """The whole in a sentence."""
        studies = [study for profile in self.profiles for study in profile.studies]
        jobs, runs = sum(study.jobs for study in studies), sum(study.inputs for study in studies)
        least = "at least " if any(study.open for study in studies) else ""
        text = f"{least}{jobs:,} jobs, {runs:,} inputs to run, about {format_duration(self.seconds)}"
        return f"{text}; the budget is {format_duration(self.budget)}" if self.budget is not None else text


def look_ahead(prepared: Prepared) -> Outlook:
    """Plan a run as it would be planned, and time one batch of every profile's build.

    A build that is not cached is not made: the given model is timed in its place, on the profile's backend.
    """
    with prepared.targets() as targets:
        return _Looking(prepared, targets).outlook()


class _Looking:
    def __init__(self, prepared: Prepared, targets: Targets) -> None:
        self._prepared, self._targets = prepared, targets
        self._scheduler = Scheduler(targets, prepared.work / "plan", prepared.spec.jobs, Budget(), {})
        self._seen: dict[str, Job] = {}
        self._builds: set[str] = set()

    def outlook(self) -> Outlook:
        recipe = self._prepared.recipe(REFERENCE_PROFILE, self._prepared.reference)
        reference = self._subject(REFERENCE_PROFILE, recipe)
        self._time(self._prepared.case(REFERENCE_PROFILE, reference, reference))
        found = [self._profile(profile, reference) for profile in self._prepared.profiles]
        cases = {one.profile: case for one, case in found if case is not None}
        plans, _ = plan_studies(self._prepared, cases)
        profiles = [
            replace(one, studies=[self._study(plan) for plan in plans if plan.case.profile.name == one.profile])
            for one, _ in found
        ]
        costs, jobs = self._scheduler.costs, list(self._seen.values())
        together = sum(costs.of(job) for job in jobs if not job.exclusive)
        alone = sum(costs.of(job) for job in jobs if job.exclusive)
        builds = sum(profile.build_s for profile in profiles)
        seconds = builds / self._prepared.spec.jobs + together / self._scheduler.at_once + alone
        return Outlook(profiles, seconds, self._prepared.spec.budget)

    def _profile(self, profile: Profile, reference: Subject) -> tuple[ProfileOutlook, Case | None]:
        """The outlook on the profile's build, and its case if it can run here."""
        recipe = self._prepared.recipe(profile, self._prepared.model)
        try:
            require(profile, self._scheduler)
            subject = self._subject(profile, recipe)
        except (UnavailableError, JobError) as error:
            return ProfileOutlook(profile.name, "unavailable", str(error), 0.0, []), None
        case = self._prepared.case(profile, subject, reference)
        timed, kind, build_s, detail = self._time(case), "cached", 0.0, ""
        if not is_cached(recipe):
            kind, detail = "to make", "estimated on the given model: the build is not made yet"
            build_s = self._build_s(recipe, timed)
        if recipe.key in self._builds:
            kind, build_s = "shared", 0.0
        self._builds.add(recipe.key)
        return ProfileOutlook(profile.name, kind, detail, build_s, []), case

    def _study(self, plan: Plan) -> StudyOutlook:
        fresh = {job.key: job for job in plan.jobs.values() if job.key not in self._seen}
        self._seen |= fresh
        jobs, costs = list(fresh.values()), self._scheduler.costs
        return StudyOutlook(
            plan.study.name,
            len(jobs),
            sum(passes(job) for job in jobs if not job.exclusive),
            sum(inputs(job) for job in jobs if not job.exclusive and "n" in job.params),
            sum(costs.of(job) for job in jobs) if all(costs.known(job) for job in jobs) else None,
            type(plan.study).extend is not Study.extend,
        )

    def _time(self, case: Case) -> Mapping[str, float] | None:
        """Seconds to load the build, and per input; None where it does not run."""
        job = timed_batch(case)
        result = self._scheduler.run(job, "estimates")
        if not result.ok:
            return None
        self._scheduler.costs.timed(job, **result.data)
        return result.data

    def _subject(self, profile: Profile, recipe: Recipe) -> Subject:
        """The profile's build where it is cached, else the model given in its place."""
        key, folder, cache = recipe.key, self._prepared.work / "plan-builds", None
        if not is_cached(recipe):
            recipe = replace(recipe, precision=REFERENCE_PROFILE.precision, calibration=None, calibration_note="")
            cache = folder / "cache"
        build = make_build(recipe, Path(folder / recipe.key), self._targets.run, cache)
        if recipe.key != key:
            manifest = {**build.manifest, "sha256": key}  # its jobs are not those of the model that stands in for it
            build = replace(build, key=key, manifest=manifest)
        return Subject(build, profile.backend, profile.full_options, profile.target.machine)

    def _build_s(self, recipe: Recipe, timed: Mapping[str, float] | None) -> float:
        if recipe.calibration is None or timed is None:
            return _QUANTIZER_S
        samples = min(recipe.precision.calibration.samples, recipe.calibration.n)
        return _QUANTIZER_S + _QUANTIZER_PASSES * samples * timed["input_s"]
