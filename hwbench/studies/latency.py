"""Latency: the time that one run of batch 1 takes, over launches, and its ratio to a baseline profile."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hwbench import stats
from hwbench.studies.base import LEVEL, Analysis, Case
from hwbench.studies.launch_series import NS_PER_MS, Array, Series, part, percentile, ratio_detail, series
from hwbench.studies.launches import LaunchSettings, LaunchStudy, point
from hwbench.studies.outputs import row
from hwbench.table import Row, condition
from hwbench.worker.protocol import JobResult

POINT = "latency"
_PERCENTILES = {"p50": percentile(0.5), "p90": percentile(0.9), "p99": percentile(0.99)}
_RUNS = 5  # of a window, at least


class LatencyStudy(LaunchStudy):
    """Percentiles of the time one run takes once the runtime is warm.

    A percentile's figure is the geometric mean over launches of each launch's percentile, its interval comes from the spread
    between launches, and its ratio to the baseline profile is paired by block.
    """

    name = "latency"
    headline = "p50_ms"
    settings_type = LaunchSettings

    def points(self, case: Case, settings: LaunchSettings) -> dict[str, dict[str, Any]]:
        """Batch 1, or the graph's own."""
        return {POINT: point(settings, case.model.batch or 1, {}, _RUNS)}

    def deciding(self, case: Case, settings: LaunchSettings, results: Mapping[str, JobResult]) -> Iterator[Array]:
        """The median, and its ratio to the baseline."""
        own, baseline = (self._series(case, settings, results, baseline=side) for side in (False, True))
        median = _PERCENTILES["p50"]
        if own.disturbed or baseline.disturbed:
            return
        if own.launches:
            yield own.values(median)
        if own.blocks & baseline.blocks:
            mine, theirs = own.paired(baseline, median)
            yield mine / theirs

    def analyse(self, case: Case, settings: LaunchSettings, results: Mapping[str, JobResult]) -> Analysis:
        """p50, p90 and p99 in milliseconds, their ratios to the baseline, and the time that loading takes."""
        own = self._series(case, settings, results)
        if own.failure is not None or not own.launches:
            status, reason = own.failure or ("error", "no launch was made")
            return Analysis([self.missing(status, reason)])
        setting = condition(batch=own.batch)
        rows = [
            row(self.name, f"{name}_ms", own.figure(q), "ms", setting, own.notes(q, settings.precision))
            for name, q in _PERCENTILES.items()
        ]
        rows.extend(self._ratios(case, settings, results, own))
        for metric in ("load", "first_run"):
            figures = [one.record[f"{metric}_ns"] / NS_PER_MS for one in own.launches]
            rows.append(row(self.name, f"{metric}_ms", stats.over_launches(figures, own.pilot, LEVEL), "ms"))
        timings = {f"latency[{case.profile.name}]": own.seconds}
        return Analysis(rows, parts={self.name: part({POINT: (own, None)})}, timings=timings)

    def _series(
        self, case: Case, settings: LaunchSettings, results: Mapping[str, JobResult], *, baseline: bool = False
    ) -> Series:
        return series(results, POINT, case.model.batch or 1, settings.launches, baseline=baseline)

    def _ratios(
        self, case: Case, settings: LaunchSettings, results: Mapping[str, JobResult], own: Series
    ) -> Iterator[Row]:
        if case.baseline is None:
            return
        other = self._series(case, settings, results, baseline=True)
        setting = condition(batch=own.batch, to=case.baseline.profile.name)
        for name in ("p50", "p99"):
            q, metric = _PERCENTILES[name], f"{name}_ratio"
            if not own.blocks & other.blocks:
                status, reason = other.failure or ("error", "no launch in the same block")
                yield Row(self.name, metric, setting, status="unavailable", detail=f"{status}: {reason}")
                continue
            yield row(self.name, metric, own.ratio(other, q), "ratio", setting, ratio_detail(own, other))
