"""Sustained load: whether a build keeps its throughput for minutes, and what holds it back where it does not."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from pydantic import Field

from hwbench import stats
from hwbench.bounds import LAUNCHES, PROCESSORS, WAIT_S
from hwbench.studies.base import LEVEL, Analysis, Case, Settings, Study
from hwbench.studies.launches import on_target
from hwbench.studies.outputs import row
from hwbench.table import Row, condition
from hwbench.worker.protocol import Job, JobResult
from hwbench.worker.tasks.sustained import COLUMNS

Array = np.ndarray[Any, np.dtype[np.float64]]

_AT = {name: place for place, name in enumerate(COLUMNS)}
_SLICES = 10  # of a window, whose spread gives the window its interval
_FELL = 0.95  # a frequency below this share of its start has fallen
_HELD_BACK = 0.01  # share of a window's time that a quota may hold the build back


class SustainedSettings(Settings):
    """Study settings."""

    minutes: float = Field(2.0, gt=0, le=WAIT_S / 60, description="how long the load lasts")
    windows: int = Field(12, ge=3, le=LAUNCHES, description="windows that this time is cut into")
    max_disturbance: float = Field(
        0.2, gt=0, le=PROCESSORS, description="processor time of others, in cores, above which a window is rejected"
    )


class SustainedStudy(Study):
    """Runs one after the other without pause; the last window's throughput against the first's.

    A window in which other processes used the machine is rejected: it would blame the build, or its cooling, for them.
    """

    name = "sustained"
    headline = "sustained_ratio"
    settings_type = SustainedSettings
    default = False
    timing = True

    def plan(self, case: Case, settings: SustainedSettings) -> dict[str, Job]:
        """One job, alone on the machine, under the target's limits."""
        slices = settings.windows * _SLICES
        job = case.subject.job(
            "sustained",
            case,
            exclusive=True,
            batch=case.model.batch or 1,
            slices=slices,
            slice_s=settings.minutes * 60 / slices,
        )
        job = on_target(job, case)
        wanted = max(job.limits.timeout_s, 2 * 60 * settings.minutes + 60)
        return {"sustained": replace(job, limits=replace(job.limits, timeout_s=wanted))}

    def analyse(self, case: Case, settings: SustainedSettings, results: Mapping[str, JobResult]) -> Analysis:
        """Throughput, frequency and temperature of every window, and what the last one keeps of the first."""
        table = np.array(results["sustained"].array("slices"))
        windows = [_Window(part, settings.max_disturbance) for part in np.split(table, settings.windows)]
        starts = np.cumsum([0.0, *(window.seconds for window in windows)])
        batch = case.model.batch or 1
        rows = [
            made
            for start, window in zip(starts, windows, strict=False)
            for made in self._window(case, window, batch, condition(second=round(float(start), 1)))
        ]
        rows.append(self._ratio(case, windows))
        seconds = table[:, _AT["run_s"]] / table[:, _AT["runs"]]
        return Analysis(rows, timings={f"sustained[{case.profile.name}]": seconds})

    def _window(self, case: Case, window: _Window, batch: int, setting: str) -> Iterator[Row]:
        if window.disturbed:
            yield Row(
                self.name, "samples_per_s", setting, status="skipped",
                detail=f"other processes used {window.others:.2f} cores meanwhile",
            )  # fmt: skip
        else:
            pace = stats.mean_interval(window.pace, LEVEL, case.seed)
            value, low = batch / pace.value, batch / pace.high
            high = batch / pace.low if pace.low > 0 else math.inf
            yield Row(self.name, "samples_per_s", setting, value, "1/s", low, high, LEVEL, window.runs)
        for metric, column, unit in (
            ("frequency_mhz", "frequency_mhz", "MHz"),
            ("temperature_c", "temperature_c", "°C"),
            ("gpu_frequency_mhz", "gpu_frequency_mhz", "MHz"),
            ("gpu_temperature_c", "gpu_temperature_c", "°C"),
        ):
            level = window.mean(column)
            if not math.isnan(level):
                yield Row(self.name, metric, setting, level, unit, n=_SLICES)

    def _ratio(self, case: Case, windows: Sequence[_Window]) -> Row:
        kept = [window for window in windows if not window.disturbed]
        if len(kept) < 2:
            return self.missing(
                "unavailable",
                f"other processes disturbed {len(windows) - len(kept)} of {len(windows)} windows; run it on a quiet machine",
            )
        first, last = kept[0], kept[-1]
        ratio = stats.ratio_of_means(first.pace, last.pace, LEVEL, case.seed)
        said = [f"{len(kept)} of {len(windows)} windows kept", *causes(first, last)]
        if ratio.high < 1 and len(said) == 1:
            said.append("slower, and neither a quota nor frequency nor temperature of this machine tells why")
        if math.isnan(first.others):
            said.append("psutil is not installed on the target, so that other processes were not watched")
        return row(self.name, self.headline, ratio, "ratio", detail="; ".join(said))


def causes(first: _Window, last: _Window) -> Iterator[str]:
    """What held the machine back in the last window and not in the first, in words."""
    held = last.sum("held_back_s") / last.seconds
    if held > _HELD_BACK and held > 2 * first.sum("held_back_s") / first.seconds:
        yield f"throttled: a processor quota held it back for {held:.0%} of the last window"
    for column, what in (("frequency_mhz", "processor"), ("gpu_frequency_mhz", "GPU")):
        before, after = first.mean(column), last.mean(column)
        if after < _FELL * before:
            yield f"throttled: the {what}'s frequency fell from {before:.0f} to {after:.0f} MHz"
    if last.mean("temperature_c") >= last.mean("temperature_limit_c"):
        yield f"hot: {last.mean('temperature_c'):.0f} °C, from which on this machine calls itself too hot"


@dataclass(frozen=True)
class _Window:
    """Some slices that follow each other.

    Attributes:
        slices: ``[slices, columns]`` of `hwbench.worker.tasks.sustained.COLUMNS`.
        limit: Processor time of others, in cores, that disturbs it.
    """

    slices: Array
    limit: float

    def sum(self, column: str) -> float:
        return float(self.slices[:, _AT[column]].sum())

    def mean(self, column: str) -> float:
        return float(self.slices[:, _AT[column]].mean())

    @property
    def pace(self) -> Array:
        """Seconds per run of each slice."""
        pace: Array = self.slices[:, _AT["run_s"]] / self.slices[:, _AT["runs"]]
        return pace

    @property
    def runs(self) -> int:
        return int(self.sum("runs"))

    @property
    def seconds(self) -> float:
        return self.sum("clock_s")

    @property
    def others(self) -> float:
        """Cores that were busy with something else; NaN if the machine does not say."""
        return (self.sum("machine_cpu_s") - self.sum("own_cpu_s")) / self.seconds

    @property
    def disturbed(self) -> bool:
        return self.others > self.limit
