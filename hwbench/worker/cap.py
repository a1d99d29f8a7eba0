"""Lowers a worker's own memory cap while it runs: what loading a model takes and what running it takes are two needs."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

# How the worker is held: "2:FOLDER" or "1:FOLDER" of its control group; "2:" for the one it finds itself in.
CAP_VARIABLE = "HWBENCH_CAP"
_MIB = 1 << 20


def lower_cap(mib: int, environment: Mapping[str, str] = os.environ) -> None:
    """Lower the cap that this process tree is held to.

    Files are pushed out of memory until the rest fits; what does not fit is the end. An rlimit cannot do that: it refuses what
    is asked for next, and takes nothing back.

    Args:
        mib: The new cap.
        environment: Where the cap is described.

    Raises:
        MemoryError: More is in use than can be given back (cgroup v1; under v2 the kernel kills).
        OSError: The kernel refuses otherwise.
    """
    version, _, folder = environment[CAP_VARIABLE].partition(":")
    if version == "2":
        Path(folder or _own_group(), "memory.max").write_text(str(mib * _MIB))
    else:
        _lower_version_1(Path(folder), str(mib * _MIB))


def _own_group() -> str:
    """Where this process stands in the version 2 hierarchy."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return "/sys/fs/cgroup" + next(line.removeprefix("0::") for line in lines if line.startswith("0::"))


def _lower_version_1(group: Path, cap: str) -> None:
    try:
        for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):  # the second may not be below the first
            if (group / name).exists():
                (group / name).write_text(cap)
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise MemoryError(f"more than {int(cap) // _MIB} MiB are in use and cannot be given back") from None
