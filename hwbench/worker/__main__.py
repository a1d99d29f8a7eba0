"""``python -m hwbench.worker FOLDER [PARENT]``: carries out the job in a folder and writes its result there."""

from __future__ import annotations

import ctypes
import os
import resource
import signal
import sys
import traceback
from collections.abc import Callable, Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

from hwbench.errors import HwbenchError, InputError, UnavailableError, UnsupportedError
from hwbench.telemetry import silence_telemetry
from hwbench.worker.protocol import (
    JOB_FILE,
    PROTOCOL,
    REFUSED,
    RESULT_FILE,
    JobContext,
    JobStatus,
    out_of_memory,
    read_json,
    write_json,
)

_PR_SET_PDEATHSIG = 1
_TRACEBACK_LINES = 12

Task = Callable[[JobContext], Mapping[str, Any]]


def main(arguments: list[str]) -> int:
    """Carry out one job.

    Args:
        arguments: The job's folder and, where there is a parent to die with, its process id.
    """
    if len(arguments) > 1:
        die_with(int(arguments[1]))
    silence_telemetry()
    folder = Path(arguments[0])
    job = read_json(folder / JOB_FILE)
    context = JobContext(
        folder, job["params"], job["backend"], job["options"], tuple(job["variants"]), job.get("deadline")
    )
    if job.get("processors") is not None:
        os.sched_setaffinity(0, job["processors"])  # before any runtime counts them and starts its threads
    status, data, detail = carry_out(job["task"], context)
    result = {"protocol": PROTOCOL, "status": status, "data": data, "detail": detail, "usage": usage()}
    write_json(folder / RESULT_FILE, result)
    return 0


def die_with(parent: int) -> None:
    """Have the kernel kill this process when its parent ends, however that ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # it ended before the line above
        sys.exit(f"the parent process {parent} is gone")


def carry_out(reference: str, context: JobContext) -> tuple[JobStatus, Mapping[str, Any], str]:
    """Run one task.

    Args:
        reference: ``module:function`` of the task.
        context: What it is given.

    Returns:
        How it ended, what it returned, and the reason if it did not end well.
    """
    module, _, name = reference.partition(":")
    try:
        task: Task = getattr(import_module(module), name)
        return "ok", task(context), ""
    except (UnavailableError, UnsupportedError) as error:
        if out_of_memory(cause := str(error.__cause__)):  # a library that did not fit looks like one that is missing
            return "oom", {}, f"{error}: {cause}"
        return "unavailable", {}, str(error)
    except InputError as error:
        return "error", {REFUSED: True}, str(error)
    except HwbenchError as error:
        return "error", {}, str(error)
    except MemoryError as error:
        return "oom", {}, f"MemoryError: {error}" if str(error) else "MemoryError"
    except Exception as error:  # noqa: BLE001  # the process boundary: whatever a runtime raises becomes the job's result
        summary = f"{type(error).__name__}: {error}"
        if out_of_memory(summary):
            return "oom", {}, summary
        trace = "".join(traceback.format_exception(error)).splitlines()
        return "error", {}, "\n".join([summary, *trace[-_TRACEBACK_LINES:]])


def usage() -> dict[str, float]:
    """This process's memory, in MiB: see `hwbench.worker.protocol.JobResult.usage`."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    names = {"peak_mib": "VmHWM", "anon_mib": "RssAnon", "file_mib": "RssFile"}
    used = {name: int(status[field].split()[0]) / 1024 for name, field in names.items()}
    children = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
    return used | ({"children_peak_mib": children / 1024} if children else {})


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
