"""Kills workers from outside, at moments of a test's choice."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

import psutil

from hwbench.worker.progress import Progress
from hwbench.worker.protocol import JOB_FILE


def workers(parent: int) -> Iterator[tuple[int, Path]]:
    """The process ids of a process's workers, each with its job's folder."""
    for child in psutil.Process(parent).children(recursive=True):
        try:
            folders = [Path(part) for part in child.cmdline() if (Path(part) / JOB_FILE).is_file()]
        except (psutil.NoSuchProcess, psutil.ZombieProcess, OSError):
            continue
        yield from ((child.pid, folder) for folder in folders)


class Killer:
    """Kills workers of this process by SIGKILL while its block runs. A context manager.

    Args:
        wanted: Given a job's task, its key and the variant that its worker is in, or None: the name of the accident, or an
            empty one to spare the worker.
        times: How often each accident happens.

    Attributes:
        killed: Names of the accidents that happened.
    """

    def __init__(self, wanted: Callable[[str, str, str | None], str], times: int = 1) -> None:
        self._wanted, self._times = wanted, times
        self.killed: list[str] = []
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._watch)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._over.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._over.wait(0.002):
            for pid, folder in workers(os.getpid()):
                try:
                    os.kill(pid, signal.SIGSTOP)  # so that it is still there when it is killed
                    self._visit(pid, folder)
                    os.kill(pid, signal.SIGCONT)
                except (ProcessLookupError, FileNotFoundError):
                    continue  # it has ended

    def _visit(self, pid: int, folder: Path) -> None:
        task = json.loads((folder / JOB_FILE).read_text())["task"]
        name = self._wanted(task.rpartition(".")[2], folder.name, Progress.read(folder).current)
        if name and self.killed.count(name) < self._times:
            os.kill(pid, signal.SIGKILL)
            self.killed.append(name)
