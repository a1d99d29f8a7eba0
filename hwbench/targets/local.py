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
from hwbench.targets import Target, cgroups, sandbox, systemd
from hwbench.targets.ending import STDERR_FILE, Ending, classify
from hwbench.targets.limits import Enforcement
from hwbench.targets.own_copy import OwnCopy
from hwbench.targets.reruns import VariantRuns, run_whole
from hwbench.telemetry import NO_TELEMETRY
from hwbench.worker.progress import Progress
from hwbench.worker.protocol import JOB_FILE, PROGRESS_FILE, PROTOCOL, RESULT_FILE, STOPPED, Job, JobResult, write_json

STDOUT_FILE = "stdout.log"
# What a worker that ends between variants, in time, may take to do so.
_GRACE_S = 1.0


class LocalTarget(Target):
    """Runs jobs in child processes of this one, in the sandbox of `hwbench.worker.sandbox`.

    A subclass that runs them through something else overrides `command`, `environment` and `programs`.

    Args:
        sandboxed: False where the machine's owner trusts the profiles: jobs may then do what this process may.
    """

    kind = "local"

    def __init__(self, sandboxed: bool = True) -> None:
        cgroups.sweep()
        systemd.sweep()
        self._sandboxed = sandboxed
        self._lock = threading.Lock()
        self._running: set[int] = set()
        self._stopped = False

    def command(self, folder: Path) -> list[str]:
        """The command line of a worker for the job in ``folder``."""
        return [sys.executable, "-P", "-m", "hwbench.worker.sandbox", str(folder), str(os.getpid())]

    def environment(self) -> dict[str, str]:
        """A worker's environment: it imports what this process would import, and no runtime reports its use."""
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        return {**os.environ, **NO_TELEMETRY, "PYTHONPATH": path}

    def programs(self) -> list[str]:
        """Paths that a worker runs or imports from, besides this interpreter, its packages and the system's folders."""
        return []

    def run(self, job: Job, folder: Path) -> JobResult:
        """See `Target.run`."""
        folder = folder.absolute()
        folder.mkdir(parents=True, exist_ok=True)
        (folder / PROGRESS_FILE).unlink(missing_ok=True)
        deadline = _deadline(job)

        def worker(variants: Sequence[str]) -> Ending:
            return self._run_worker(job, variants, folder, deadline)

        try:
            return VariantRuns(job, folder, worker).run() if job.variants else run_whole(job, folder, worker)
        except UnavailableError as error:
            return JobResult("unavailable", folder, detail=str(error))

    def stop(self) -> None:
        """See `Target.stop`."""
        with self._lock:
            self._stopped = True
            for pid in self._running:
                os.killpg(pid, signal.SIGKILL)

    def _run_worker(self, job: Job, variants: Sequence[str], folder: Path, deadline: float | None) -> Ending:
        """Run one worker from its start to its classified end, which the deadline on the monotonic clock may bring."""
        (folder / RESULT_FILE).unlink(missing_ok=True)
        sandbox.compile_code(job)
        rules = sandbox.rules(job, folder, self.programs()) if self._sandboxed else None
        write_json(folder / JOB_FILE, {**_job_file(job, variants), "deadline": deadline, "sandbox": rules})
        if deadline is not None and variants:
            deadline += _GRACE_S
        with sandbox.scratch(folder) as scratch, Enforcement(job.limits) as enforcement:
            command, environment = self.command(folder), {**self.environment(), **scratch, **enforcement.environment()}
            if job.own_copy:
                own = OwnCopy.load(Path(job.own_copy))
                command, environment = own.command(command), own.environment(environment)
                own.drop()
            command = enforcement.wrap(command)
            since_start = job.may_time_out
            returncode, timed_out = self._wait(
                command, environment, folder, job.limits.timeout_s, deadline, since_start=since_start
            )
            enforced = {**enforcement.usage(), "sandbox": sandbox.describe(self._sandboxed)}
            ending = classify(folder, returncode, job.limits, enforced, timed_out)
        stopped = timed_out and deadline is not None and time.monotonic() >= deadline
        if stopped:
            return replace(ending, status="unavailable", detail=STOPPED, stopped=True, died=False)
        return ending

    def _wait(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        folder: Path,
        timeout_s: float,
        deadline: float | None,
        *,
        since_start: bool,
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
                timed_out = not _ends(descriptor, None if since_start else folder, timeout_s, deadline)
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


def _ends(descriptor: int, folder: Path | None, timeout_s: float, deadline: float | None) -> bool:
    """Sleep in the kernel until a process ends, or takes longer than the limit since its start or its last progress.

    All on the monotonic clock, which the worker's records hold too: the wall clock may be set while a worker runs.

    Args:
        descriptor: The process's.
        folder: The job's, where the worker records its progress; None if only its start counts.
        timeout_s: The limit.
        deadline: When it must have ended in any case.

    Returns:
        Whether it has ended.
    """
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    start, until = time.monotonic(), math.inf if deadline is None else deadline
    late = start + timeout_s
    while not poll.poll(max(0.0, min(late, until) - time.monotonic()) * 1000):
        now = time.monotonic()
        last = Progress.read(folder).last if folder else None
        late = timeout_s + max(start, min(now, last or start))
        if now >= min(late, until):
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
