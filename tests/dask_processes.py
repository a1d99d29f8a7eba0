"""Starts Dask schedulers, workers and boards as real processes, and ends them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hwbench.targets import serve
from hwbench.targets.cluster import Cluster

DEADLINE_S = 90.0
TASKS = Path(__file__).parent / "worker"  # sample_tasks, which the workers of the workers import


class Processes:
    """What a test has started, each in a session of its own; all are killed at its end.

    Args:
        folder: For their logs and scratch files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._started: list[subprocess.Popen[bytes]] = []

    def scheduler(self, *flags: str) -> tuple[str, subprocess.Popen[bytes]]:
        """A scheduler; its address and process."""
        file = self.folder / f"scheduler-{len(self._started)}.json"
        arguments = ["--host", "127.0.0.1", "--port", "0", "--no-dashboard", "--scheduler-file", str(file), *flags]
        process = self.start([sys.executable, "-P", "-m", "distributed.cli.dask_scheduler", *arguments])
        # Dask writes it in place: it is there before it is whole.
        text = until(lambda: file.exists() and (text := file.read_text()).rstrip().endswith("}") and text)
        return json.loads(text)["address"], process

    def worker(self, scheduler: str, *flags: str, **environment: str) -> subprocess.Popen[bytes]:
        """A worker of one thread, without a nanny that would start it again."""
        arguments = ["--nthreads", "1", "--no-nanny", "--no-dashboard", *flags]
        command = [sys.executable, "-P", "-m", "distributed.cli.dask_worker", scheduler, *arguments]
        return self.start(command, **environment)

    def board(self, resource: str, scheduler: str, *flags: str, **environment: str) -> subprocess.Popen[bytes]:
        """A board, as ``hwbench targets serve`` makes one."""
        arguments = ["--resource", resource, "--scheduler", scheduler, *flags]
        return self.start([sys.executable, "-P", "-m", serve.__name__, *arguments], **environment)

    def start(self, command: list[str], **environment: str) -> subprocess.Popen[bytes]:
        """Any process."""
        path = os.pathsep.join(filter(None, [environment.pop("PYTHONPATH", ""), str(TASKS), *sys.path]))
        scratch = {"DASK_TEMPORARY_DIRECTORY": str(self.folder), "PYTHONPATH": path}
        with (self.folder / f"process-{len(self._started)}.log").open("wb") as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=log, env={**os.environ, **scratch, **environment}, start_new_session=True
            )
        self._started.append(process)
        return process

    def wait_for_workers(self, scheduler: str, *resources: str) -> None:
        """Until there is a worker for each resource; one without any where none is named."""
        opened = Cluster(scheduler)
        until(lambda: all(opened.workers(resource) for resource in resources or ("",)))
        opened.close()

    def kill(self, process: subprocess.Popen[bytes]) -> None:
        """End one, and what it has started."""
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def kill_all(self) -> None:
        for process in self._started:
            if process.poll() is None:
                self.kill(process)


@contextmanager
def processes(folder: Path) -> Iterator[Processes]:
    started = Processes(folder)
    try:
        yield started
    finally:
        started.kill_all()


def until(condition: Callable[[], Any]) -> Any:
    """Wait for something to become true; its value."""
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.05)
    return value


def plain(result: Any) -> Mapping[str, Any]:
    """A job's result but for what differs from run to run."""
    return {key: value for key, value in vars(result).items() if key not in ("folder", "usage")}
