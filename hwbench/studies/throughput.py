"""Throughput: samples per second over batch sizes and threads, over launches, and the best point."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Annotated, Any

from pydantic import Field

from hwbench.bounds import BATCH, POINTS, PROCESSORS
from hwbench.studies.base import Analysis, Case
from hwbench.studies.launch_series import Array, Series, pace, part, ratio_detail, series
from hwbench.studies.launches import LaunchSettings, LaunchStudy, point
from hwbench.studies.outputs import row
from hwbench.table import Row, condition
from hwbench.worker.protocol import JobResult

_RUNS = 1  # of a window, at least: with large batches a run takes seconds


class ThroughputSettings(LaunchSettings):
    """Settings of the study."""

    batches: tuple[Annotated[int, Field(gt=0, le=BATCH)], ...] = Field(
        (1, 8, 32), min_length=1, max_length=POINTS, description="batch sizes; a graph's fixed batch prevails"
    )
    threads: tuple[Annotated[int, Field(gt=0, le=PROCESSORS)], ...] | None = Field(
        None, max_length=POINTS, description="default: 1 and every core; a profile's own setting prevails"
    )


class ThroughputStudy(LaunchStudy):
    """A sweep over batch sizes and numbers of threads."""

    name = "throughput"
    headline = "samples_per_s"
    settings_type = ThroughputSettings

    def points(self, case: Case, settings: ThroughputSettings) -> dict[str, dict[str, Any]]:
        """One point for each batch size and number of threads."""
        option = case.subject.backend_type.threads_option
        return {
            name: point(settings, batch, {option: threads} if option else {}, _RUNS)
            for name, (batch, threads) in _swept(case, settings).items()
        }

    def deciding(self, case: Case, settings: Any, results: Mapping[str, JobResult]) -> Iterator[Array]:
        """The best point's throughput."""
        measured = [own for own in self._all(case, settings, results).values() if own.launches]
        if measured:
            best = max(measured, key=lambda own: own.figure(pace(own.batch)).value)
            if not best.disturbed:
                yield best.values(pace(best.batch))

    def analyse(self, case: Case, settings: ThroughputSettings, results: Mapping[str, JobResult]) -> Analysis:
        """A row for every point and its ratio to the baseline's, and the best point again without a condition."""
        rows, timings = [], {}
        swept, measured = _swept(case, settings), self._all(case, settings, results)
        for name, own in measured.items():
            setting = _setting(*swept[name])
            if own.failure is not None or not own.launches:
                status, reason = own.failure or ("error", "no launch was made")
                rows.append(replace(self.missing(status, reason), condition=condition(**setting)))
                continue
            timings[f"throughput[{case.profile.name}-{name}]"] = own.seconds
            speed = pace(own.batch)
            notes = own.notes(speed, settings.precision)
            rows.append(row(self.name, self.headline, own.figure(speed), "1/s", condition(**setting), notes))
        rows.extend(self._best(case, settings, results, rows))
        points = {name: (own, swept[name][1] or None) for name, own in measured.items()}
        return Analysis(rows, parts={self.name: part(points)}, timings=timings)

    def _all(
        self, case: Case, settings: ThroughputSettings, results: Mapping[str, JobResult], *, baseline: bool = False
    ) -> dict[str, Series]:
        """The points of the build, or of the baseline, over their launches."""
        swept = _swept(case.baseline if baseline and case.baseline else case, settings)
        return {
            name: series(results, name, batch, settings.launches, baseline=baseline)
            for name, (batch, _) in swept.items()
        }

    def _best(
        self, case: Case, settings: ThroughputSettings, results: Mapping[str, JobResult], rows: list[Row]
    ) -> Iterator[Row]:
        """The best point again, and the ratios to the baseline: point by point, and best to best."""
        best = _fastest(self._all(case, settings, results))
        if best is None:
            return
        swept = _swept(case, settings)
        setting = condition(**_setting(*swept[best[0]]))
        point_row = next(one for one in rows if one.condition == setting)
        yield replace(point_row, condition="{}", detail=f"best of {len(swept)} points: {_words(setting)}")
        if case.baseline is None:
            return
        other, to = self._all(case, settings, results, baseline=True), case.baseline.profile.name
        pairs = {
            condition(**_setting(*swept[name]), to=to): (own, other[name])
            for name, own in self._all(case, settings, results).items()
            if name in other and own.failure is None
        }
        fastest = _fastest(other)
        if fastest is not None:
            pairs[condition(to=to)] = (best[1], fastest[1])
        for setting, (own, theirs) in pairs.items():
            speed, base = pace(own.batch), pace(theirs.batch)
            if own.blocks & theirs.blocks:
                ratio = own.ratio(theirs, speed, base)
                yield row(self.name, "samples_per_s_ratio", ratio, "ratio", setting, ratio_detail(own, theirs))


def _fastest(points: Mapping[str, Series]) -> tuple[str, Series] | None:
    measured = {name: own for name, own in points.items() if own.launches and own.failure is None}
    return max(measured.items(), key=lambda item: item[1].figure(pace(item[1].batch)).value, default=None)


def _swept(case: Case, settings: ThroughputSettings) -> dict[str, tuple[int, int]]:
    """Point's name to batch and threads; 0 threads where the runtime chooses."""
    option = case.subject.backend_type.threads_option
    chosen = case.subject.options.get(option, 0) if option else 0
    if option is None or chosen:
        threads: tuple[int, ...] = (chosen,)
    else:
        threads = settings.threads or tuple(sorted({1, os.cpu_count() or 1}))
    batches = (case.model.batch,) if case.model.batch else settings.batches
    return {f"batch{batch}-threads{count}": (batch, count) for batch in batches for count in threads}


def _setting(batch: int, threads: int) -> dict[str, int]:
    return {"batch": batch, **({"threads": threads} if threads else {})}


def _words(setting: str) -> str:
    return ", ".join(f"{name} {value}" for name, value in json.loads(setting).items())
