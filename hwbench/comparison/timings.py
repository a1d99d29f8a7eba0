"""Ratios of timings between two runs, over their launches: paired by block where the runs were interleaved."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from hwbench import stats
from hwbench.comparison.figures import Figure
from hwbench.comparison.pairs import KEY, Key, Pair, Results
from hwbench.record import INTERLEAVED
from hwbench.stats import Estimate

_LEVEL = 0.95
_METRICS = frozenset({"p50_ms", "p90_ms", "p99_ms", "load_ms", "first_run_ms", "samples_per_s"})
_STUDIES = ("latency", "throughput")


def time_runs(a: Results, b: Results) -> dict[Key, Pair]:
    """The ratios of all timings that both runs measured, as differences of run A's figure.

    Args:
        a: The run to compare with.
        b: The new run.

    Returns:
        Pairs by profile, study, metric and condition; figures of runs that kept no launches have none.
    """
    rows = a.table.filter(
        pl.col("study").is_in(_STUDIES) & pl.col("metric").is_in(_METRICS) & (pl.col("status") == "ok")
    )
    same = a.record.get(INTERLEAVED) is not None and a.record.get(INTERLEAVED) == b.record.get(INTERLEAVED)
    pairs: dict[Key, Pair] = {}
    for (profile, study), group in rows.group_by(("profile", "study"), maintain_order=True):
        sides = [run.launches(str(study), str(profile)) for run in (a, b)]
        if sides[0] is not None and sides[1] is not None:
            pairs.update(_pairs(group, sides[0], sides[1], interleaved=same))
    return pairs


def _pairs(rows: pl.DataFrame, a: pl.DataFrame, b: pl.DataFrame, *, interleaved: bool) -> Iterator[tuple[Key, Pair]]:
    for row in rows.to_dicts():
        first, second = (_launches(side, row) for side in (a, b))
        if first is None or second is None:
            continue
        ratio, detail = _ratio(first, second, row["metric"], interleaved=interleaved)
        unbounded = any(bool(side["disturbed"].any()) for side in (first, second))
        low, high = (0.0, np.inf) if unbounded else (ratio.low, ratio.high)
        scale = row["value"]
        difference = Figure(scale * (ratio.value - 1), scale * (low - 1), scale * (high - 1))
        noisy = "noisy: too few undisturbed windows; " if unbounded else ""
        figure = Figure(ratio.value, low, high)
        yield tuple(row[key] for key in KEY), Pair(difference, noisy + detail, ratio.n, ratio=figure, joint=interleaved)


def _launches(part: pl.DataFrame, row: Mapping[str, Any]) -> pl.DataFrame | None:
    """The launches that a figure is over: those of its point, without the disturbed ones where enough others are left."""
    setting = json.loads(row["condition"])
    points = part.filter(pl.col("batch") == setting["batch"]) if "batch" in setting else part
    points = points.filter(pl.col("threads") == setting["threads"]) if "threads" in setting else points
    if setting == {} and row["metric"] == "samples_per_s":
        points = points.filter(pl.col("point") == _best(points))
    quiet = points.filter(~pl.col("disturbed"))
    counted = quiet if len(quiet) >= max(2, len(points) / 2) else points
    return counted.sort("block") if len(counted) else None


def _best(points: pl.DataFrame) -> str:
    means = points.group_by("point").agg(pl.col("samples_per_s").log().mean()).sort("samples_per_s", "point")
    return str(means["point"][-1]) if len(means) else ""


def _ratio(a: pl.DataFrame, b: pl.DataFrame, metric: str, *, interleaved: bool) -> tuple[Estimate, str]:
    if interleaved:
        both = a.join(b, on="block", suffix="_b").sort("block")
        if len(both) > 1:
            ratio = stats.ratio_over_launches(both[f"{metric}_b"], both[metric], level=_LEVEL)
            return ratio, f"interleaved, paired over {len(both)} blocks"
    ratio = stats.ratio_of_launches(b[metric], a[metric], _LEVEL)
    return (
        ratio,
        f"measured separately, {len(a)} and {len(b)} launches: changes of the machine between the runs are included",
    )
