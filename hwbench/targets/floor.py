"""Refuses memory caps under which not even the interpreter starts: such a cap says nothing of any build."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from hwbench.errors import ProfileError
from hwbench.profile import Profile
from hwbench.worker.protocol import Job, JobResult, Limits

_TIMEOUT_S = 60.0
_STEP_MIB = 2
_SEARCHED_MIB = 512


def check_floor(profile: Profile, run_job: Callable[[Job, Path], JobResult], folder: Path) -> None:
    """Start a worker with nothing to do under the profile's memory cap.

    Args:
        profile: The profile; one without a cap, or on another kind of machine than the local one, is not looked at.
        run_job: Runs a job in a worker, in the folder given.
        folder: Where its jobs may write.

    Raises:
        ProfileError: It does not run there, but does with more; the message says with how much.
    """
    target = profile.target
    if target.memory_mib is None or target.kind != "local":
        return
    found = _start(target.memory_mib, run_job, folder)
    if found.ok:
        return
    above = range(target.memory_mib + _STEP_MIB, target.memory_mib + _SEARCHED_MIB, _STEP_MIB)
    need = next((cap for cap in above if _start(cap, run_job, folder).ok), None)
    if need is None:  # it is not the cap, and the run will say what it is
        return
    raise ProfileError(
        f"profile {profile.name}: target.memory_mib = {target.memory_mib}: too little for the Python interpreter alone: "
        f"a worker with nothing to do needs {need} MiB here ({found.usage['mechanism']})"
    )


def _start(cap: int, run_job: Callable[[Job, Path], JobResult], folder: Path) -> JobResult:
    limits = Limits(memory_mib=cap, timeout_s=_TIMEOUT_S)
    return run_job(Job("hwbench.worker.tasks.empty:run", limits=limits), folder)
