"""Scaling: what a build keeps of its speed with fewer threads and less processor time, and that its answers stay the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from hwbench.bounds import LEAST_QUOTA, POINTS, PROCESSORS
from hwbench.studies.base import GOLDEN, Analysis, Case, Study
from hwbench.studies.launch_series import OWN, Series, pace, part, percentile, ratio_detail, series
from hwbench.studies.launches import LaunchSettings, launch, on_target, point
from hwbench.studies.outputs import chunks, estimate, per_sample, row
from hwbench.table import Row, condition
from hwbench.worker.protocol import Job, JobResult

Array = np.ndarray[Any, Any]

_POINT = "point"
_RUNS = 1  # of a window, at least


class ScalingSettings(LaunchSettings):
    """Settings of the study."""

    threads: tuple[Annotated[int, Field(gt=0, le=PROCESSORS)], ...] | None = Field(
        None, max_length=POINTS, description="numbers of threads; default: powers of two up to every core"
    )
    quotas: tuple[Annotated[float, Field(ge=LEAST_QUOTA, le=PROCESSORS)], ...] = Field(
        (0.5, 1.0),
        max_length=POINTS,
        description="processor time in cores that the process tree is held to; those above the cores are left out",
    )


@dataclass(frozen=True)
class _Point:
    """One setting of the sweep: the options and limits it changes."""

    setting: Mapping[str, float]
    options: Mapping[str, Any]
    quota: float | None = None

    @property
    def condition(self) -> str:
        return condition(**self.setting)


class ScalingStudy(Study):
    """A sweep over numbers of threads, and over processor quotas enforced on the whole process tree.

    Every point is launched in fresh processes, block by block, at batch 1 (or the graph's own): percentiles of one run and
    samples per second; and runs all inputs, whose answers are compared with those of the first point. More threads may change
    the last bits of floating-point sums, and must change no more than that.
    """

    name = "scaling"
    headline = "samples_per_s"
    settings_type = ScalingSettings
    default = False
    timing = True

    def plan(self, case: Case, settings: ScalingSettings) -> dict[str, Job]:
        """For each point its launches, alone on the machine, and a job for the answers."""
        jobs = {}
        for name, at in _points(case, settings).items():
            timed = replace(case, points={_POINT: point(settings, case.model.batch or 1, at.options, _RUNS)})
            for block in range(settings.launches):
                job = launch(timed, block)
                params = {**job.params, "quota": job.params["quota"] or at.quota is not None}
                jobs[f"{name}-{OWN}-{block}"] = _limited(case, at)(replace(job, params=params))
            outputs = _limited(case, at)(case.evaluation(GOLDEN))
            jobs[f"{name}-outputs"] = replace(outputs, options={**outputs.options, **at.options})
        return jobs

    def measure(self, case: Case, settings: ScalingSettings, results: Mapping[str, JobResult]) -> Analysis:
        """`analyse`: a point that the machine cannot carry costs itself alone, and its row says why."""
        return self.analyse(case, settings, results)

    def analyse(self, case: Case, settings: ScalingSettings, results: Mapping[str, JobResult]) -> Analysis:
        """Speed and answers at every point; what each further thread adds."""
        rows: list[Row] = []
        timings, measured = {}, {}
        base: tuple[Series, float] | None = None
        points = _points(case, settings)
        first = next(iter(points))
        for name, at in points.items():
            of_point = _series(case, settings, results, name)
            if of_point.failure is not None:
                status, reason = of_point.failure
                rows.append(replace(self.missing(status, reason), condition=at.condition))
                continue
            measured[name] = (of_point, None)
            timings[f"scaling[{case.profile.name}-{name}]"] = of_point.seconds
            rows.extend(self._speed(settings, at, of_point, results[f"{name}-{OWN}-0"].usage))
            threads = at.setting.get("threads")
            if threads is not None and base is not None:
                rows.append(self._efficiency(at, of_point, base[0], threads / base[1]))
            if threads is not None and base is None:
                base = of_point, threads
            rows.extend(self._answers(case, at, results[f"{name}-outputs"], results[f"{first}-outputs"]))
        return Analysis(rows, parts={self.name: part(measured)}, timings=timings)

    def _speed(
        self, settings: ScalingSettings, at: _Point, of_point: Series, usage: Mapping[str, Any]
    ) -> Iterator[Row]:
        enforced = [f"enforced by {usage['mechanism']}"] if "mechanism" in usage else []
        speeds = (("p50_ms", "ms", percentile(0.5)), ("p99_ms", "ms", percentile(0.99)))
        for metric, unit, statistic in (*speeds, (self.headline, "1/s", pace(of_point.batch))):
            notes = "; ".join([*enforced, of_point.notes(statistic, settings.precision)])
            yield row(self.name, metric, of_point.figure(statistic), unit, at.condition, notes)

    def _efficiency(self, at: _Point, of_point: Series, base: Series, more: float) -> Row:
        """Speed-up over the first point as a share of the threads added: 1 is perfect scaling."""
        ratio = of_point.ratio(base, pace(of_point.batch))
        share = replace(ratio, value=ratio.value / more, low=ratio.low / more, high=ratio.high / more)
        detail = f"{ratio.value:.2f} times as fast as the first; {ratio_detail(of_point, base)}"
        return row(self.name, "scaling_efficiency", share, "ratio", at.condition, detail)

    def _answers(self, case: Case, point: _Point, result: JobResult, first: JobResult) -> Iterator[Row]:
        for one in (first, result):
            status, reason = one.failed.get("golden", (one.status, one.detail))
            if status != "ok":
                yield Row(self.name, case.primary.name, point.condition, status=status, detail=reason)
                return
        apart, same = _apart(case, first, result)
        said = (
            "the answers of the first point, bit for bit"
            if same
            else f"at most {apart:.3g} from the first point's answers"
        )
        yield Row(self.name, "max_abs_error", point.condition, apart, "", n=case.data.n, detail=said)
        if case.data.labels is not None:
            values = per_sample(case, case.primary, result, "golden")
            figure = estimate(case, case.primary, values)
            yield row(self.name, case.primary.name, figure, case.primary.unit, point.condition, said)


def _points(case: Case, settings: ScalingSettings) -> dict[str, _Point]:
    """The sweep, by a name for each point: threads first, fewest first, then quotas, smallest first."""
    points, cores = {}, os.cpu_count() or 1
    option = case.subject.backend_type.threads_option
    if option is not None:
        for count in sorted(set(settings.threads or [*_powers_of_two(cores), cores])):
            points[f"threads-{count}"] = _Point({"threads": count}, {option: count}, case.profile.target.cpu_quota)
    quotas = sorted(quota for quota in set(settings.quotas) if quota <= cores)
    return points | {f"quota-{quota:g}": _Point({"cpu_quota": quota}, {}, quota) for quota in quotas}


def _powers_of_two(limit: int) -> list[int]:
    return [1 << power for power in range(limit.bit_length())]


def _limited(case: Case, point: _Point) -> Callable[[Job], Job]:
    """Puts a job under the target's limits, with the point's processor quota."""

    def limited(job: Job) -> Job:
        job = on_target(job, case)
        return replace(job, limits=replace(job.limits, cpu_quota=point.quota))

    return limited


def _series(case: Case, settings: ScalingSettings, results: Mapping[str, JobResult], name: str) -> Series:
    own = {f"{OWN}-{block}": results[f"{name}-{OWN}-{block}"] for block in range(settings.launches)}
    return series(own, _POINT, case.model.batch or 1, settings.launches)


def _apart(case: Case, first: JobResult, result: JobResult) -> tuple[float, bool]:
    """The largest difference of two evaluations' outputs, and whether they are the same bit for bit."""
    apart, same = 0.0, True
    pairs = zip(chunks(first, "golden", case.data.n), chunks(result, "golden", case.data.n), strict=True)
    for (_, a), (_, b) in pairs:
        same = same and a.tobytes() == b.tobytes()
        apart = max(apart, float(np.max(np.abs(a.astype(np.float64) - b), initial=0.0)))
    return apart, same
