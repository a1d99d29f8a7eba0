"""Memory errors: accuracy of a build on simulated chips, against supply voltage or hours of service, and what ECC buys."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from hwbench import stats
from hwbench.faults.error_rates import expected_upsets, relative_energy
from hwbench.pairing import two_way_loss
from hwbench.stats import Estimate
from hwbench.studies.base import GOLDEN, LEVEL, Analysis, Case, Study
from hwbench.studies.bit_flips import DRAWS_SCHEMA
from hwbench.studies.memory_errors_settings import MemoryErrorsSettings, Point, Stack
from hwbench.studies.outputs import per_sample, row
from hwbench.studies.sweep import Sweep, figure, finite_rows, gather, golden_of, loss, own_golden, rate
from hwbench.table import NO_LABELS, Row, condition
from hwbench.worker.protocol import Job, JobResult

_NAME = "memory_errors"
_COUNTS = ("corrected", "detected", "miscorrected", "undetected")


@dataclass(frozen=True)
class _Measured:
    """One point under one stack of protections: what every chip did, and what its memory reported."""

    point: Point
    stack: Stack
    sweep: Sweep
    reports: Sequence[Mapping[str, int]]

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

    def plan(self, case: Case, settings: MemoryErrorsSettings) -> dict[str, Job]:
        """The golden outputs; and a job that runs, chip by chip, every point under every stack of protections."""
        variants: dict[str, dict[str, Any]] = {}
        for chip in range(settings.chips):
            for point in settings.points:
                for stack in settings.stacks:
                    variants[_variant(chip, point, stack)] = {
                        "kind": "memory_errors",
                        "seed": case.seed,
                        "draw": chip,
                        "rate": point.rate,
                        **point.chips,
                        "protections": list(stack),
                        "uncorrectable": settings.uncorrectable,
                    }
        return {"golden": case.evaluation(GOLDEN), "chips": case.evaluation(variants, top=case.classifies)}

    def extend(self, case: Case, settings: MemoryErrorsSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Golden outputs of the session whose numbers change, where they are not the build's."""
        return own_golden(case, results, "chips")

    def analyse(self, case: Case, settings: MemoryErrorsSettings, results: Mapping[str, JobResult]) -> Analysis:
        """Rows per point and stack of protections, and a table with one line a chip, point and stack."""
        result = results["chips"]
        if not result.data.get("restored", True):  # absent where the worker died of the last fault, and memory with it
            return Analysis(
                [self.missing("error", "the golden output was not the same, bit for bit, after the faults were undone")]
            )
        labelled = case.data.labels is not None
        golden = per_sample(case, case.primary, golden_of(results, "chips"), "golden") if labelled else None
        rows: list[Row] = []
        records: list[dict[str, Any]] = []
        overheads: dict[Stack, float] = {}
        for point in settings.points:
            measured = [_measure(case, settings.chips, results, point, stack) for stack in settings.stacks]
            for one in measured:
                rows += [*_outcomes(case, one), *_memory(one)]
                rows += [*_accuracy(case, one, golden), *_bought(case, measured[0], one)] if golden is not None else []
                records += _draws(case, one)
                overheads[one.stack] = max(one.overhead, overheads.get(one.stack, 0.0))
        if not labelled:
            rows.append(self.missing("unavailable", NO_LABELS))
        rows += [
            Row(_NAME, "storage_overhead", condition(**_named(stack)), value, "ratio", detail="check bits per data bit")
            for stack, value in overheads.items()
            if stack
        ]
        schema = {**DRAWS_SCHEMA, "condition": pl.String}
        return Analysis(rows, parts={"memory_errors": pl.DataFrame(records, schema=schema, orient="row")})


def _named(stack: Stack) -> dict[str, str]:
    return {"protection": "+".join(stack)} if stack else {}


def _variant(chip: int, point: Point, stack: Stack) -> str:
    return "-".join([f"chip{chip}", *(f"{key}{value!r}" for key, value in point.setting.items()), *stack])


def _measure(case: Case, chips: int, results: Mapping[str, JobResult], point: Point, stack: Stack) -> _Measured:
    names = [_variant(chip, point, stack) for chip in range(chips)]
    variants = results["chips"].data["variants"]
    reports = [variants[name]["memory"] for name in names if name in variants]
    return _Measured(point, stack, gather(case, results["chips"], names, golden_of(results, "chips")), reports)


def _outcomes(case: Case, one: _Measured) -> Iterator[Row]:
    if one.sweep.changed is not None:
        yield row(_NAME, "sdc_rate", rate(case, one.sweep.changed), "ratio", one.condition)
    yield row(_NAME, "due_rate", rate(case, one.sweep.due), "ratio", one.condition)


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


def _accuracy(case: Case, one: _Measured, golden: np.ndarray) -> Iterator[Row]:
    metric, figures = case.primary, _per_chip(case, one.sweep)
    yield row(_NAME, metric.name, figure(case, one.sweep), metric.unit, one.condition, _said(one))
    worst = min(figures) if metric.higher_is_better else max(figures)
    setting = condition(**one.point.setting, **_named(one.stack), draw="worst")
    yield Row(_NAME, metric.name, setting, worst, metric.unit, n=case.data.n)
    detail = f"mean loss of {metric.name} against the same build without faults"
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
    if one is not bare:
        detail = f"accuracy_drop without protection minus with it, at {100 * one.overhead:.3g} % more storage"
        yield row(
            _NAME, "drop_avoided", _avoided(case, bare.sweep, one.sweep), case.primary.unit, one.condition, detail
        )


def _avoided(case: Case, bare: Sweep, protected: Sweep) -> Estimate:
    if bare.values is None or protected.values is None:
        raise ValueError("accuracy needs labels")
    spread = case.primary.spread(case.data.labels_array())
    return two_way_loss(case.primary, protected.values, bare.values, spread, LEVEL, case.seed).whole


def _per_chip(case: Case, sweep: Sweep) -> list[float]:
    labels = case.data.labels_array()
    return [case.primary.aggregate(values, labels) for values in ([] if sweep.values is None else sweep.values)]


def _draws(case: Case, one: _Measured) -> Iterator[dict[str, Any]]:
    """One line a chip, in the columns of ``draws/<profile>/part-*.parquet``, and the condition they belong to."""
    top1 = _per_chip(case, one.sweep) if case.primary.name == "top1" and one.sweep.values is not None else None
    for chip, n_faults in enumerate(one.sweep.n_faults):
        yield {
            "draw": chip,
            "rate": one.point.rate,
            "chip": chip,
            "seed": case.seed,
            "n_faults": n_faults,
            "n_inputs": case.data.n,
            "n_changed": int(one.sweep.changed[chip].sum()) if one.sweep.changed is not None else None,
            "n_due": int(one.sweep.due[chip].sum()),
            "top1": top1[chip] if top1 is not None else None,
            "condition": one.condition,
        }
