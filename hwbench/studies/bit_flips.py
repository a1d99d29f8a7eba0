"""Bit flips: accuracy of a build whose stored bits each fail with a probability p, and the p that it tolerates."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import numpy as np
import polars as pl
from pydantic import Field

from hwbench.bounds import DRAWS, INPUTS, POINTS
from hwbench.stats import Estimate
from hwbench.studies.base import GOLDEN, LEVEL, Analysis, Case, Interim, Settings, Study
from hwbench.studies.deployed import coverage_rows, numbers_obstacle
from hwbench.studies.draws import NO_DRAWS, Level, Sampling, design_of
from hwbench.studies.outputs import row
from hwbench.studies.sweep import Golden, Sweep, bounds, figure, finite_rows, loss, per_draw, rate
from hwbench.table import NO_LABELS, Row, condition
from hwbench.worker.protocol import Job, JobResult

_USUAL_DRAWS = 20
"""Draws over all inputs of a metric without bounds."""
_EFFORT = 2 * _USUAL_DRAWS


class BitFlipsSettings(Settings):
    """Study settings."""

    rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2),
        min_length=1,
        max_length=POINTS,
        description="bit error rates; the rate that a profile must tolerate is added",
    )
    draws: int | None = Field(
        None,
        ge=2,
        le=DRAWS,
        description="draws of the bits that fail at every rate; default: until max_drop is decided, at most the cost of "
        f"{_EFFORT} draws over all inputs",
    )
    inputs_per_draw: int | None = Field(
        None,
        ge=1,
        le=INPUTS,
        description="inputs that each draw runs on; default: chosen by a pilot, or all where draws is given",
    )
    half_width: float = Field(
        0.02, gt=0, description="wanted half-width of intervals where the inputs are too few to decide max_drop"
    )
    max_drop: float = Field(0.01, ge=0, description="mean loss a tolerated rate may cost, in the primary metric's unit")


class BitFlipsStudy(Study):
    """Every stored bit of the deployed build flips independently with probability p.

    Each bit has one uniform number a draw and flips where that is below p: a bit that fails at one rate fails at every higher
    one, and builds that store the same tensor share its faults. A draw stands for one chip. It runs on some of the inputs,
    chosen anew for every draw, so that many chips can be met at the cost of few passes.
    """

    name = "bit_flips"
    headline = "tolerated_ber"
    settings_type = BitFlipsSettings

    def obstacle(self, case: Case, settings: BitFlipsSettings) -> str:
        """Reason why no bit can flip; empty if one can."""
        return numbers_obstacle(case)

    def plan(self, case: Case, settings: BitFlipsSettings) -> dict[str, Job]:
        """The golden outputs, and the pilot's draws: draw by draw every rate, lowest first."""
        return {"golden": case.evaluation(GOLDEN), **_sampling(case, settings).wanted({})}

    def extend(self, case: Case, settings: BitFlipsSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """More draws of the rates that are not decided."""
        return _sampling(case, settings).wanted(results) if all(result.ok for result in results.values()) else {}

    def conclude(self, case: Case, settings: BitFlipsSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Golden outputs of the sweep's own session, where they are not the build's."""
        return _sampling(case, settings).concluding(results)

    def enough(self, case: Case, settings: BitFlipsSettings, results: Mapping[str, JobResult]) -> bool:
        """Draws at every setting."""
        return _sampling(case, settings).enough(results)

    def progress(self, case: Case, settings: BitFlipsSettings, results: Mapping[str, JobResult]) -> Interim:
        """Draws done and planned."""
        return _sampling(case, settings).interim(results)

    def analyse(self, case: Case, settings: BitFlipsSettings, results: Mapping[str, JobResult]) -> Analysis:
        """Rows per rate, the tolerated rate, and a table with one line a draw and rate."""
        sampling = _sampling(case, settings)
        if not sampling.restored(results):
            return Analysis(
                [self.missing("error", "the golden output was not the same, bit for bit, after the faults were undone")]
            )
        golden = sampling.golden(results)
        found, failures = sampling.sweeps(results, golden), sampling.failures(results)
        if not found and not failures:
            return Analysis([self.missing("skipped", NO_DRAWS)])
        sweeps = {ber: found[_name(ber)] for ber in _rates(case, settings) if _name(ber) in found}
        rows: list[Row] = []
        for ber, sweep in sweeps.items():
            rows.extend(_outcomes(case, sweep, condition(ber=ber)))
        for ber in _rates(case, settings):
            if _name(ber) in failures:
                status, detail = failures[_name(ber)]
                metric = "due_rate" if case.data.labels is None else "accuracy_drop"
                rows.append(Row(self.name, metric, condition(ber=ber), status=status, detail=detail))
        if case.data.labels is None:
            rows.append(self.missing("unavailable", NO_LABELS))
        else:
            losses: dict[float, Estimate] = {}
            for ber, sweep in sweeps.items():
                losses[ber] = loss(case, sweep, golden)
                rows.extend(self._accuracy(case, sampling, ber, sweep, golden, losses[ber]))
            rows += [self.missing(*failure) for failure in list(failures.values())[:1]] or [
                _tolerated(case, settings, losses, sweeps)
            ]
        rows += coverage_rows(self.name, case)
        return Analysis(rows, parts={"draws": _draws(case, sweeps)})

    def _accuracy(
        self, case: Case, sampling: Sampling, ber: float, sweep: Sweep, golden: Golden, lost: Estimate
    ) -> Iterator[Row]:
        metric, setting = case.primary, condition(ber=ber)
        known = [count for count in sweep.n_faults if count is not None]
        faults = f"{np.mean(known):.4g} faults a draw" if known else ""
        yield row(self.name, metric.name, figure(case, sweep, golden), metric.unit, setting, faults)
        yield _worst(case, sweep, ber)
        detail = f"mean loss of {metric.name} against the same build without faults; {sampling.detail(sweep)}"
        yield row(self.name, "accuracy_drop", lost, metric.unit, setting, detail)
        yield from finite_rows(self.name, case, sweep, golden, setting)


def _rates(case: Case, settings: BitFlipsSettings) -> list[float]:
    """The rates that are measured, ascending: the given ones and the one that the profile's rule is about."""
    required = case.profile.accept.min_tolerated_ber
    return sorted({*settings.rates, *([required] if required is not None and 0 < required <= 1 else [])})


def _name(ber: float) -> str:
    return f"ber{ber!r}"


def _sampling(case: Case, settings: BitFlipsSettings) -> Sampling:
    levels = [Level(_name(ber), {"kind": "bit_errors", "rate": ber}, _name(ber)) for ber in _rates(case, settings)]
    design = design_of(
        case,
        usual=_USUAL_DRAWS,
        effort=_EFFORT,
        limit=settings.max_drop,
        half_width=settings.half_width,
        draws=settings.draws,
        per_draw=settings.inputs_per_draw,
    )
    return Sampling(case, "flips", levels, design)


def _outcomes(case: Case, sweep: Sweep, setting: str) -> Iterator[Row]:
    if sweep.changed is not None:
        yield row("bit_flips", "sdc_rate", rate(case, sweep, sweep.changed), "ratio", setting)
    yield row("bit_flips", "due_rate", rate(case, sweep, sweep.due), "ratio", setting)


def _tolerated(
    case: Case, settings: BitFlipsSettings, losses: Mapping[float, Estimate], sweeps: Mapping[float, Sweep]
) -> Row:
    """The tolerated rate, from the largest rate shown to be within the limit to the largest not shown to be outside it.

    A rate is tolerated if its loss and that of every lower one is within the limit by the interval's upper bound. That is an
    intersection-union test, so that the error probability of one rate's bound is that of the whole (Berger 1982,
    "Multiparameter hypothesis testing and acceptance sampling", Technometrics 24).
    """
    limit, shown, possible = settings.max_drop, 0.0, 0.0
    open_rates: list[float] = []
    for ber, lost in losses.items():
        if lost.low > limit:
            break
        possible = ber
        if not open_rates and lost.high <= limit:
            shown = ber
        else:
            open_rates.append(ber)
    detail = f"mean loss of {case.primary.name} within {limit:g} by the interval's upper bound"
    if bounds(case.primary) is None:
        detail += ", bootstrapped: kinds of failure that no draw hit are not covered"
    lowest, highest = min(losses), max(losses)
    if open_rates:
        span = f"from {open_rates[0]:g} to {open_rates[-1]:g}" if len(open_rates) > 1 else f"at {open_rates[0]:g}"
        detail = f"not decided {span}: {detail}"
    elif shown == 0.0:
        detail = f"below the grid (< {lowest:g}): {detail}"
    elif shown == highest:
        detail = f"above the grid (>= {highest:g}): {detail}"
    n = min(len(sweep.numbers) for ber, sweep in sweeps.items() if ber <= max(possible, lowest))
    return Row("bit_flips", "tolerated_ber", "{}", shown, "ratio", shown, possible, LEVEL, n, detail=detail)


def _worst(case: Case, sweep: Sweep, ber: float) -> Row:
    figures = per_draw(case, sweep)
    worst = min(figures) if case.primary.higher_is_better else max(figures)
    setting = condition(ber=ber, draw="worst")
    return Row("bit_flips", case.primary.name, setting, worst, case.primary.unit, n=max(sweep.sizes))


def _draws(case: Case, sweeps: Mapping[float, Sweep]) -> pl.DataFrame:
    """One line a draw and rate, in the columns of ``draws/<profile>/part-*.parquet``."""
    records = [record | {"rate": ber} for ber, sweep in sweeps.items() for record in draw_records(case, sweep)]
    return pl.DataFrame(records, schema=DRAWS_SCHEMA, orient="row")


def draw_records(case: Case, sweep: Sweep) -> Iterator[dict[str, object]]:
    """One line a draw, in the columns of ``draws/<profile>/part-*.parquet`` but the rate."""
    top1 = per_draw(case, sweep) if case.primary.name == "top1" else []
    changed = None if sweep.changed is None else sweep.of_draw(sweep.changed)
    for at, (draw, due) in enumerate(zip(sweep.numbers, sweep.of_draw(sweep.due), strict=True)):
        yield {
            "draw": draw,
            "chip": draw,
            "seed": case.seed,
            "n_faults": sweep.n_faults[at],
            "n_inputs": len(due),
            "n_changed": int(changed[at].sum()) if changed is not None else None,
            "n_due": int(due.sum()),
            "top1": top1[at] if top1 else None,
        }


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
