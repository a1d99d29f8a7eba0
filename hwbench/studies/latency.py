"""Latency: how long one run of batch 1 takes, with order-statistic intervals, and how long loading takes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from pydantic import Field

from hwbench import stats
from hwbench.studies.base import LEVEL, Analysis, Case, Settings, Study
from hwbench.table import Row, condition
from hwbench.worker.protocol import Job, JobResult

_NS_PER_MS = 1e6


class LatencySettings(Settings):
    """What the study can be told."""

    samples: int = Field(2000, ge=20, description="runs measured, at most")
    seconds: float = Field(10.0, gt=0, description="time spent measuring, at most")


class LatencyStudy(Study):
    """Percentiles of the time one run takes once the runtime is warm."""

    name = "latency"
    headline = "p50_ms"
    settings_type = LatencySettings
    timing = True

    def plan(self, case: Case, settings: LatencySettings) -> dict[str, Job]:
        """One job, alone on the machine, under the target's limits."""
        job = case.subject.job(
            "latency",
            case,
            exclusive=True,
            batch=case.model.batch or 1,
            samples=settings.samples,
            seconds=settings.seconds,
        )
        return {"latency": on_target(job, case)}

    def analyse(self, case: Case, settings: LatencySettings, results: Mapping[str, JobResult]) -> Analysis:
        """p50, p90 and p99 in milliseconds; a figure that is not stable says so."""
        result = results["latency"]
        durations = result.array("durations") / _NS_PER_MS
        warnings = stats.stability(window_medians(durations))
        if not result.data["steady"]:
            warnings.insert(0, f"not steady after {result.data['warm_up']} runs of warm-up")
        setting, detail = condition(batch=case.model.batch or 1), "; ".join(warnings)
        rows = []
        for metric, q in (("p50_ms", 0.5), ("p90_ms", 0.9), ("p99_ms", 0.99)):
            figure = stats.quantile(durations, q, LEVEL)
            rows.append(
                Row(
                    self.name,
                    metric,
                    setting,
                    figure.value,
                    "ms",
                    figure.low,
                    figure.high,
                    LEVEL,
                    figure.n,
                    detail=detail,
                )
            )
        rows.append(Row(self.name, "load_ms", value=result.data["load_ns"] / _NS_PER_MS, unit="ms", n=1))
        rows.append(Row(self.name, "first_run_ms", value=result.data["first_run_ns"] / _NS_PER_MS, unit="ms", n=1))
        return Analysis(rows, timings={f"latency[{case.profile.name}]": durations / 1e3})


def window_medians(durations: np.ndarray[Any, Any], windows: int = 20) -> np.ndarray[Any, Any]:
    """The median of each of some equal windows in time: what drifts or jumps shows there, single outliers do not."""
    return np.array([np.median(window) for window in np.array_split(durations, min(windows, len(durations)))])


def on_target(job: Job, case: Case) -> Job:
    """The job under the limits of the profile's target."""
    target = case.profile.target
    return replace(job, limits=target.limits(case.timeout_s))
