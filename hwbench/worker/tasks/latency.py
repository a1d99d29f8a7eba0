"""Task: how long one run takes, once the runtime has warmed up."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from hwbench.backend import Array
from hwbench.npy import rows
from hwbench.worker.protocol import JobContext

# Two neighbouring windows of runs count as steady when their means differ by less, and the spread of the later is less.
_STEADY_DRIFT = 0.10
_STEADY_SPREAD = 0.10
_WARM_UP_NS = 5_000_000_000


def run(job: JobContext) -> dict[str, Any]:
    """Time a build's runs.

    Params: ``model``, ``inputs`` (input name to ``.npy`` path), ``batch``, ``samples`` (runs wanted), ``seconds`` (a limit
    on them).

    Returns:
        ``load_ns`` (making the session, libraries already loaded), ``first_run_ns``, ``warm_up`` (runs left out), ``steady``.
        Array ``durations``: nanoseconds per run, int64.
    """
    backend, model = job.load_backend(), Path(job.params["model"])
    backend.preload()
    start = perf_counter_ns()
    with backend.compile(model, job.options) as session:
        load = perf_counter_ns() - start
        call = session.bind(first_batch(job.params["inputs"], job.params["batch"]))
        start = perf_counter_ns()
        call()
        first = perf_counter_ns() - start
        with uncollected():
            warm_up, steady = reach_steady_state(call)
            durations = time_runs(call, job.params["samples"], int(job.params["seconds"] * 1e9))
    job.save("durations", durations)
    return {"load_ns": load, "first_run_ns": first, "warm_up": warm_up + 1, "steady": steady}


def first_batch(inputs: dict[str, str], batch: int) -> dict[str, Array]:
    """The first ``batch`` inputs, repeated where there are fewer."""
    feeds = {}
    for name, path in inputs.items():
        value = rows(Path(path), 0, batch)
        feeds[name] = np.ascontiguousarray(np.resize(value, (batch, *value.shape[1:])))
    return feeds


def time_runs(
    call: Callable[[], object], samples: int, limit_ns: int, least: int = 20
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Durations of up to ``samples`` runs, in nanoseconds; fewer, but at least ``least``, where ``limit_ns`` is reached."""
    durations = np.empty(samples, dtype=np.int64)
    begin = perf_counter_ns()
    for index in range(samples):
        start = perf_counter_ns()
        call()
        stop = perf_counter_ns()
        durations[index] = stop - start
        if stop - begin > limit_ns and index + 1 >= least:
            return durations[: index + 1]
    return durations


def reach_steady_state(call: Callable[[], object], window: int = 50) -> tuple[int, bool]:
    """Run until two neighbouring windows agree.

    The rule is pyperf's (its calibration of warm-ups) on windows of runs: the mean moves by less than 10 %, and the median
    absolute deviation of the later window is within 10 % of its median.

    Returns:
        How many runs it took, and whether the state was reached before the time limit of 5 s.
    """
    begin, before, runs = perf_counter_ns(), None, 0
    while perf_counter_ns() - begin < _WARM_UP_NS:
        durations = time_runs(call, window, _WARM_UP_NS // 4, least=3).astype(float)
        runs += len(durations)
        middle = float(np.median(durations))
        spread = float(np.median(np.abs(durations - middle))) / middle
        mean = float(np.mean(durations[durations <= np.quantile(durations, 0.95)]))
        if before is not None and abs(mean - before) < _STEADY_DRIFT * before and spread < _STEADY_SPREAD:
            return runs, True
        before = mean
    return runs, False


class uncollected:  # noqa: N801  reads as a verb phrase in a with statement
    """Keeps Python's garbage collector from running between two clock readings."""

    def __enter__(self) -> None:
        gc.collect()
        gc.disable()

    def __exit__(self, *_: object) -> None:
        gc.enable()
