"""Throughput: samples per second over batch sizes and threads, and the best point."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from hwbench import stats
from hwbench.studies.base import LEVEL, Analysis, Case, Settings, Study
from hwbench.studies.latency import on_target, window_medians
from hwbench.table import Row, condition
from hwbench.worker.protocol import Job, JobResult


class ThroughputSettings(Settings):
    """What the study can be told."""

    batches: tuple[Annotated[int, Field(gt=0)], ...] = Field(
        (1, 8, 32), min_length=1, description="batch sizes; a graph's fixed batch prevails"
    )
    threads: tuple[Annotated[int, Field(gt=0)], ...] | None = Field(
        None, description="default: 1 and every core; a profile's own setting prevails"
    )
    seconds: float = Field(0.5, gt=0, description="time spent measuring each point")


class ThroughputStudy(Study):
    """A sweep over batch sizes and numbers of threads."""

    name = "throughput"
    headline = "samples_per_s"
    settings_type = ThroughputSettings
    timing = True

    def plan(self, case: Case, settings: ThroughputSettings) -> dict[str, Job]:
        """One job with a variant for every point, alone on the machine, under the target's limits."""
        points = self._points(case, settings)
        job = case.subject.job("throughput", case, exclusive=True, seconds=settings.seconds, variants=points)
        return {"throughput": replace(on_target(job, case), variants=tuple(points))}

    def analyse(self, case: Case, settings: ThroughputSettings, results: Mapping[str, JobResult]) -> Analysis:
        """A row for every point, and the best one again without a condition."""
        result, points = results["throughput"], self._points(case, settings)
        rows, timings = [], {}
        for name, point in points.items():
            setting = condition(batch=point["batch"], **({"threads": point["threads"]} if point["threads"] else {}))
            if name in result.failed:
                status, reason = result.failed[name]
                rows.append(replace(self.missing(status, reason), condition=setting))
                continue
            seconds = result.array(name) / 1e9
            timings[f"throughput[{case.profile.name}-{name}]"] = seconds
            mean = stats.mean_interval(seconds, LEVEL, case.seed)
            warnings = stats.stability(window_medians(seconds), minimum=5)
            if not result.data["variants"][name]["steady"]:
                warnings.insert(0, "not steady after the warm-up")
            figures = (
                point["batch"] / mean.value,
                point["batch"] / mean.high,
                point["batch"] / mean.low if mean.low > 0 else float("inf"),
            )
            value, low, high = figures
            rows.append(
                Row(
                    self.name,
                    self.headline,
                    setting,
                    value,
                    "1/s",
                    low,
                    high,
                    LEVEL,
                    mean.n,
                    detail="; ".join(warnings),
                )
            )
        best = max((row for row in rows if row.value is not None), key=lambda row: row.value or 0.0, default=None)
        if best is not None:
            rows.append(replace(best, condition="{}", detail=f"best of {len(points)} points: {_words(best.condition)}"))
        return Analysis(rows, timings=timings)

    def _points(self, case: Case, settings: ThroughputSettings) -> dict[str, dict[str, Any]]:
        option = case.subject.backend_type.threads_option
        chosen = case.subject.options.get(option, 0) if option else 0
        if option is None or chosen:
            threads: tuple[int, ...] = (chosen,)
        else:
            threads = settings.threads or tuple(sorted({1, os.cpu_count() or 1}))
        batches = (case.model.batch,) if case.model.batch else settings.batches
        return {
            f"batch{batch}-threads{count}": {
                "batch": batch,
                "threads": count,
                "options": {option: count} if option else {},
            }
            for batch in batches
            for count in threads
        }


def _words(setting: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in json.loads(setting).items())
