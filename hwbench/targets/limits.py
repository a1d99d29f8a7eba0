"""Holds a job's process tree to its memory cap and processor quota, and says by which mechanism."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Self

from hwbench.errors import UnavailableError
from hwbench.targets import cgroups, systemd
from hwbench.targets.cgroups import Group
from hwbench.worker.cap import CAP_VARIABLE
from hwbench.worker.protocol import Limits

RLIMIT = "rlimit"

# A process enters its group, or lowers its limit, before it becomes the program: what it then touches is charged from
# the first page on, and no Python runs between fork and exec. No argument becomes part of a script's text.
_JOIN = 'echo 0 > "$0" && exec "$@"'
_LIMIT_DATA = 'ulimit -d "$0" && exec "$@"'


@dataclass(frozen=True)
class LimitSupport:
    """What can be enforced on this machine.

    Attributes:
        memory: The mechanism of a memory cap: ``"cgroup v2"``, ``"cgroup v1"``, ``"systemd-run"`` (a scope of the user's
            service manager) or ``"rlimit"``. The last bounds each process's private writable memory (``RLIMIT_DATA``), not
            the resident pages of the tree, and no page cache.
        cpu: The mechanism of a processor quota; empty if there is none.
        memory_reason: Why memory is not held by a control group of our own; empty if it is.
        cpu_reason: Why there is no processor quota; empty if there is.
    """

    memory: str
    cpu: str
    memory_reason: str = ""
    cpu_reason: str = ""


def mechanism() -> LimitSupport:
    """Try what can be enforced here, by making a group and limiting it."""
    with Enforcement(Limits(memory_mib=1024)) as memory:
        pass
    try:
        with Enforcement(Limits(cpu_quota=1.0)) as cpu:
            return LimitSupport(memory.mechanism, cpu.mechanism, memory.reason)
    except UnavailableError as error:
        return LimitSupport(memory.mechanism, "", memory.reason, str(error))


class Enforcement:
    """The limits of one worker, from before it starts until after it has ended. A context manager.

    Args:
        limits: What to enforce.

    Attributes:
        mechanism: What enforces it; empty if there is nothing to enforce.
        reason: Why it is not a control group of our own; empty if it is one.

    Raises:
        UnavailableError: On entering: a processor quota is asked for that cannot be enforced, or a processor that is not there.
    """

    def __init__(self, limits: Limits) -> None:
        self.limits = limits
        self.mechanism = ""
        self.reason = ""
        self._groups: dict[str, Group] = {}
        self._scope: systemd.Scope | None = None

    def __enter__(self) -> Self:
        asked = {"memory": self.limits.memory_mib, "cpu": self.limits.cpu_quota}
        wanted = [name for name, value in asked.items() if value is not None]
        self._check_processors()
        if wanted:
            try:
                self._make_groups(wanted)
            except (UnavailableError, OSError) as error:
                self._remove()
                self._fall_back(error.reason if isinstance(error, UnavailableError) else str(error))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._remove()

    def wrap(self, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` under the limits."""
        wrapped = list(command)
        for path in sorted({group.path for group in self._groups.values()}):
            wrapped = ["/bin/sh", "-c", _JOIN, str(path / "cgroup.procs"), *wrapped]
        if self._scope is not None:
            return self._scope.wrap(wrapped)
        if self.mechanism == RLIMIT and self.limits.memory_mib is not None:
            wrapped = ["/bin/sh", "-c", _LIMIT_DATA, str(self.limits.memory_mib * 1024), *wrapped]
        return wrapped

    def environment(self) -> dict[str, str]:
        """What the worker is told of its cap, so that it can lower it (see `hwbench.worker.cap`); an rlimit it cannot."""
        if self.limits.memory_mib is None or self.mechanism == RLIMIT:
            return {}
        group = self._groups.get("memory")
        return {CAP_VARIABLE: f"{group.version}:{group.path}" if group else "2:"}

    def usage(self) -> Mapping[str, Any]:
        """What was enforced and, under a control group, what was used (see `Group.memory_usage`)."""
        used: dict[str, Any] = {}
        if self.limits.processors is not None:
            used["processors"] = list(self.limits.processors)
        if not self.mechanism:
            return used
        used["mechanism"] = self.mechanism
        if self.reason:
            used["mechanism_reason"] = self.reason
        if self.limits.memory_mib is not None:
            used["cap_mib"] = self.limits.memory_mib
        if self.limits.cpu_quota is not None:
            used["cpu_quota"] = self.limits.cpu_quota
        if "memory" in self._groups:
            used |= self._groups["memory"].memory_usage()
        if self._scope is not None:
            used |= self._scope.usage()
        return used

    def _check_processors(self) -> None:
        usable = os.sched_getaffinity(0)
        missing = sorted(set(self.limits.processors or ()) - usable)
        if missing:
            raise UnavailableError(f"processors {missing} are not there for hwbench, which may use {sorted(usable)}")

    def _make_groups(self, wanted: Sequence[str]) -> None:
        self._groups = cgroups.create(wanted)
        if self.limits.memory_mib is not None:
            self._groups["memory"].cap_memory(self.limits.memory_mib)
        if self.limits.cpu_quota is not None:
            self._groups["cpu"].cap_cpu(self.limits.cpu_quota)
        self.mechanism = next(iter(self._groups.values())).mechanism

    def _fall_back(self, reason: str) -> None:
        """Take the next best mechanism, and keep why."""
        try:
            self._scope = systemd.Scope(self.limits)
            self.mechanism, self.reason = systemd.MECHANISM, reason
        except UnavailableError as error:
            self.mechanism, self.reason = RLIMIT, f"{reason}; {error.reason}"
            if self.limits.cpu_quota is not None:
                raise UnavailableError(
                    f"cannot enforce cpu_quota = {self.limits.cpu_quota} here: no control group can be made: {self.reason}",
                    cgroups.HINT,
                ) from error

    def _remove(self) -> None:
        for group in set(self._groups.values()):
            group.remove()
        self._groups = {}
        if self._scope is not None:
            self._scope.remove()
            self._scope = None
