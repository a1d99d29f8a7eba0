"""Two measurement tables side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import polars as pl

from hwbench.comparison.directions import DIRECTIONS, Direction, direction_of
from hwbench.comparison.figures import Figure, figure_of
from hwbench.comparison.pairs import KEY, Key, Pair, Results, pair_runs
from hwbench.comparison.timings import time_runs
from hwbench.table import SCHEMA

COMPARISON_SCHEMA: dict[str, type[pl.DataType]] = {
    **dict.fromkeys(KEY, pl.String),
    "unit": pl.String,
    **dict.fromkeys(("a", "a_low", "a_high", "b", "b_low", "b_high"), pl.Float64),
    **dict.fromkeys(("difference", "difference_low", "difference_high"), pl.Float64),
    **dict.fromkeys(("ratio", "ratio_low", "ratio_high"), pl.Float64),
    "direction": pl.String,
    "verdict": pl.String,
    "paired": pl.Boolean,
    "pairing": pl.String,
    **dict.fromkeys(("n", "only_a", "only_b"), pl.Int64),
}


def compare_runs(a: Results, b: Results, directions: Mapping[str, Direction] | None = None) -> pl.DataFrame:
    """Compare two runs figure by figure.

    Accuracy figures are paired where both evaluated the same inputs; timings are compared by the ratio over launches.

    Args:
        a: The run to compare with.
        b: The new run.
        directions: Which way is better, for metrics of the user's own beyond the primary one.

    Returns:
        The table of `compare_tables`.
    """
    better: Direction = "higher" if a.record["higher_is_better"] else "lower"
    return compare_tables(
        a.table, b.table, {a.record["primary"]: better, **(directions or {})}, pair_runs(a, b) | time_runs(a, b)
    )


def compare_tables(
    a: pl.DataFrame,
    b: pl.DataFrame,
    directions: Mapping[str, Direction] | None = None,
    pairs: Mapping[Key, Pair] | None = None,
) -> pl.DataFrame:
    """Join two measurement tables, figure by figure.

    Args:
        a: The measurement table of run A, the one to compare with.
        b: That of run B.
        directions: Which way is better, for metrics of the user's own.
        pairs: Differences paired by input, from `pair_runs`, and ratios over launches, from `time_runs`.

    Returns:
        One row per profile, study, metric and condition, with the columns of `COMPARISON_SCHEMA`; the difference is
        b − a. ``verdict`` is better or worse (the difference's interval excludes 0), same (equal figures),
        inconclusive, different (direction of improvement unknown), ``only in A``, ``only in B``, or ``no figure`` (in
        neither run). ``paired`` is true if the difference is paired by input or by block; ``pairing`` names the pairs, or the
        reason against pairing; ``n`` is the number of inputs or launches; ``only_a`` and ``only_b`` count the inputs that one
        run alone gets right; ``ratio_low`` and ``ratio_high`` are set if timings are compared by their ratio.
    """
    known = {**DIRECTIONS, **(directions or {})}
    renamed = {
        side: frame.select(list(SCHEMA)).unique(KEY, keep="first", maintain_order=True)
        for side, frame in (("a", a), ("b", b))
    }
    joined = renamed["a"].join(
        renamed["b"], on=KEY, how="full", coalesce=True, suffix="_b", maintain_order="left_right"
    )
    rows = [
        _compared(row, direction_of(known, row["study"], row["metric"]), (pairs or {}).get(tuple(row[k] for k in KEY)))
        for row in joined.to_dicts()
    ]
    return pl.DataFrame(rows, schema=COMPARISON_SCHEMA, orient="row")


def _compared(row: Mapping[str, Any], direction: Direction | None, pair: Pair | None) -> dict[str, Any]:
    out: dict[str, Any] = {key: row[key] for key in KEY} | {
        "unit": row["unit"] or row["unit_b"],
        "direction": direction or "",
        "paired": False,
        "pairing": pair.detail if pair else "",
        **({"n": pair.n, "only_a": pair.only_a, "only_b": pair.only_b} if pair else {}),
    }
    for side, suffix in (("a", ""), ("b", "_b")):
        measured = row[f"status{suffix}"] == "ok"
        for name, column in (("", "value"), ("_low", "ci_low"), ("_high", "ci_high")):
            out[side + name] = row[column + suffix] if measured else None
    a, b = figure_of(out, "a"), figure_of(out, "b")
    if a is None or b is None:
        return out | {"verdict": "only in A" if a else "only in B" if b else "no figure"}
    paired = pair.difference if pair else None
    difference = paired or b.minus(a)
    finite = a.value != 0 and math.isfinite(a.value) and math.isfinite(b.value)
    out |= {"difference": difference.value, "difference_low": difference.low, "difference_high": difference.high}
    ratio = pair.ratio if pair else None
    return out | {
        "ratio": ratio.value if ratio else b.value / a.value if finite else None,
        **({"ratio_low": ratio.low, "ratio_high": ratio.high} if ratio else {}),
        "verdict": _judged(difference, direction, same=difference == Figure(0, 0, 0) if paired else a == b),
        "paired": paired is not None and pair is not None and pair.joint,
    }


def _judged(difference: Figure, direction: Direction | None, *, same: bool) -> str:
    if same:
        return "same"
    if difference.low <= 0 <= difference.high:
        return "inconclusive"
    if direction is None:
        return "different"
    return "better" if (difference.value > 0) == (direction == "higher") else "worse"
