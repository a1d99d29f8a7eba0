"""Two runs side by side, and gates that fail on a regression.

The interval of a difference is recovered from both figures' own intervals (MOVER: Zou and Donner, "Construction of
confidence limits about effect measures", Statistics in Medicine 27, 2008; for proportions this is Newcombe's method 10,
1998). It treats the two runs as independent; on the same inputs they are positively correlated, so it errs on the wide
side: a difference it shows is there.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import polars as pl

from hwbench.errors import InputError, UnknownNameError
from hwbench.table import SCHEMA

Direction = Literal["higher", "lower"]
GateResult = Literal["pass", "fail", "inconclusive", "unavailable"]
KEY = ("profile", "study", "metric", "condition")

DIRECTIONS: dict[str, Direction] = {
    **dict.fromkeys(("top1", "top5", "r2", "cosine", "sqnr_db", "top1_agreement", "nodes_as_asked"), "higher"),
    **dict.fromkeys(("own_sqnr_db", "portable", "drop_avoided"), "higher"),
    **dict.fromkeys(("samples_per_s", "scaling_efficiency", "sustained_ratio"), "higher"),
    **dict.fromkeys(("tolerated_ber", "flips_needed"), "higher"),
    **dict.fromkeys(
        ("rmse", "mae", "accuracy_drop", "max_abs_error", "mean_abs_error", "sdc_rate", "due_rate"), "lower"
    ),
    **dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "load_ms", "first_run_ms"), "lower"),
    **dict.fromkeys(("peak_mib", "least_mib", "model_bytes", "sqnr_loss_db", "findings"), "lower"),
}
# Where a gate that names no study looks for a metric that several studies measure.
_HOMES = {
    **dict.fromkeys(("top1", "top5", "rmse", "mae", "r2", "cosine", "accuracy_drop"), "accuracy"),
    **dict.fromkeys(("sdc_rate", "due_rate"), "bit_flips"),
}
_CUSTOM_ACCURACY = frozenset({"accuracy", "bit_flips", "noise"})
_GATE = re.compile(
    r"(?:(?P<study>\w+)\.)?(?P<metric>\w+):(?P<limit>\d+(?:\.\d*)?(?:[eE][-+]?\d+)?|\.\d+)(?P<percent>%?)"
)

COMPARISON_SCHEMA: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(KEY, pl.String),
    "unit": pl.String,
    **dict.fromkeys(("a", "a_low", "a_high", "b", "b_low", "b_high"), pl.Float64),
    **dict.fromkeys(("difference", "difference_low", "difference_high", "ratio"), pl.Float64),
    "direction": pl.String,
    "verdict": pl.String,
}


@dataclass(frozen=True)
class Figure:
    """A value and its interval; an exact figure's interval is the value itself."""

    value: float
    low: float
    high: float

    def scaled(self, factor: float) -> Figure:
        """The figure times a factor."""
        ends = sorted((self.low * factor, self.high * factor))
        return Figure(self.value * factor, *ends)

    def minus(self, other: Figure) -> Figure:
        """The difference to an independent figure, by MOVER."""
        if self.value == other.value and math.isinf(self.value):
            return Figure(0.0, 0.0, 0.0)
        value = self.value - other.value
        if math.isinf(value):
            return Figure(value, value, value)
        low = value - math.hypot(self.value - self.low, other.high - other.value)
        high = value + math.hypot(self.high - self.value, other.value - other.low)
        return Figure(value, low, high)


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
    """What one gate came to for one figure.

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


def compare(a: pl.DataFrame, b: pl.DataFrame, directions: Mapping[str, Direction] | None = None) -> pl.DataFrame:
    """Join two measurement tables, figure by figure.

    Args:
        a: The measurement table of run A, the one to compare with.
        b: That of run B.
        directions: Which way is better, for metrics of the user's own.

    Returns:
        One row per profile, study, metric and condition, with the columns of `COMPARISON_SCHEMA`; the difference is
        b − a. ``verdict`` is better or worse (the difference's interval excludes 0), same (equal figures),
        inconclusive, different (nobody knows which way is better), ``only in A``, ``only in B``, or ``no figure`` (in
        neither run).
    """
    known = {**DIRECTIONS, **(directions or {})}
    renamed = {
        side: frame.select(list(SCHEMA)).unique(KEY, keep="first", maintain_order=True)
        for side, frame in (("a", a), ("b", b))
    }
    joined = renamed["a"].join(
        renamed["b"], on=KEY, how="full", coalesce=True, suffix="_b", maintain_order="left_right"
    )
    rows = [_compared(row, _direction(known, row["study"], row["metric"])) for row in joined.to_dicts()]
    return pl.DataFrame(rows, schema=COMPARISON_SCHEMA, orient="row")


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
    """Hold gates against a comparison.

    A gate takes a metric's headline figure (condition ``{}``) where its study has one, else every condition. Without a
    study it takes the metric's own: accuracy for ``top1``, not accuracy under bit flips or noise.

    Args:
        gates: Made by `parse_gate`.
        comparison: Made by `compare`.

    Raises:
        UnknownNameError: No such study or metric in either run.
        InputError: It is not known whether more or less of the metric is better.
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
    a, b = _figure(row, "a"), _figure(row, "b")
    if a is None or b is None:
        return GateOutcome(gate, *place, outcome="unavailable", detail=f"{row['metric']}: {row['verdict']}")
    if not row["direction"]:
        raise InputError(
            f"--fail-on {gate.text!r}: whether more or less of {gate.metric!r} is better is not known; "
            "gate another metric"
        )
    sign = 1.0 if row["direction"] == "lower" else -1.0
    worse = b.minus(a).scaled(sign)
    # Beyond the limit by how much: with a relative limit the allowed figure moves with run A's, interval and all.
    allowed = math.copysign(gate.limit, a.value) * sign if gate.relative else 0.0
    beyond = b.minus(a.scaled(1 + allowed)).scaled(sign) if gate.relative else worse
    limit = 0.0 if gate.relative else gate.limit
    outcome: GateResult = "pass" if beyond.high <= limit else "fail" if beyond.low > limit else "inconclusive"
    shown = f"{100 * gate.limit:g} %" if gate.relative else f"{gate.limit:g} {row['unit'] or ''}".strip()
    spread = f"{worse.value:.3g} [{worse.low:.3g}, {worse.high:.3g}]"
    detail = f"{row['metric']} went from {a.value:.4g} to {b.value:.4g}: worse by {spread}, limit {shown}"
    return GateOutcome(
        gate, *place, outcome=outcome, worsening=worse.value, low=worse.low, high=worse.high, detail=detail
    )


def _direction(known: Mapping[str, Direction], study: str, metric: str) -> Direction | None:
    """Which way is better. In an accuracy study a metric of the user's own counts as an accuracy: higher is better."""
    return known.get(metric) or ("higher" if study in _CUSTOM_ACCURACY and metric != "mcnemar_p" else None)


def _figure(row: Mapping[str, Any], side: str) -> Figure | None:
    value, low, high = row[side], row[f"{side}_low"], row[f"{side}_high"]
    return None if value is None else Figure(value, value if low is None else low, value if high is None else high)


def _compared(row: Mapping[str, Any], direction: Direction | None) -> dict[str, Any]:
    out: dict[str, Any] = {key: row[key] for key in KEY} | {
        "unit": row["unit"] or row["unit_b"],
        "direction": direction or "",
    }
    for side, suffix in (("a", ""), ("b", "_b")):
        measured = row[f"status{suffix}"] == "ok"
        for name, column in (("", "value"), ("_low", "ci_low"), ("_high", "ci_high")):
            out[side + name] = row[column + suffix] if measured else None
    a, b = _figure(out, "a"), _figure(out, "b")
    if a is None or b is None:
        return out | {"verdict": "only in A" if a else "only in B" if b else "no figure"}
    difference = b.minus(a)
    finite = a.value != 0 and math.isfinite(a.value) and math.isfinite(b.value)
    out |= {"difference": difference.value, "difference_low": difference.low, "difference_high": difference.high}
    return out | {"ratio": b.value / a.value if finite else None, "verdict": _judged(a, b, difference, direction)}


def _judged(a: Figure, b: Figure, difference: Figure, direction: Direction | None) -> str:
    if a == b:
        return "same"
    if difference.low <= 0 <= difference.high:
        return "inconclusive"
    if direction is None:
        return "different"
    return "better" if (difference.value > 0) == (direction == "higher") else "worse"
