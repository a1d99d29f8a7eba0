"""Task: time a build's points (batch sizes, options) in one fresh process, window by window."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from time import perf_counter_ns
from typing import Any

import numpy as np

from hwbench.worker.disturbance import Disturbance, Monitor
from hwbench.worker.protocol import JobContext
from hwbench.worker.timing import Durations, first_batch, reach_steady_state, time_runs, uncollected

# A window holds this many durations at most, which bounds the memory that a very fast model takes.
_MOST_RUNS = 20_000
# Windows measured in place of disturbed ones, at most, for each window asked for.
_RETRIES = 1


def run(job: JobContext) -> dict[str, Any]:
    """Time a build at some points, each in a session of its own.

    The points are the job's variants: one that the machine cannot carry costs itself alone.

    Params:
        model: Path of the deployed ONNX.
        inputs: Input name to ``.npy`` path.
        launch: The launch's number; equal work of another launch is other work.
        quota: Whether a processor quota belongs to the target, so that being stopped by one is no disturbance.
        points: Point's name to ``batch``, ``options`` (in place of the job's), ``windows``, ``window_s`` and ``runs`` (per
            window, at least), ``warm_up_s`` (at most).

    Returns:
        Per variant: ``load_ns`` (making the session, libraries already loaded), ``first_run_ns``, ``warm_up`` (runs before the
        first window), ``steady``, ``kept`` (durations per kept window), ``windows`` (every window's `Disturbance` and the
        ``reasons`` for which it was rejected), ``disturbed`` (too few undisturbed windows: the least disturbed are kept).
        Array ``<point>``: nanoseconds per run of the kept windows, int64.
    """
    backend, model, monitor = job.load_backend(), Path(job.params["model"]), Monitor()
    backend.preload()
    for name in job.variants:
        job.start(name)
        point = job.params["points"][name]
        start = perf_counter_ns()
        with backend.compile(model, {**job.options, **point["options"]}) as session:
            loaded = perf_counter_ns()
            call = session.bind(first_batch(job.params["inputs"], point["batch"]))
            begin = perf_counter_ns()
            call()
            first_run = perf_counter_ns() - begin
            with uncollected():
                warm_up, steady = reach_steady_state(call, point["warm_up_s"])
                windows = _windows(call, point, monitor, quota=job.params["quota"])
        kept, disturbed = select(windows, point["windows"])
        job.save(name, np.concatenate([window.durations for window in kept]))
        record = {"load_ns": loaded - start, "first_run_ns": first_run, "warm_up": warm_up + 1, "steady": steady}
        accounts = [{**window.account.record(), "reasons": window.reasons} for window in windows]
        lengths = [len(window.durations) for window in kept]
        job.done(name, {**record, "kept": lengths, "windows": accounts, "disturbed": disturbed})
    return {}


class Window:
    """Runs timed without a break, and what else the machine did meanwhile."""

    def __init__(self, durations: Durations, account: Disturbance, *, quota: bool = False) -> None:
        self.durations, self.account = durations, account
        self.reasons = [reason for reason in account.reasons if not (quota and reason == "throttled")]

    @property
    def foreign_s(self) -> float:
        """Processor time that others took, as a measure of how much the window was disturbed."""
        return float(np.nansum([self.account.others_s, self.account.steal_s])) / self.account.wall_s


def select(windows: list[Window], wanted: int) -> tuple[list[Window], bool]:
    """The windows that count, in their order.

    Returns:
        The undisturbed windows, or, where fewer than half of the wanted ones are undisturbed, the ``wanted`` least disturbed
        ones; and whether that was so.
    """
    undisturbed = [window for window in windows if not window.reasons]
    if 2 * len(undisturbed) >= wanted:
        return undisturbed, False
    least = sorted(windows, key=lambda window: window.foreign_s)[:wanted]
    return [window for window in windows if window in least], True


def _windows(call: Callable[[], object], point: Mapping[str, Any], monitor: Monitor, *, quota: bool) -> list[Window]:
    """Windows until enough are undisturbed, or the limit on measuring again is reached."""
    windows: list[Window] = []
    wanted, undisturbed = int(point["windows"]), 0
    while undisturbed < wanted and len(windows) < wanted * (1 + _RETRIES):
        before = monitor.read()
        durations = time_runs(call, _MOST_RUNS, int(point["window_s"] * 1e9), least=point["runs"])
        windows.append(Window(durations, monitor.read() - before, quota=quota))
        undisturbed += not windows[-1].reasons
    return windows
