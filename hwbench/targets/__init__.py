"""The machines that builds run on: `Target` is the contract, `open_target` makes one by its kind."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, ClassVar, Self

from hwbench.errors import UnavailableError, UnknownNameError
from hwbench.worker.protocol import LOCAL, Job, JobResult

if TYPE_CHECKING:
    from hwbench.targets.cluster import Cluster
    from hwbench.targets.remote import RemoteTarget

# Kind to its class; imported when one is opened.
KINDS = {
    "local": "hwbench.targets.local:LocalTarget",
    "emulated": "hwbench.targets.emulated:EmulatedTarget",
    "remote": "hwbench.targets.remote:RemoteTarget",
}


class Target(ABC):
    """A machine that carries out jobs. Its methods may be called from several threads.

    Attributes:
        kind: What a profile calls it.
    """

    kind: ClassVar[str]

    @abstractmethod
    def run(self, job: Job, folder: Path) -> JobResult:
        """Carry out one job in fresh worker processes and wait for its end.

        Args:
            job: The work.
            folder: The job's own folder, made if it is missing; what an earlier attempt left there is not read.

        Returns:
            How it ended; a worker that dies, hangs or runs out of memory is a result, not an exception.
        """

    def describe(self) -> dict[str, Any]:
        """What a run records of the machine; nothing for the one it records anyway.

        Raises:
            UnavailableError: The machine cannot be asked.
        """
        return {}

    @abstractmethod
    def stop(self) -> None:
        """Kill the jobs that run and refuse new ones: `run` raises `KeyboardInterrupt` in the threads that wait."""


def open_target(kind: str, **settings: Any) -> Target:
    """The target of one kind.

    Args:
        kind: ``"local"``, ``"emulated"`` or ``"remote"``.
        settings: Arguments of its class.

    Raises:
        UnknownNameError: There is no such kind.
    """
    if kind not in KINDS:
        raise UnknownNameError("target", kind, KINDS)
    module, _, name = KINDS[kind].partition(":")
    target: Target = getattr(import_module(module), name)(**settings)
    return target


def check_machine(machine: Mapping[str, str]) -> None:
    """Raise `InputError` where a machine is named that cannot be; one that only lacks something here is let through.

    Args:
        machine: The arguments of `open_target`.
    """
    if machine["kind"] != "emulated":
        return
    try:
        open_target(**machine)
    except UnavailableError:
        return  # a result, told where it is needed


class Targets:
    """The targets of one run, each opened when it is first needed. May be used from several threads. A context manager.

    Args:
        scheduler: A Dask cluster's. What the local machine need not do itself goes to its workers, and boards are found by it.
        boards: Whether some jobs are for boards: the cluster need then have no other workers.
        tls: Folder of the certificates with which the cluster is reached; None for Dask's own configuration.
        sandboxed: False where the owner of this machine trusts the profiles. A board confines its jobs in any case.

    Raises:
        InputError: The scheduler's address or the certificates cannot be used.
        UnavailableError: No scheduler answers there, or a worker would give other numbers than this machine.
    """

    def __init__(
        self, scheduler: str | None = None, *, boards: bool = False, sandboxed: bool = True, tls: str | None = None
    ) -> None:
        self._lock, self._sandboxed = threading.Lock(), sandboxed
        self._open: dict[str, Target] = {}
        self._cluster: Cluster | None = None
        self._helpers: RemoteTarget | None = None
        if scheduler is not None:
            from hwbench.targets.cluster import Cluster
            from hwbench.targets.remote import RemoteTarget

            self._cluster = Cluster(scheduler, tls or "")
            try:
                if self._cluster.workers() or not boards:
                    self._helpers = RemoteTarget(self._cluster)
            except BaseException:
                self._cluster.close()
                raise

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._cluster is not None:
            self._cluster.close()

    def of(self, machine: Mapping[str, str]) -> Target:
        """The target of one machine.

        Args:
            machine: The arguments of `open_target`.

        Raises:
            UnavailableError: This machine lacks what it takes.
        """
        key = json.dumps(dict(machine), sort_keys=True)
        with self._lock:
            if key not in self._open:
                self._open[key] = open_target(**machine, **self._beside(machine))
            return self._open[key]

    def _beside(self, machine: Mapping[str, str]) -> dict[str, Any]:
        """What a target takes that is the run's, not the machine's."""
        if machine["kind"] != "remote":
            return {"sandboxed": self._sandboxed}
        if self._cluster is None:
            raise UnavailableError(f"no scheduler to find {machine['resource']!r} by", "--scheduler tcp://HOST:8786")
        return {"cluster": self._cluster}

    @property
    def helping(self) -> int:
        """How many jobs that are for the local machine others can do at once."""
        return self._helpers.parallel if self._helpers else 0

    def run(self, job: Job, folder: Path, *, anywhere: bool = False) -> JobResult:
        """`Target.run`, on the machine that the job is for; what that machine lacks here is a result too.

        Args:
            job: The work.
            folder: The job's own folder.
            anywhere: Whether a cluster's worker may do what is for the local machine.
        """
        if anywhere and self._helpers is not None and job.machine == LOCAL:
            return self._helpers.run(job, folder)
        try:
            target = self.of(job.machine)
        except UnavailableError as error:
            return JobResult("unavailable", folder, detail=str(error))
        return target.run(job, folder)

    def stop(self) -> None:
        """`Target.stop`, on all of them."""
        with self._lock:
            for target in (*self._open.values(), *([self._helpers] if self._helpers else [])):
                target.stop()
