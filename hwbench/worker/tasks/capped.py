"""Task: load and run a build under a memory cap, in phases that are told apart: what a worker that dies had finished counts."""

from __future__ import annotations

import os
import sys
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.backend import Session
from hwbench.npy import NpyWriter, rows
from hwbench.worker.cap import lower_cap
from hwbench.worker.protocol import JobContext
from hwbench.worker.tasks.memory import Peak, tree
from hwbench.worker.timing import first_batch, time_runs

LOAD, RUN = "load", "run"
_FEWEST = 2


def run(job: JobContext) -> dict[str, Any]:
    """Load a build and run it.

    Params:
        model, inputs, output: The build, its inputs' files, the output to keep.
        batch: Inputs per run, filled up by repeating the last input.
        runs: Runs of the first batch.
        limit_s: They are ended after this time; fewer than asked for, but two at least, are then returned.
        n: Inputs whose outputs are kept; 0 for none.
        cap_mib: The cap is lowered to this between loading and running; absent if it is not.
        watch: Whether memory is sampled, which costs a little of both time and memory.
        survey: Whether the files in use are listed.

    Returns:
        ``run_s`` and ``run_wall_s`` (mean of the runs, the first one's costs included), ``data_mib`` (what ``RLIMIT_DATA``
        counts) and ``held_mib`` (anonymous memory of the tree) after them, ``wall_s`` of the whole process, with ``watch`` the
        tree's largest ``anonymous_mib``, with ``survey`` the files ``mapped`` and ``read``, with ``n`` the outputs as an
        `evaluate` task gives them. Array ``durations``: nanoseconds per run. Progress of the phase ``load``: ``load_s`` and
        ``load_wall_s`` since the process started and, with ``watch``, ``anonymous_mib`` until then.
        Seconds are without the time that this thread waited for a processor, unless they are called wall.
    """
    params, peak = job.params, Peak()
    with ExitStack() as stack:
        if params.get("watch"):
            stack.enter_context(peak)
        job.start(LOAD)
        backend = job.load_backend()
        backend.preload()
        session = stack.enter_context(backend.compile(Path(params["model"]), job.options))
        feeds = first_batch(params["inputs"], params["batch"])
        call = session.bind(feeds)
        loaded = _Clock.now()
        job.done(LOAD, {"load_s": loaded.own_s, "load_wall_s": loaded.wall_s, "anonymous_mib": peak.anonymous})
        job.start(RUN)
        if "cap_mib" in params:
            lower_cap(params["cap_mib"])
        start = _Clock.now()
        durations = time_runs(call, params["runs"], int(params["limit_s"] * 1e9), least=_FEWEST)
        stop = _Clock.now()
        found: dict[str, Any] = {
            "run_s": (stop.own_s - start.own_s) / len(durations),
            "run_wall_s": (stop.wall_s - start.wall_s) / len(durations),
            "data_mib": _data_mib(),
            "held_mib": tree()["anonymous"],
        }
        if params["n"]:
            found["variants"] = {"golden": {"arrays": [_outputs(job, session)]}}
    job.save("durations", durations)
    if params.get("survey"):
        found["mapped"] = sorted(_mapped())
        found["read"] = sorted(_read())
    return {**found, "anonymous_mib": peak.anonymous, "wall_s": _Clock.now().wall_s}


def _outputs(job: JobContext, session: Session) -> str:
    """Run the first ``n`` inputs, batch by batch, none of which stays in memory; the name of their outputs' array."""
    params = job.params
    n, size, files = params["n"], params["batch"], {name: Path(path) for name, path in params["inputs"].items()}
    writer: NpyWriter | None = None
    with ExitStack() as stack:
        for start in range(0, n, size):
            blocks = {name: rows(path, start, min(start + size, n)) for name, path in files.items()}
            count = len(next(iter(blocks.values())))
            whole = {
                name: np.concatenate([block, np.repeat(block[-1:], size - count, 0)]) for name, block in blocks.items()
            }
            value = session.run(whole)[params["output"]][:count]
            if writer is None:
                writer = stack.enter_context(NpyWriter(job.folder, value.dtype, value.shape[1:]))
            writer.append(value)
        return writer.close().path.stem if writer else ""


@dataclass(frozen=True)
class _Clock:
    """Seconds since this process was started, interpreter and all; ``own_s`` without waiting for a processor."""

    own_s: float
    wall_s: float

    @classmethod
    def now(cls) -> _Clock:
        started = int(Path("/proc/self/stat").read_text(encoding="utf-8").rpartition(")")[2].split()[19])
        wall = time.clock_gettime(time.CLOCK_BOOTTIME) - started / os.sysconf("SC_CLK_TCK")
        waited = Path("/proc/self/schedstat")  # of the main thread, which carries out the task; not on every kernel
        return cls(wall - (int(waited.read_text(encoding="utf-8").split()[1]) / 1e9 if waited.exists() else 0.0), wall)


def _data_mib() -> float:
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
    return int(status["VmData"].split()[0]) / 1024


def _mapped() -> set[str]:
    lines = (
        line.split(maxsplit=5)
        for line in Path("/proc/self/maps").read_text(encoding="utf-8", errors="replace").splitlines()
    )
    return {path for *_, path in (line for line in lines if len(line) == 6) if Path(path).is_file()}


def _read() -> set[str]:
    """The files of Python's modules; read rather than mapped."""
    found = {
        getattr(module, name, None) for module in list(sys.modules.values()) for name in ("__file__", "__cached__")
    }
    return {path for path in found if path and Path(path).is_file()}
