"""Bit flips: accuracy of a build whose stored bits each fail with a probability p, and the p it can stand."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

import numpy as np
import polars as pl
from pydantic import Field

from hwbench.studies.base import GOLDEN, Analysis, Case, Settings, Study
from hwbench.studies.outputs import per_sample, row
from hwbench.studies.sweep import Sweep, figure, finite_rows, gather, golden_of, loss, own_golden, rate
from hwbench.table import NO_LABELS, Row, condition
from hwbench.worker.protocol import Job, JobResult


class BitFlipsSettings(Settings):
    """What the study can be told."""

    rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2), min_length=1, description="bit error rates"
    )
    draws: int = Field(20, ge=2, description="independent draws of the bits that fail; under 20 the interval is wide")
    max_drop: float = Field(0.01, ge=0, description="mean loss a tolerated rate may cost, in the primary metric's unit")


class BitFlipsStudy(Study):
    """Every stored bit of the deployed build flips independently with probability p.

    Each bit has one uniform number a draw and flips where that is below p: a bit that fails at one rate fails at every higher
    one, and builds that store the same tensor share its faults. A draw stands for one chip.
    """

    name = "bit_flips"
    headline = "tolerated_ber"
    settings_type = BitFlipsSettings

    def plan(self, case: Case, settings: BitFlipsSettings) -> dict[str, Job]:
        """The golden outputs; and a job that runs, draw by draw, every rate, lowest first."""
        variants: dict[str, dict[str, Any]] = {}
        for draw in range(settings.draws):
            for ber in sorted(settings.rates):
                variants[_variant(ber, draw)] = {"kind": "bit_errors", "seed": case.seed, "draw": draw, "rate": ber}
        return {"golden": case.evaluation(GOLDEN), "flips": case.evaluation(variants, top=case.classifies)}

    def extend(self, case: Case, settings: BitFlipsSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Golden outputs of the sweep's own session, where they are not the build's."""
        return own_golden(case, results, "flips")

    def analyse(self, case: Case, settings: BitFlipsSettings, results: Mapping[str, JobResult]) -> Analysis:
        """Rows per rate, the tolerated rate, and a table with one line a draw and rate."""
        result, whole = results["flips"], golden_of(results, "flips")
        if not result.data.get("restored", True):  # absent where the worker died of the last fault, and memory with it
            return Analysis(
                [self.missing("error", "the golden output was not the same, bit for bit, after the faults were undone")]
            )
        sweeps = {
            ber: gather(case, result, [_variant(ber, draw) for draw in range(settings.draws)], whole)
            for ber in sorted(settings.rates)
        }
        rows: list[Row] = []
        for ber, sweep in sweeps.items():
            rows.extend(_rates(case, sweep, condition(ber=ber)))
        if case.data.labels is None:
            rows.append(self.missing("unavailable", NO_LABELS))
        else:
            golden = per_sample(case, case.primary, whole, "golden")
            rows.extend(self._accuracy(case, settings, sweeps, golden))
        return Analysis(rows, parts={"draws": _draws(case, sweeps)})

    def _accuracy(
        self, case: Case, settings: BitFlipsSettings, sweeps: Mapping[float, Sweep], golden: np.ndarray
    ) -> Iterator[Row]:
        metric, tolerated, broken = case.primary, 0.0, False
        for ber, sweep in sweeps.items():
            known = [count for count in sweep.n_faults if count is not None]
            setting, faults = condition(ber=ber), f"{np.mean(known):.4g} faults a draw" if known else ""
            yield row(self.name, metric.name, figure(case, sweep), metric.unit, setting, faults)
            yield _worst(case, sweep, ber)
            lost = loss(case, sweep, golden)
            yield row(
                self.name,
                "accuracy_drop",
                lost,
                metric.unit,
                setting,
                f"mean loss of {metric.name} against the same build without faults",
            )
            yield from finite_rows(self.name, case, sweep, golden, setting)
            broken = broken or not lost.high <= settings.max_drop
            tolerated = tolerated if broken else ber
        lowest, highest = min(sweeps), max(sweeps)
        said = f"mean loss of {metric.name} within {settings.max_drop:g} by the interval's upper bound"
        if tolerated == 0.0:
            said = f"below the grid (< {lowest:g}): {said}"
        elif tolerated == highest:
            said = f"above the grid (>= {highest:g}): {said}"
        yield Row(self.name, "tolerated_ber", value=tolerated, unit="ratio", n=settings.draws, detail=said)


def _variant(ber: float, draw: int) -> str:
    return f"draw{draw}-ber{ber!r}"


def _rates(case: Case, sweep: Sweep, setting: str) -> Iterator[Row]:
    if sweep.changed is not None:
        yield row("bit_flips", "sdc_rate", rate(case, sweep.changed), "ratio", setting)
    yield row("bit_flips", "due_rate", rate(case, sweep.due), "ratio", setting)


def _per_draw(case: Case, sweep: Sweep) -> list[float]:
    if sweep.values is None:
        return []
    labels = case.data.labels_array()
    return [case.primary.aggregate(values, labels) for values in sweep.values]


def _worst(case: Case, sweep: Sweep, ber: float) -> Row:
    figures = _per_draw(case, sweep)
    worst = min(figures) if case.primary.higher_is_better else max(figures)
    return Row(
        "bit_flips", case.primary.name, condition(ber=ber, draw="worst"), worst, case.primary.unit, n=case.data.n
    )


def _draws(case: Case, sweeps: Mapping[float, Sweep]) -> pl.DataFrame:
    """One line a draw and rate, in the columns of ``draws/<profile>/part-*.parquet``."""
    records = []
    for ber, sweep in sweeps.items():
        figures = _per_draw(case, sweep) if case.primary.name == "top1" else []
        for draw, n_faults in enumerate(sweep.n_faults):
            records.append(
                {
                    "draw": draw,
                    "rate": ber,
                    "chip": draw,
                    "seed": case.seed,
                    "n_faults": n_faults,
                    "n_inputs": case.data.n,
                    "n_changed": int(sweep.changed[draw].sum()) if sweep.changed is not None else None,
                    "n_due": int(sweep.due[draw].sum()),
                    "top1": figures[draw] if figures else None,
                }
            )
    return pl.DataFrame(records, schema=DRAWS_SCHEMA, orient="row")


DRAWS_SCHEMA = {
    "draw": pl.Int64,
    "rate": pl.Float64,
    "chip": pl.Int64,
    "seed": pl.Int64,
    "n_faults": pl.Int64,
    "n_inputs": pl.Int64,
    "n_changed": pl.Int64,
    "n_due": pl.Int64,
    "top1": pl.Float64,
}
