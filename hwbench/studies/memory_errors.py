"""Memory errors: accuracy of a build on simulated chips, against supply voltage or hours of service, and what ECC buys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import polars as pl

from hwbench import stats
from hwbench.faults.error_rates import expected_upsets, relative_energy
from hwbench.pairing import two_way_loss
from hwbench.stats import Estimate
from hwbench.studies.base import GOLDEN, LEVEL, Analysis, Case, Interim, Study
from hwbench.studies.bit_flips import DRAWS_SCHEMA, draw_records
from hwbench.studies.deployed import coverage_rows, numbers_obstacle
from hwbench.studies.draws import NO_DRAWS, Level, Sampling, design_of
from hwbench.studies.memory_errors_settings import USUAL_CHIPS, MemoryErrorsSettings, Point, Stack
from hwbench.studies.outputs import row
from hwbench.studies.sweep import Golden, Sweep, bounds, figure, finite_rows, loss, per_draw, rate, sampled
from hwbench.table import NO_LABELS, Row, condition
from hwbench.worker.protocol import Job, JobResult, JobStatus

_NAME = "memory_errors"
_COUNTS = ("corrected", "detected", "miscorrected", "undetected")


@dataclass(frozen=True)
class _Measured:
    """One point under one stack of protections: what every chip did, and what its memory reported."""

    point: Point
    stack: Stack
    sweep: Sweep

    @property
    def reports(self) -> Sequence[Mapping[str, int]]:
        return self.sweep.reports

    @property
    def condition(self) -> str:
        return condition(**self.point.setting, **_named(self.stack))

    @property
    def overhead(self) -> float:
        """Check bits per bit of data; 0 where no chip's worker lived to report."""
        return next((one["stored_bits"] / one["data_bits"] - 1 for one in self.reports), 0.0)


class MemoryErrorsStudy(Study):
    """The build's stored numbers on simulated chips whose cells fail, with and without protection.

    At reduced supply voltage cells fail at the rate a table gives, the same cells and more at every lower voltage. Soft
    errors come at a failure-in-time rate and gather over hours. Protected and unprotected builds meet the same failing
    cells; check bits fail as well, and decoders do what they really would. Words in which an error is detected that cannot
    be corrected are read as zero by default: that is what an accelerator can do and go on, and with one such word in a
    whole model being likely, halting says little but that the memory fails.
    """

    name = _NAME
    headline = "accuracy_drop"
    settings_type = MemoryErrorsSettings
    default = False

    def obstacle(self, case: Case, settings: MemoryErrorsSettings) -> str:
        """Reason why no cell can fail; empty if one can."""
        return numbers_obstacle(case)

    def plan(self, case: Case, settings: MemoryErrorsSettings) -> dict[str, Job]:
        """The golden outputs, and the first chips: chip by chip every point under every stack of protections."""
        return {"golden": case.evaluation(GOLDEN), **_sampling(case, settings).wanted({})}

    def extend(self, case: Case, settings: MemoryErrorsSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """More chips at the points whose intervals are not narrow enough."""
        return _sampling(case, settings).wanted(results) if all(result.ok for result in results.values()) else {}

    def conclude(self, case: Case, settings: MemoryErrorsSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Golden outputs of the sweep's own session, where they are not the build's."""
        return _sampling(case, settings).concluding(results)

    def enough(self, case: Case, settings: MemoryErrorsSettings, results: Mapping[str, JobResult]) -> bool:
        """Draws at every setting."""
        return _sampling(case, settings).enough(results)

    def progress(self, case: Case, settings: MemoryErrorsSettings, results: Mapping[str, JobResult]) -> Interim:
        """Draws done and planned."""
        return _sampling(case, settings).interim(results)

    def analyse(self, case: Case, settings: MemoryErrorsSettings, results: Mapping[str, JobResult]) -> Analysis:
        """Rows per point and stack of protections, and a table with one line a chip, point and stack."""
        sampling = _sampling(case, settings)
        if not sampling.restored(results):
            return Analysis(
                [self.missing("error", "the golden output was not the same, bit for bit, after the faults were undone")]
            )
        golden = sampling.golden(results)
        sweeps = sampling.sweeps(results, golden)
        failures = sampling.failures(results)
        if not sweeps and not failures:
            return Analysis([self.missing("skipped", NO_DRAWS)])
        labelled = case.data.labels is not None
        rows: list[Row] = []
        records: list[dict[str, Any]] = []
        overheads: dict[Stack, float] = {}
        for point in settings.points:
            rows += _failed(point, settings, failures)
            measured = [
                _Measured(point, stack, sweeps[_name(point, stack)])
                for stack in settings.stacks
                if _name(point, stack) not in failures
            ]
            for one in measured:
                rows += [*_outcomes(case, one), *_memory(one)]
                rows += (
                    [*_accuracy(case, one, golden, sampling.detail(one.sweep)), *_bought(case, measured[0], one)]
                    if labelled
                    else []
                )
                records += _draws(case, one)
                overheads[one.stack] = max(one.overhead, overheads.get(one.stack, 0.0))
        if not labelled:
            rows.append(self.missing("unavailable", NO_LABELS))
        rows += [
            Row(_NAME, "storage_overhead", condition(**_named(stack)), value, "ratio", detail="check bits per data bit")
            for stack, value in overheads.items()
            if stack
        ]
        rows += coverage_rows(_NAME, case)
        schema = {**DRAWS_SCHEMA, "condition": pl.String}
        return Analysis(rows, parts={"memory_errors": pl.DataFrame(records, schema=schema, orient="row")})


def _named(stack: Stack) -> dict[str, str]:
    return {"protection": "+".join(stack)} if stack else {}


def _name(point: Point, stack: Stack) -> str:
    return "-".join([*(f"{key}{value!r}" for key, value in point.setting.items()), *stack])


def _sampling(case: Case, settings: MemoryErrorsSettings) -> Sampling:
    levels = [
        Level(
            _name(point, stack),
            {
                "kind": "memory_errors",
                "rate": point.rate,
                **point.chips,
                "protections": list(stack),
                "uncorrectable": settings.uncorrectable,
            },
            group=_name(point, ()),
            certain=point.rate == 0,
        )
        for point in settings.points
        for stack in settings.stacks
    ]
    design = design_of(
        case,
        usual=USUAL_CHIPS,
        effort=USUAL_CHIPS,
        limit=None,
        half_width=settings.half_width,
        draws=settings.chips,
        per_draw=settings.inputs_per_chip,
    )
    return Sampling(case, "chips", levels, design)


def _failed(
    point: Point, settings: MemoryErrorsSettings, failures: Mapping[str, tuple[JobStatus, str]]
) -> Iterator[Row]:
    """Rows of what has no figures, because of dead workers."""
    for stack in settings.stacks:
        if (name := _name(point, stack)) in failures:
            status, detail = failures[name]
            yield Row(_NAME, "accuracy_drop", condition(**point.setting, **_named(stack)), status=status, detail=detail)


def _outcomes(case: Case, one: _Measured) -> Iterator[Row]:
    if one.sweep.changed is not None:
        yield row(_NAME, "sdc_rate", rate(case, one.sweep, one.sweep.changed), "ratio", one.condition)
    yield row(_NAME, "due_rate", rate(case, one.sweep, one.sweep.due), "ratio", one.condition)


def _memory(one: _Measured) -> Iterator[Row]:
    """What the memory costs, and what its decoders did."""
    if "voltage" in one.point.setting:
        energy = relative_energy(one.point.setting["voltage"]) * (1 + one.overhead)
        detail = "of a memory access, relative to Vmin: V²" + (" × stored bits per data bit" if one.stack else "")
        yield Row(_NAME, "energy", one.condition, energy, "ratio", detail=detail)
    if one.stack and one.reports:
        for count in _COUNTS:
            mean = stats.mean_interval([report[count] for report in one.reports], LEVEL)
            yield row(_NAME, count, mean, "words", one.condition, "mean over chips")


def _accuracy(case: Case, one: _Measured, golden: Golden, drawn: str) -> Iterator[Row]:
    metric, figures = case.primary, per_draw(case, one.sweep)
    yield row(_NAME, metric.name, figure(case, one.sweep, golden), metric.unit, one.condition, _said(one))
    worst = min(figures) if metric.higher_is_better else max(figures)
    setting = condition(**one.point.setting, **_named(one.stack), draw="worst")
    yield Row(_NAME, metric.name, setting, worst, metric.unit, n=max(one.sweep.sizes))
    detail = f"mean loss of {metric.name} against the same build without faults; {drawn}"
    yield row(_NAME, "accuracy_drop", loss(case, one.sweep, golden), metric.unit, one.condition, detail)
    yield from finite_rows(_NAME, case, one.sweep, golden, one.condition)


def _said(one: _Measured) -> str:
    if not one.reports:
        return ""
    errors = np.mean([report["errors"] for report in one.reports])
    text = f"bit error rate {one.point.rate:.3g}: {errors:.4g} wrong cells a chip"
    setting = one.point.setting
    if "fit" in setting:
        upsets = expected_upsets(setting["fit"], setting["hours"], one.reports[0]["stored_bits"])
        text += f", {upsets:.4g} upsets expected"
    return text


def _bought(case: Case, bare: _Measured, one: _Measured) -> Iterator[Row]:
    """The accuracy drop without protection minus that with it, on the same chips and inputs."""
    if one.stack and not bare.stack:
        detail = f"accuracy_drop without protection minus with it, at {100 * one.overhead:.3g} % more storage"
        yield row(
            _NAME, "drop_avoided", _avoided(case, bare.sweep, one.sweep), case.primary.unit, one.condition, detail
        )


def _avoided(case: Case, bare: Sweep, protected: Sweep) -> Estimate:
    metric = case.primary
    if bare.values is None or protected.values is None:
        raise ValueError("accuracy needs labels")
    limits = bounds(metric)
    if limits is not None:
        # A run that ends in the middle of a chip leaves it without its last protections.
        pairs = min(len(bare.values), len(protected.values))
        gained = protected.values[:pairs] - bare.values[:pairs]
        both = replace(bare, draws=bare.draws[:pairs], inputs=bare.inputs[:pairs])
        width = limits[1] - limits[0]
        return sampled(case, both, gained if metric.higher_is_better else -gained, (-width, width)).estimate
    spread = metric.spread(case.data.labels_array())
    chips = min(len(bare.numbers), len(protected.numbers))
    with_it = protected.values.reshape(-1, case.data.n)[:chips]
    without = bare.values.reshape(-1, case.data.n)[:chips]
    return two_way_loss(metric, with_it, without, spread, LEVEL, case.seed).whole


def _draws(case: Case, one: _Measured) -> Iterator[dict[str, Any]]:
    """One line a chip, in the columns of ``draws/<profile>/part-*.parquet``, and the condition they belong to."""
    for record in draw_records(case, one.sweep):
        yield {**record, "rate": one.point.rate, "condition": one.condition}
