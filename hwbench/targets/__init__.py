"""The machines that builds run on: `Target` is the contract, `open_target` makes one by its kind."""

from __future__ import annotations

import json
import threading
from abc import ABC, abstractmethod
from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any, ClassVar

from hwbench.errors import UnknownNameError
from hwbench.worker.protocol import Job, JobResult

# Kind to its class; imported when one is opened.
KINDS = {"local": "hwbench.targets.local:LocalTarget"}


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
        kind: ``"local"``.
        settings: Arguments of its class.

    Raises:
        UnknownNameError: There is no such kind.
    """
    if kind not in KINDS:
        raise UnknownNameError("target", kind, KINDS)
    module, _, name = KINDS[kind].partition(":")
    target: Target = getattr(import_module(module), name)(**settings)
    return target


class Targets:
    """The targets of one run, each opened when it is first needed. May be used from several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._open: dict[str, Target] = {}

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
                self._open[key] = open_target(**machine)
            return self._open[key]

    def run(self, job: Job, folder: Path) -> JobResult:
        """`Target.run`, on the machine that the job is for."""
        return self.of(job.machine).run(job, folder)

    def stop(self) -> None:
        """`Target.stop`, on all of them."""
        with self._lock:
            for target in self._open.values():
                target.stop()
