"""Lowers a worker's own memory cap while it runs: what loading a model takes and what running it takes are two needs."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path

# How the worker is held: "2:FOLDER" or "1:FOLDER" of its control group; "2:" for the one it finds itself in.
CAP_VARIABLE = "HWBENCH_CAP"
_MIB = 1 << 20


def cap_files(environment: Mapping[str, str] = os.environ) -> list[Path]:
    """The files by which this process tree's cap is lowered, in the order to write them.

    Args:
        environment: Where the cap is described.
    """
    version, _, folder = environment[CAP_VARIABLE].partition(":")
    if version == "2":
        return [Path(folder or _own_group(), "memory.max")]
    names = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes")  # the second may not be below the first
    return [path for name in names if (path := Path(folder, name)).exists()]


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
    try:
        for path in cap_files(environment):
            path.write_text(str(mib * _MIB))
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        raise MemoryError(f"more than {mib} MiB are in use and cannot be given back") from None


def _own_group() -> str:
    """Where this process stands in the version 2 hierarchy."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    return "/sys/fs/cgroup" + next(line.removeprefix("0::") for line in lines if line.startswith("0::"))
