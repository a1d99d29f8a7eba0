"""Task: what memory loading and running a build takes, anonymous and file-backed apart."""

from __future__ import annotations

import threading
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from hwbench.worker.protocol import JobContext
from hwbench.worker.timing import first_batch

_MIB = 1 / 1024  # /proc counts in KiB
_SAMPLE_S = 0.002


def run(job: JobContext) -> dict[str, Any]:
    """Params: ``model``, ``inputs``, ``batch``, ``runs``, ``launch`` (a number that makes equal work another launch).

    Returns:
        In MiB, of the whole process tree: ``runtime`` (Python, numpy and the runtime, before the model is loaded), ``loaded``,
        ``peak``, and the largest of each kind, ``peak_anonymous`` and ``peak_file``; ``run_ns``, the median duration of a run.
    """
    backend = job.load_backend()
    backend.preload()
    before = tree()
    with Peak() as peak, backend.compile(Path(job.params["model"]), job.options) as session:
        loaded = tree()
        call = session.bind(first_batch(job.params["inputs"], job.params["batch"]))
        durations = []
        for _ in range(job.params["runs"]):
            start = perf_counter_ns()
            call()
            durations.append(perf_counter_ns() - start)
    return {
        "runtime": sum(before.values()),
        "loaded": sum(loaded.values()),
        "peak": max(_high_water(), peak.total),
        "peak_anonymous": peak.anonymous,
        "peak_file": peak.file,
        "run_ns": int(np.median(durations)),
    }


class Peak:
    """Samples the process tree's memory from a thread; this task measures memory, never time, so that disturbs nothing."""

    def __init__(self) -> None:
        self.anonymous = self.file = self.total = 0.0
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Peak:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()
        self._take()

    def _watch(self) -> None:
        while not self._stop.wait(_SAMPLE_S):
            self._take()

    def _take(self) -> None:
        now = tree()
        self.anonymous = max(self.anonymous, now["anonymous"])
        self.file = max(self.file, now["file"])
        self.total = max(self.total, sum(now.values()))


def tree() -> dict[str, float]:
    """Resident memory of this process and its descendants, in MiB."""
    total = {"anonymous": 0.0, "file": 0.0}
    for pid in _pids(Path("/proc/self")):
        status = _status(Path(f"/proc/{pid}"))
        total["anonymous"] += status.get("RssAnon", 0) * _MIB
        total["file"] += (status.get("RssFile", 0) + status.get("RssShmem", 0)) * _MIB
    return total


def _high_water() -> float:
    """The kernel's own record of this process's largest resident size, in MiB; children are sampled."""
    return _status(Path("/proc/self")).get("VmHWM", 0) * _MIB


def _pids(process: Path) -> list[str]:
    found = [process.resolve().name]
    for task in (process / "task").iterdir():
        try:
            children = (task / "children").read_text().split()
        except OSError:  # the thread ended between the listing and the reading
            continue
        for child in children:
            found += _pids(Path("/proc") / child)
    return found


def _status(process: Path) -> dict[str, int]:
    try:
        lines = (process / "status").read_text().splitlines()
    except OSError:  # the process ended between the listing and the reading
        return {}
    return {
        key: int(value.split()[0]) for key, _, value in (line.partition(":") for line in lines) if value.endswith(" kB")
    }
