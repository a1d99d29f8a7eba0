"""Scaling: what a build keeps of its speed with fewer threads and less processor time, and that its answers stay the same."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Annotated, Any

import numpy as np
from pydantic import Field

from hwbench import stats
from hwbench.studies.base import GOLDEN, LEVEL, Analysis, Case, Settings, Study
from hwbench.studies.latency import on_target
from hwbench.studies.outputs import chunks, estimate, per_sample, row
from hwbench.table import Row, condition
from hwbench.worker.protocol import Job, JobResult

Array = np.ndarray[Any, Any]

_NS_PER_MS = 1e6
_POINT = "point"
_WINDOWS = 20


class ScalingSettings(Settings):
    """What the study can be told."""

    threads: tuple[Annotated[int, Field(gt=0)], ...] | None = Field(
        None, description="numbers of threads; default: powers of two up to every core"
    )
    quotas: tuple[Annotated[float, Field(gt=0)], ...] = Field(
        (0.5, 1.0),
        description="processor time in cores that the process tree is held to; those above the cores are left out",
    )
    seconds: float = Field(1.0, gt=0, description="time spent measuring each point")


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

    Every point measures batch 1 (or the graph's own): percentiles of one run and samples per second; and runs all inputs, whose
    answers are held against those of the first point. More threads may change the last bits of floating-point sums, and must
    change no more than that.
    """

    name = "scaling"
    headline = "samples_per_s"
    settings_type = ScalingSettings
    default = False
    timing = True

    def plan(self, case: Case, settings: ScalingSettings) -> dict[str, Job]:
        """Two jobs a point, one timed and alone on the machine, one for the answers."""
        jobs = {}
        for name, point in _points(case, settings).items():
            limited = _limited(case, point)
            variant = {_POINT: {"batch": case.model.batch or 1, "options": dict(point.options)}}
            timed = case.subject.job("throughput", case, exclusive=True, seconds=settings.seconds, variants=variant)
            jobs[f"time-{name}"] = replace(limited(timed), variants=(_POINT,))
            outputs = limited(case.evaluation(GOLDEN))
            jobs[f"outputs-{name}"] = replace(outputs, options={**outputs.options, **point.options})
        return jobs

    def measure(self, case: Case, settings: ScalingSettings, results: Mapping[str, JobResult]) -> Analysis:
        """`analyse`: a point that the machine cannot carry costs itself alone, and its row says why."""
        return self.analyse(case, settings, results)

    def analyse(self, case: Case, settings: ScalingSettings, results: Mapping[str, JobResult]) -> Analysis:
        """Speed and answers at every point; what each further thread adds."""
        rows: list[Row] = []
        timings = {}
        base: Array | None = None
        points = _points(case, settings)
        first = next(iter(points))
        for name, point in points.items():
            timed = results[f"time-{name}"]
            status, reason = timed.failed.get(_POINT, (timed.status, timed.detail))
            if status != "ok":
                rows.append(replace(self.missing(status, reason), condition=point.condition))
                continue
            durations = timed.array(_POINT) / _NS_PER_MS
            timings[f"scaling[{case.profile.name}-{name}]"] = durations / 1e3
            rows.extend(self._speed(case, point, durations, timed.usage))
            threads = point.setting.get("threads")
            if threads is not None and base is not None:
                more = threads / points[first].setting["threads"]
                rows.append(self._efficiency(case, point, base, durations, more))
            base = durations if base is None else base
            rows.extend(self._answers(case, point, results[f"outputs-{name}"], results[f"outputs-{first}"]))
        return Analysis(rows, timings=timings)

    def _speed(self, case: Case, point: _Point, durations: Array, usage: Mapping[str, Any]) -> Iterator[Row]:
        enforced = f"enforced by {usage['mechanism']}" if "mechanism" in usage else ""
        for metric, q in (("p50_ms", 0.5), ("p99_ms", 0.99)):
            yield row(self.name, metric, stats.quantile(durations, q, LEVEL), "ms", point.condition, enforced)
        batch, windows = case.model.batch or 1, _windows(durations)
        speed = stats.mean_interval(windows, LEVEL, case.seed)
        low = batch * 1e3 / speed.high
        high = batch * 1e3 / speed.low if speed.low > 0 else float("inf")
        value = batch * 1e3 / float(durations.mean())
        detail = "; ".join([*([enforced] if enforced else []), *stats.stability(windows, minimum=5)])
        yield Row(
            self.name, self.headline, point.condition, value, "1/s", min(low, value), max(high, value), LEVEL,
            len(durations), detail=detail,
        )  # fmt: skip

    def _efficiency(self, case: Case, point: _Point, base: Array, durations: Array, more: float) -> Row:
        """Speed-up over the first point as a share of the threads added: 1 is perfect scaling."""
        ratio = stats.ratio_of_means(_windows(base), _windows(durations), LEVEL, case.seed)
        share = replace(ratio, value=ratio.value / more, low=ratio.low / more, high=ratio.high / more)
        return row(
            self.name,
            "scaling_efficiency",
            share,
            "ratio",
            point.condition,
            f"{ratio.value:.2f} times as fast as the first",
        )

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


def _windows(durations: Array) -> Array:
    """Mean duration of some equal windows in time: runs that follow each other are not independent, windows nearly are."""
    return np.array([window.mean() for window in np.array_split(durations, min(_WINDOWS, len(durations)))])


def _apart(case: Case, first: JobResult, result: JobResult) -> tuple[float, bool]:
    """The largest difference of two evaluations' outputs, and whether they are the same bit for bit."""
    apart, same = 0.0, True
    pairs = zip(chunks(first, "golden", case.data.n), chunks(result, "golden", case.data.n), strict=True)
    for (_, a), (_, b) in pairs:
        same = same and a.tobytes() == b.tobytes()
        apart = max(apart, float(np.max(np.abs(a.astype(np.float64) - b), initial=0.0)))
    return apart, same
