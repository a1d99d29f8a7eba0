"""Carries out a run in a process of its own and tells what every process of it took."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Python imports this at its start, in hwbench and in its workers. The kernel's own high-water mark: getrusage's would begin
# with the parent's, from before the program was loaded.
_RECORDER = """
import atexit, json, os, sys, time
from pathlib import Path

taken_down = Path(os.environ["RECORDS"], f"{os.getpid()}.json").open("w")  # before a worker's sandbox closes the folder

def record():
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    taken = {"peak_mib": int(status["VmHWM"].split()[0]) / 1024, "cpu_seconds": time.process_time()}
    job = {"task": "", "params": {}}
    if "hwbench.worker.sandbox" in sys.orig_argv:
        job = json.loads(Path(sys.argv[1], "job.json").read_text())
    kept = {key: job[key] for key in ("task", "params")}
    with taken_down:
        json.dump({**kept, **taken}, taken_down)

atexit.register(record)
"""

# A run as far as its table. The reports come after it, hold no sample, and take more memory than all before them, which
# would hide what the run takes.
_PROGRAM = """
import sys
from pathlib import Path
from hwbench.preparation import prepare
from hwbench.runner import execute
from hwbench.spec import load_spec

with prepare(load_spec(Path(sys.argv[1]))) as prepared:
    execute(prepared, Path(sys.argv[2]))
"""


@dataclass(frozen=True)
class Process:
    """What one process took.

    Attributes:
        task: The worker's task; empty for hwbench itself.
        params: The task's arguments.
        peak_mib: Its highest resident set.
        cpu_seconds: Processor time from its start to its end, interpreter and imports included.
    """

    task: str
    params: Mapping[str, Any]
    peak_mib: float
    cpu_seconds: float


def run_recorded(spec: Path, out: Path) -> Sequence[Process]:
    """Carry out a specification, with a build cache of its own.

    Args:
        spec: The specification.
        out: The run directory; what was recorded lies beside it.
    """
    records = out.with_name(f"{out.name}-records")
    records.mkdir()
    (records / "sitecustomize.py").write_text(_RECORDER)
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(records), *sys.path]),
        "RECORDS": str(records),
        "HWBENCH_CACHE": str(out.with_name(f"{out.name}-cache")),
    }
    subprocess.run([sys.executable, "-c", _PROGRAM, str(spec), str(out)], env=environment, check=True)
    texts = [file.read_text() for file in records.glob("*.json")]
    return [Process(**json.loads(text)) for text in texts if text]  # none of a process that was killed


def peaks(spec: Path, out: Path) -> Mapping[str, float]:
    """MiB that hwbench itself, and the largest worker of each task, took at most while a specification was carried out."""
    found: dict[str, float] = {}
    for process in run_recorded(spec, out):
        kind = process.task or "hwbench"
        found[kind] = max(found.get(kind, 0.0), process.peak_mib)
    spec.with_suffix(".npz").unlink()  # its data; pytest keeps the folders of its last runs
    return found
