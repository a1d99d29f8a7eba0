"""Linux control groups: where a job's group may stand, making one, reading it, removing it.

A group is made in the highest folder that this process may use without leaving a limit that it is itself under: a job
never escapes its container's cap, and groups of a parent that died stay where the next one finds them.
"""

from __future__ import annotations

import itertools
import logging
import os
import re
import signal
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench.errors import UnavailableError

logger = logging.getLogger(__name__)

HINT = "run as root, or inside a delegated group: systemd-run --user --scope hwbench ..."
MIB = 1024 * 1024
_PERIOD_US = 100_000
_LEAST_QUOTA_US = 1_000  # the kernel refuses less
_UNLIMITED = 1 << 62  # cgroup v1 writes "no limit" as the largest page-aligned number
_REMOVAL_S = 2.0
_numbers = itertools.count(1)

# What each version calls the limits, as (file, content without a limit).
_LIMIT_FILES = {2: ("memory.max", "cpu.max"), 1: ("memory.limit_in_bytes", "cpu.cfs_quota_us")}


@dataclass(frozen=True)
class Group:
    """One control group made for a job.

    Attributes:
        path: Its folder.
        version: Of the hierarchy it stands in, 1 or 2.
    """

    path: Path
    version: int

    @property
    def mechanism(self) -> str:
        """What it is called in results."""
        return f"cgroup v{self.version}"

    def cap_memory(self, mib: int) -> None:
        """Cap the memory of the whole group, without swap.

        Raises:
            OSError: The kernel refuses.
        """
        cap = str(mib * MIB)
        if self.version == 2:
            self._write("memory.max", cap)
            self._write("memory.swap.max", "0", optional=True)
        else:
            self._write("memory.limit_in_bytes", cap)
            self._write("memory.memsw.limit_in_bytes", cap, optional=True)
            self._write("memory.swappiness", "0", optional=True)

    def cap_cpu(self, cores: float) -> None:
        """Cap the processor time per second of wall time, in cores.

        Raises:
            OSError: The kernel refuses.
        """
        quota = max(_LEAST_QUOTA_US, round(cores * _PERIOD_US))
        if self.version == 2:
            self._write("cpu.max", f"{quota} {_PERIOD_US}")
        else:
            self._write("cpu.cfs_period_us", str(_PERIOD_US))
            self._write("cpu.cfs_quota_us", str(quota))

    def memory_usage(self) -> dict[str, float]:
        """What the group has used; valid until it is removed.

        Returns:
            ``cap_peak_mib`` (its highest use, page cache included; absent where the kernel does not keep it),
            ``cap_file_mib`` (page cache charged to it now), ``cap_refaults`` (file pages read again after they had been
            pushed out: many mean thrashing) and ``oom_kills`` (0 under version 2 unless the group met its cap: the kernel
            also counts processes killed because the whole machine was short of memory).
        """
        if self.version == 2:
            peak, events, cache, refaults = "memory.peak", "memory.events", "file", "workingset_refault_file"
        else:
            peak, events = "memory.max_usage_in_bytes", "memory.oom_control"
            cache, refaults = "total_cache", "total_workingset_refault_file"
        stat = self._fields("memory.stat")
        usage: dict[str, float] = {
            "cap_file_mib": stat[cache] / MIB,
            "cap_refaults": stat.get(refaults, 0),
            "oom_kills": self._fields(events).get("oom_kill", 0) if self._met_its_cap() else 0,
        }
        if (self.path / peak).exists():
            usage["cap_peak_mib"] = int(self._read(peak)) / MIB
        return usage

    def _met_its_cap(self) -> bool:
        """True if an allocation in the group failed because of its cap, or if the kernel does not record it."""
        # version 1 counts failures in memory.failcnt, but not every kernel that has the file does
        return self.version == 1 or self._fields("memory.events").get("oom", 1) > 0

    def remove(self) -> None:
        """Kill what is left in the group and remove it; a group that stays busy is left to the next `sweep`."""
        deadline = time.monotonic() + _REMOVAL_S
        while not _rmdir(self.path):
            if time.monotonic() > deadline:
                logger.warning("%s: this control group is still in use and was left behind", self.path)
                return
            for pid in self._read("cgroup.procs").split():
                _kill(int(pid))
            time.sleep(0.01)  # a killed process leaves its group a moment later

    def _read(self, name: str) -> str:
        return (self.path / name).read_text()

    def _fields(self, name: str) -> dict[str, int]:
        return {key: int(value) for key, value in (line.split() for line in self._read(name).splitlines())}

    def _write(self, name: str, content: str, optional: bool = False) -> None:
        if not optional or (self.path / name).exists():
            (self.path / name).write_text(content)


def create(controllers: Sequence[str]) -> dict[str, Group]:
    """Make groups in which the given controllers can limit a job.

    Args:
        controllers: ``"memory"``, ``"cpu"`` or both.

    Returns:
        Controller to its group: one group for all under version 2, one for each under version 1.

    Raises:
        UnavailableError: This process may make none, with the reason for each version.
    """
    reasons = []
    for version in (2, 1):
        made: dict[Path, Group] = {}
        try:
            parents = {controller: _parent(version, controller) for controller in controllers}
            if version == 2 and len(set(parents.values())) > 1:
                raise UnavailableError(f"no one group may hold {' and '.join(controllers)}")
            for parent in set(parents.values()):
                made[parent] = Group(_mkdir(parent), version)
            return {controller: made[parent] for controller, parent in parents.items()}
        except (UnavailableError, OSError) as error:
            for group in made.values():
                group.remove()
            reasons.append(f"cgroup v{version}: {error}")
    raise UnavailableError("; ".join(reasons), HINT)


def sweep() -> None:
    """Remove the groups of parents that no longer run, and end what their workers left in them."""
    for version, controller in itertools.product((2, 1), ("memory", "cpu")):
        try:
            parent = _parent(version, controller)
        except UnavailableError:
            continue  # where none can be made, none was left
        for path in parent.glob("hwbench-*-*"):
            name = re.fullmatch(r"hwbench-(\d+)-\d+", path.name)
            if name and not Path("/proc", name[1]).exists():
                if _all_ours(path):
                    Group(path, version).remove()
                else:
                    _rmdir(path)


def _all_ours(path: Path) -> bool:
    """Whether all processes of a group are of this PID namespace: seen from another, a living parent looks dead."""
    try:
        namespaces = [_namespaces(pid) for pid in (path / "cgroup.procs").read_text().split()]
    except FileNotFoundError:  # ended, or the group was removed, meanwhile
        return False
    return all(depth == 1 for depth in namespaces)


def _namespaces(pid: str) -> int:
    """How many PID namespaces, from this one on, a process is in; none if it is in another one altogether."""
    if pid == "0":
        return 0
    status = dict(line.split(":", 1) for line in Path("/proc", pid, "status").read_text(encoding="utf-8").splitlines())
    return len(status["NSpid"].split())


def _parent(version: int, controller: str) -> Path:
    """The folder in which a job's group is made."""
    best, kept = None, ""
    for folder in _ancestry(version, controller):
        if _usable(folder, version, controller):
            best = folder
        if _limited(folder, version):
            kept = " without leaving the limit it is under"
            break
    if best is None:
        enabled = (
            f" in which {controller} is enabled for subgroups" if version == 2 else f" of the {controller} controller"
        )
        raise UnavailableError(f"this process may write to no group{enabled}{kept}")
    return best


def _ancestry(version: int, controller: str) -> Iterator[Path]:
    """This process's own group, its parent, and so on up to where the hierarchy is mounted."""
    for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines():
        left, right = line.split(" - ", 1)
        root, mount = left.split()[3:5]
        kind, _, options = right.split(" ", 2)
        if (kind == "cgroup2" and version == 2) or (
            kind == "cgroup" and version == 1 and controller in options.split(",")
        ):
            break
    else:
        raise UnavailableError(f"no hierarchy with the {controller} controller is mounted")
    for line in Path("/proc/self/cgroup").read_text(encoding="utf-8").splitlines():
        _, names, path = line.split(":", 2)
        if controller in names.split(",") if version == 1 else not names:
            break
    else:
        raise UnavailableError(f"this process is in no group of the {controller} controller")
    folder = Path(mount, path.removeprefix(root.rstrip("/")).lstrip("/"))
    yield from (parent for parent in (folder, *folder.parents) if parent.is_relative_to(mount))


def _usable(folder: Path, version: int, controller: str) -> bool:
    if not os.access(folder, os.W_OK):
        return False
    if version == 1:
        return True
    # Version 2: children get the controller only if it is enabled here, and entering one takes write access to a file.
    enabled = (folder / "cgroup.subtree_control").read_text().split()
    return controller in enabled and os.access(folder / "cgroup.procs", os.W_OK)


def _limited(folder: Path, version: int) -> bool:
    return any(_has_limit(folder / name) for name in _LIMIT_FILES[version])


def _has_limit(path: Path) -> bool:
    if not path.exists():  # a hierarchy's root has none, nor has another controller's hierarchy
        return False
    value = path.read_text(encoding="utf-8").split()[0]
    return value != "max" and 0 <= int(value) < _UNLIMITED


def _mkdir(parent: Path) -> Path:
    while True:
        path = parent / f"hwbench-{os.getpid()}-{next(_numbers)}"
        try:
            path.mkdir()
        except FileExistsError:  # left by an earlier process of the same number
            continue
        return path


def _rmdir(path: Path) -> bool:
    """Whether the group is gone."""
    try:
        path.rmdir()
    except FileNotFoundError:
        return True
    except OSError:
        return False  # busy
    return True


def _kill(pid: int) -> None:
    if pid <= 0:  # a process of another PID namespace reads as 0, which would be our own process group
        return
    try:
        os.kill(pid, signal.SIGKILL)
    except ProcessLookupError:
        return  # it ended by itself
