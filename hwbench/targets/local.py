"""The machine hwbench itself runs on: one fresh process per job, waited for without polling, its end classified."""

from __future__ import annotations

import math
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from hwbench.errors import UnavailableError
from hwbench.targets import Target, cgroups, systemd
from hwbench.targets.ending import STDERR_FILE, Ending, classify
from hwbench.targets.limits import Enforcement
from hwbench.targets.own_copy import OwnCopy
from hwbench.telemetry import NO_TELEMETRY
from hwbench.worker.protocol import (
    JOB_FILE,
    PROGRESS_FILE,
    PROTOCOL,
    RESULT_FILE,
    STOPPED,
    Job,
    JobResult,
    JobStatus,
    Progress,
    write_json,
)

STDOUT_FILE = "stdout.log"
# What a worker that ends between variants, in time, may take to do so.
_GRACE_S = 1.0


class LocalTarget(Target):
    """Runs jobs in child processes of this one.

    A subclass that runs them through something else overrides `command` and `environment`.
    """

    kind = "local"

    def __init__(self) -> None:
        cgroups.sweep()
        systemd.sweep()
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._stopped = False

    def command(self, folder: Path) -> list[str]:
        """The command line of a worker for the job in ``folder``."""
        return [sys.executable, "-P", "-m", "hwbench.worker", str(folder), str(os.getpid())]

    def environment(self) -> dict[str, str]:
        """A worker's environment: it imports what this process would import, and no runtime reports its use."""
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        return {**os.environ, **NO_TELEMETRY, "PYTHONPATH": path}

    def run(self, job: Job, folder: Path) -> JobResult:
        """See `Target.run`."""
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROGRESS_FILE).unlink(missing_ok=True)
        try:
            if job.variants:
                return self._run_variants(job, folder)
            ending = self._run_worker(job, (), folder, _deadline(job))
            return JobResult(ending.status, folder, ending.data, ending.detail, usage=ending.usage)
        except UnavailableError as error:
            return JobResult("unavailable", folder, detail=str(error))

    def stop(self) -> None:
        """See `Target.stop`."""
        with self._lock:
            self._stopped = True
            for pid in self._running:
                os.killpg(pid, signal.SIGKILL)

    def _run_variants(self, job: Job, folder: Path) -> JobResult:
        """Start workers until every variant is finished or has failed."""
        failed: dict[str, tuple[JobStatus, str]] = {}
        data: dict[str, Any] = {}
        usage: dict[str, Any] = {}
        finished: dict[str, Any] = {}
        unfinished: list[str] = []
        deadline = _deadline(job)
        while left := [name for name in job.variants if name not in failed and name not in finished]:
            ending = self._run_worker(job, left, folder, deadline)
            progress = Progress.read(folder)
            data |= ending.data
            usage = _highest(usage, ending.usage)
            now = {**progress.finished, **ending.data.get("variants", {})}
            lost = [name for name in left if name not in now]
            if ending.stopped or (ending.status == "ok" and lost and deadline is not None):
                unfinished, finished = lost, now
                break
            failed |= _failures(ending, lost, progress.current, advanced=len(now) > len(finished))
            finished = now
        data["variants"] = finished
        if finished:
            return JobResult("ok", folder, data, "", failed, usage, unfinished)
        if unfinished:
            return JobResult("unavailable", folder, data, ending.detail, failed, usage, unfinished)
        status, detail = next(iter(failed.values()))
        return JobResult(status, folder, data, detail, failed, usage)

    def _run_worker(self, job: Job, variants: Sequence[str], folder: Path, deadline: float | None) -> Ending:
        """Run one worker from its start to its classified end, which the deadline on the monotonic clock may bring."""
        (folder / RESULT_FILE).unlink(missing_ok=True)
        write_json(folder / JOB_FILE, {**_job_file(job, variants), "deadline": deadline})
        if deadline is not None and variants:
            deadline += _GRACE_S
        with Enforcement(job.limits) as enforcement:
            command, environment = self.command(folder), {**self.environment(), **enforcement.environment()}
            if job.own_copy:
                own = OwnCopy.load(Path(job.own_copy))
                command, environment = own.command(command), own.environment(environment)
                own.drop()
            command = enforcement.wrap(command)
            progress = folder / PROGRESS_FILE if job.variants else None  # a task's own phases give it no more time
            returncode, timed_out = self._wait(command, environment, folder, job.limits.timeout_s, progress, deadline)
            ending = classify(folder, returncode, job.limits, enforcement.usage(), timed_out)
        stopped = timed_out and deadline is not None and time.monotonic() >= deadline
        return replace(ending, status="unavailable", detail=STOPPED, stopped=True) if stopped else ending

    def _wait(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        timeout_s: float,
        progress: Path | None,
        deadline: float | None,
    ) -> tuple[int, bool]:
        """Run a command in its own process group; whatever happens, nothing of the group outlives this call.

        Returns:
            Its exit status (negative for a signal), and whether it was killed for taking too long.
        """
        with (folder / STDOUT_FILE).open("wb") as stdout, (folder / STDERR_FILE).open("wb") as stderr:
            process = self._start(command, environment, stdout, stderr)
        try:
            descriptor = os.pidfd_open(process.pid)
            try:
                timed_out = not _ends(descriptor, progress, timeout_s, deadline)
            finally:
                os.close(descriptor)
        finally:
            with self._lock:
                # The leader is not reaped yet, so that the group's number cannot be another's.
                os.killpg(process.pid, signal.SIGKILL)
                self._running.discard(process.pid)
            process.wait()
        if self._stopped:
            raise KeyboardInterrupt
        return process.returncode, timed_out

    def _start(
        self, command: Sequence[str], environment: Mapping[str, str], stdout: Any, stderr: Any
    ) -> subprocess.Popen[bytes]:
        with self._lock:
            if self._stopped:
                raise KeyboardInterrupt
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=stderr,
                env=environment,
                start_new_session=True,
            )
            self._running.add(process.pid)
        return process


def _deadline(job: Job) -> float | None:
    """Time by which a job that starts now must end, on the monotonic clock."""
    return None if job.limits.stop_s is None else time.monotonic() + job.limits.stop_s


def _ends(descriptor: int, progress: Path | None, timeout_s: float, deadline: float | None) -> bool:
    """Sleep in the kernel until a process ends, or takes longer than the limit since its start or its last progress.

    Args:
        descriptor: The process's.
        progress: The file to which it adds what it begins and finishes; None if only its start counts.
        timeout_s: The limit.
        deadline: When it must have ended in any case, on the monotonic clock.

    Returns:
        Whether it has ended.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    start, left, until = time.time(), timeout_s, math.inf if deadline is None else deadline
    while not poll.poll(max(0.0, min(left, until - time.monotonic())) * 1000):
        last = max(start, progress.stat().st_mtime) if progress and progress.exists() else start
        left = min(timeout_s, last + timeout_s - time.time())
        if left <= 0 or time.monotonic() >= until:
            return False
    return True


def _job_file(job: Job, variants: Sequence[str]) -> dict[str, Any]:
    return {
        "protocol": PROTOCOL,
        "task": job.task,
        "params": dict(job.params),
        "backend": job.backend,
        "options": dict(job.options),
        "variants": list(variants),
        "processors": job.limits.processors,
    }


def _failures(
    ending: Ending, lost: Sequence[str], current: str | None, advanced: bool
) -> dict[str, tuple[JobStatus, str]]:
    """Which of the variants that a worker left unfinished have failed; the next worker does the others.

    Args:
        ending: How the worker ended.
        lost: The variants it left unfinished.
        current: The variant it was in, if it was in one.
        advanced: Whether it finished any.
    """
    if ending.status == "ok":
        return dict.fromkeys(lost, ("error", "the task ended without it"))
    failure = (ending.status, ending.detail)
    if ending.status != "unavailable" and current is not None and current in lost:
        return {current: failure}
    if ending.status != "unavailable" and advanced:
        return {}
    return dict.fromkeys(lost, failure)  # the next worker would end the same way


def _highest(*usages: Mapping[str, Any]) -> dict[str, Any]:
    """The accounts of several workers as one: the highest of every figure, the last of everything else."""
    merged: dict[str, Any] = {}
    for name, value in (item for usage in usages for item in usage.items()):
        merged[name] = max(merged[name], value) if name in merged and not isinstance(value, str) else value
    return merged
