"""Gates: limits on how much worse a figure may get."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from hwbench import stats
from hwbench.comparison.directions import ACCURACY_STUDIES
from hwbench.comparison.figures import Figure, figure_of
from hwbench.errors import InputError, UnknownNameError

GateResult = Literal["pass", "fail", "inconclusive", "unavailable"]

# Where a gate that names no study looks for a metric that several studies measure.
_HOMES = {
    **dict.fromkeys(("top1", "top5", "rmse", "mae", "r2", "cosine", "accuracy_drop"), "accuracy"),
    **dict.fromkeys(("sdc_rate", "due_rate"), "bit_flips"),
}
_GATE = re.compile(
    r"(?:(?P<study>\w+)\.)?(?P<metric>\w+):(?P<limit>\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+)(?P<percent>%?)"
)


@dataclass(frozen=True)
class Gate:
    """A limit on how much worse a metric may get: ``[study.]metric:limit`` or ``[study.]metric:limit%``.

    Attributes:
        text: As the user wrote it.
        study: The study; empty for the metric's own.
        metric: The metric.
        limit: The largest worsening, in the metric's unit, or as a share of run A's figure.
        relative: Whether it is such a share.
    """

    text: str
    study: str
    metric: str
    limit: float
    relative: bool


@dataclass(frozen=True)
class GateOutcome:
    """The outcome of one gate for one figure.

    Attributes:
        gate: The gate.
        profile, study, metric, condition: The figure.
        outcome: fail (the whole interval of the worsening is beyond the limit), pass (inside), inconclusive (across),
            or unavailable (one of the runs has no such figure).
        worsening, low, high: By how much it got worse, in the metric's unit; None if unavailable.
        detail: One sentence for a person.
    """

    gate: Gate
    profile: str
    study: str
    metric: str
    condition: str
    outcome: GateResult
    worsening: float | None = None
    low: float | None = None
    high: float | None = None
    detail: str = ""


def parse_gate(text: str) -> Gate:
    """Read a gate such as ``"p99_ms:10%"``, ``"top1:0.01"`` or ``"bit_flips.top1:0.02"``.

    Raises:
        InputError: It is not of that form.
    """
    found = _GATE.fullmatch(text.strip())
    if found is None:
        raise InputError(
            f"--fail-on {text!r} is not a gate: write [study.]metric:limit with a limit of zero or more, in the "
            "metric's unit or in percent, e.g. p99_ms:10% or bit_flips.top1:0.02"
        )
    relative = bool(found["percent"])
    return Gate(
        text.strip(), found["study"] or "", found["metric"], float(found["limit"]) / (100 if relative else 1), relative
    )


def evaluate_gates(gates: Iterable[Gate], comparison: pl.DataFrame) -> list[GateOutcome]:
    """Apply gates to a comparison.

    A gate takes a metric's headline figure (condition ``{}``) where its study has one, else every condition. Without a
    study it takes the metric's own: accuracy for ``top1``, not accuracy under bit flips or noise.

    Args:
        gates: Made by `parse_gate`.
        comparison: Made by `compare`.

    Raises:
        UnknownNameError: No such study or metric in either run.
        InputError: The direction of improvement of the metric is unknown.
    """
    rows = comparison.to_dicts()
    return [_held(gate, row) for gate in gates for row in _gated(gate, rows)]


def _gated(gate: Gate, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    studies = {row["study"] for row in rows}
    if gate.study and gate.study not in studies:
        raise UnknownNameError("study", gate.study, studies)
    study = gate.study or _HOMES.get(gate.metric, "")
    there = [row for row in rows if not study or row["study"] == study]
    metrics = {row["metric"] for row in there}
    if gate.metric not in metrics:
        raise UnknownNameError(f"metric of the study {study!r}" if study else "metric", gate.metric, metrics)
    found = [row for row in there if row["metric"] == gate.metric]
    headlines = {(row["profile"], row["study"]) for row in found if row["condition"] == "{}"}
    return [row for row in found if row["condition"] == "{}" or (row["profile"], row["study"]) not in headlines]


def _held(gate: Gate, row: Mapping[str, Any]) -> GateOutcome:
    place = (row["profile"], row["study"], row["metric"], row["condition"])
    a, b, difference = figure_of(row, "a"), figure_of(row, "b"), figure_of(row, "difference")
    if a is None or b is None or difference is None:
        return GateOutcome(gate, *place, outcome="unavailable", detail=f"{row['metric']}: {row['verdict']}")
    if not row["direction"]:
        raise InputError(
            f"--fail-on {gate.text!r}: the direction of improvement of {gate.metric!r} is unknown; gate another metric"
        )
    sign = 1.0 if row["direction"] == "lower" else -1.0
    worse = difference.scaled(sign)
    beyond, limit = _beyond(gate, a, b, worse, sign, joint=row["paired"] or row["ratio_low"] is not None)
    outcome: GateResult = "pass" if beyond.high <= limit else "fail" if beyond.low > limit else "inconclusive"
    shown = f"{100 * gate.limit:g} %" if gate.relative else f"{gate.limit:g} {row['unit'] or ''}".strip()
    detail = f"{row['metric']} went from {a.value:.4g} to {b.value:.4g}: {_worsening(worse)}, limit {shown}{_how(row)}"
    detail += _needed(row, worse, limit) if outcome == "inconclusive" else ""
    return GateOutcome(
        gate, *place, outcome=outcome, worsening=worse.value, low=worse.low, high=worse.high, detail=detail
    )


def _beyond(gate: Gate, a: Figure, b: Figure, worse: Figure, sign: float, *, joint: bool) -> tuple[Figure, float]:
    """The worsening, and the limit in the metric's unit.

    Of unpaired figures a relative limit moves with run A's figure, interval and all. On the same inputs, and of timings
    compared by their ratio, it is a share of run A's figure.
    """
    if not gate.relative:
        return worse, gate.limit
    if joint:
        return worse, gate.limit * abs(a.value) if math.isfinite(a.value) else 0.0
    return b.minus(a.scaled(1 + math.copysign(gate.limit, a.value) * sign)).scaled(sign), 0.0


def _worsening(worse: Figure) -> str:
    word = "unchanged" if worse.value == 0 else "worse by" if worse.value > 0 else "better by"
    shown = worse.scaled(-1.0) if worse.value < 0 else worse
    # Adding zero makes a positive zero of a negative one.
    value, low, high = (f"{number + 0.0:.3g}" for number in (shown.value, shown.low, shown.high))
    return f"{word} [{low}, {high}]" if worse.value == 0 else f"{word} {value} [{low}, {high}]"


def _needed(row: Mapping[str, Any], worse: Figure, limit: float) -> str:
    """The number of inputs that would decide a gate on paired figures, in words."""
    if (
        not row["paired"]
        or row["study"] not in ACCURACY_STUDIES
        or not (math.isfinite(worse.low) and math.isfinite(worse.high))
    ):
        return ""
    if row["only_a"] is not None:
        needed = stats.paired_inputs_to_decide(row["only_a"], row["only_b"], row["n"], limit)
    else:
        needed = stats.inputs_to_decide(stats.shrinking(worse.value, worse.low, worse.high, row["n"]), limit, row["n"])
    return f"; about {needed} inputs like these would decide" if needed else ""


def _how(row: Mapping[str, Any]) -> str:
    if row["ratio_low"] is not None:
        return f"; {row['pairing']}"
    if row["paired"]:
        return f"; paired: {row['pairing']}"
    if row["study"] not in ACCURACY_STUDIES:
        return ""
    return f"; unpaired: {row['pairing']}" if row["pairing"] else "; unpaired"
