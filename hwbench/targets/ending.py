"""Classifies how a worker ended: from its result, its exit status, its stderr and its control group."""

from __future__ import annotations

import os
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwbench.worker.protocol import RESULT_FILE, JobStatus, Limits, out_of_memory, read_json

STDERR_FILE = "stderr.log"
_TAIL_BYTES = 4096
_TAIL_LINES = 12


@dataclass(frozen=True)
class Ending:
    """How one worker ended.

    Attributes:
        status: The classified end.
        detail: The reason where it is not ok.
        data: What the task returned.
        usage: What the worker and its limits accounted.
        stopped: Whether it was killed because `Limits.stop_s` was over.
        died: Whether something else than its work may have ended it: it left no result, or memory was short without a cap.
    """

    status: JobStatus
    detail: str = ""
    data: Mapping[str, Any] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)
    stopped: bool = False
    died: bool = False

    @property
    def reason(self) -> str:
        """The reason in one line."""
        return (self.detail or self.status).partition("\n")[0]


def classify(folder: Path, returncode: int, limits: Limits, enforced: Mapping[str, Any], timed_out: bool) -> Ending:
    """Say how a worker ended.

    Args:
        folder: The job's folder, with its stderr and, if it came that far, its result.
        returncode: Its exit status; negative for a signal.
        limits: What it was held to.
        enforced: What `Enforcement.usage` returned after its end.
        timed_out: Whether it was killed for taking too long.
    """
    killed_for_memory = enforced.get("oom_kills", 0) > 0
    if (folder / RESULT_FILE).exists():
        result = read_json(folder / RESULT_FILE)
        status, detail = result["status"], result["detail"]
        if (status == "error" and killed_for_memory) or (status == "oom" and "cap_mib" in enforced):  # maybe of a child
            status, detail = "oom", f"{_beyond(enforced)}: {detail}"
        died = status == "oom" and "cap_mib" not in enforced
        return Ending(status, detail, result["data"], {**result["usage"], **enforced}, died=died)
    status, detail = _died(_tail(folder / STDERR_FILE), returncode, limits, enforced, timed_out, killed_for_memory)
    return Ending(status, detail, usage=enforced, died=status != "oom" or "cap_mib" not in enforced)


def _died(
    stderr: str, returncode: int, limits: Limits, enforced: Mapping[str, Any], timed_out: bool, killed_for_memory: bool
) -> tuple[JobStatus, str]:
    """The end of a worker that left no result."""
    if timed_out:
        again = enforced.get("cap_refaults", 0)
        thrashing = f" (under a cap of {enforced['cap_mib']} MiB, {again} file pages were read again)" if again else ""
        return "timeout", f"took longer than {limits.timeout_s:g} s{thrashing}"
    if killed_for_memory:
        return "oom", _beyond(enforced)
    if out_of_memory(stderr):
        return "oom", f"{_beyond(enforced)}\n{stderr}" if "cap_mib" in enforced else stderr
    if returncode == -signal.SIGPROF:  # `hwbench.worker.patience`
        return "timeout", "took far more processor time than the fault-free build"
    if returncode < 0:
        return "crash", _lines(f"died of {_signal(-returncode)}{_under(enforced)}", stderr)
    return "error", _lines(f"the worker ended with exit status {returncode} and no result{_under(enforced)}", stderr)


def _beyond(enforced: Mapping[str, Any]) -> str:
    return f"needs more than the {enforced['cap_mib']} MiB allowed ({enforced['mechanism']})"


def _under(enforced: Mapping[str, Any]) -> str:
    """Where nothing counts OOM kills, lack of memory may look like any other death, and cannot be told apart from it."""
    if enforced.get("mechanism") not in ("rlimit", "systemd-run") or "cap_mib" not in enforced:
        return ""
    return (
        f" under a cap of {enforced['cap_mib']} MiB by {enforced['mechanism']}, where lack of memory may look like this"
    )


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal has no name
        return f"signal {number}"


def _lines(*parts: str) -> str:
    return "\n".join(part for part in parts if part)


def _tail(path: Path) -> str:
    """The last lines of a file, however long it is."""
    with path.open("rb") as file:
        file.seek(max(0, file.seek(0, os.SEEK_END) - _TAIL_BYTES))
        text = file.read().decode(errors="replace")
    return "\n".join(text.strip().splitlines()[-_TAIL_LINES:])
