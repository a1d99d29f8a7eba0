"""The build stage of a run: what works where is probed, then every build is made once."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from hwbench.backend import Availability, backends
from hwbench.build import Build, Recipe, make_build
from hwbench.errors import UnavailableError
from hwbench.model import Model
from hwbench.preparation import Prepared
from hwbench.profile import Profile
from hwbench.record import found_there
from hwbench.scheduler import Scheduler
from hwbench.store import RunDirectory
from hwbench.studies import Subject
from hwbench.worker.protocol import STOPPED, Job, Limits

PROBE = "probes"


class Making:
    """Makes the builds of a run.

    Args:
        prepared: The run.
        directory: Where builds are placed.
        scheduler: What runs the jobs.
        record: ``run.json``; what was found on each target is added to it.
    """

    def __init__(
        self, prepared: Prepared, directory: RunDirectory, scheduler: Scheduler, record: Mapping[str, Any]
    ) -> None:
        self._prepared, self._directory, self._scheduler, self._record = prepared, directory, scheduler, record
        self._builds: dict[str, Future[Build]] = {}

    def start(self) -> None:
        """Make the builds of all profiles that can run here, several at once; what fails is told profile by profile."""
        with self._scheduler.pool(self._prepared.spec.jobs) as pool:
            for profile in self._prepared.profiles:
                try:
                    self.require(profile)
                except UnavailableError:
                    continue  # told when the profile's turn comes
                recipe = self._prepared.recipe(profile, self._prepared.model)
                if recipe.key not in self._builds:
                    self._builds[recipe.key] = pool.submit(self._make, recipe)

    def require(self, profile: Profile) -> None:
        """Raise `UnavailableError` unless the profile's backend and device work on its target; record what is there."""
        ran = require(profile, self._scheduler, self._record["packages"])
        entry = self._record["profiles"].get(profile.name)
        if entry is not None:
            entry["ran"] = ran

    def subject(self, profile: Profile, model: Model) -> Subject:
        """The profile's build on its target.

        Raises:
            UnavailableError: The build cannot be made here, or not within the budget.
            JobError: Its worker ended otherwise than ok.
        """
        recipe = self._prepared.recipe(profile, model)
        started = self._builds.get(recipe.key)
        try:
            build = started.result() if started is not None else self._make(recipe)
        except UnavailableError as error:
            if error.reason != STOPPED:
                raise
            name = self._scheduler.budget.name
            raise UnavailableError(f"{name} was spent before the {recipe.precision.format} build was made") from error
        return Subject(build, profile.backend, profile.full_options, profile.target.machine)

    def _make(self, recipe: Recipe) -> Build:
        folder, say = self._directory.build_folder(recipe.key), self._prepared.repairs.append
        return make_build(recipe, folder, self._scheduler.make, replace=True, say=say)


def require(profile: Profile, scheduler: Scheduler, packages: Mapping[str, str] | None = None) -> dict[str, Any]:
    """What a profile's target turns out to be.

    Args:
        profile: The profile.
        scheduler: What probes.
        packages: Versions of this machine's packages.

    Raises:
        UnavailableError: The backend or the device does not work there, or the budget is spent.
    """
    machine = profile.target.machine
    about = scheduler.targets.of(machine).describe()
    reference, limits = backends.reference(profile.backend), Limits(timeout_s=120)
    job = Job("hwbench.worker.tasks.probe:run", backend=reference, limits=limits, machine=machine)
    if scheduler.budget.over and job.key not in scheduler.results:
        raise UnavailableError(f"{scheduler.budget.name} was spent before this profile was begun")
    result = scheduler.run(job, PROBE)
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
    return found_there(profile, device, found, about, packages or {})
