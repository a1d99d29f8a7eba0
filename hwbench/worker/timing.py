"""Timing loops: inputs of one batch, warm-up until steady, durations of single runs."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from hwbench.backend import Array
from hwbench.npy import rows

Durations = np.ndarray[Any, np.dtype[np.int64]]

# Two neighboring windows of runs count as steady when their means differ by less, and the spread of the later is less.
_STEADY_DRIFT = 0.10
_STEADY_SPREAD = 0.10


def first_batch(inputs: dict[str, str], batch: int) -> dict[str, Array]:
    """The first ``batch`` inputs, repeated where there are fewer."""
    feeds = {}
    for name, path in inputs.items():
        value = rows(Path(path), 0, batch)
        feeds[name] = np.ascontiguousarray(np.resize(value, (batch, *value.shape[1:])))
    return feeds


def time_runs(call: Callable[[], object], samples: int, limit_ns: int, least: int = 20) -> Durations:
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


def reach_steady_state(call: Callable[[], object], limit_s: float, window: int = 50) -> tuple[int, bool]:
    """Run until two neighboring windows of runs agree.

    The rule is pyperf's (its calibration of warm-ups) on windows of runs: the mean moves by less than 10 %, and the median
    absolute deviation of the later window is within 10 % of its median.

    Args:
        call: One run.
        limit_s: Seconds after which the warm-up ends, steady or not.
        window: Runs in a window, at most; fewer where they take longer than an eighth of the limit.

    Returns:
        The number of runs, and whether the state was reached before the time limit.
    """
    limit_ns = int(limit_s * 1e9)
    begin, before, runs = perf_counter_ns(), None, 0
    while perf_counter_ns() - begin < limit_ns:
        durations = time_runs(call, window, limit_ns // 8, least=1).astype(float)
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
