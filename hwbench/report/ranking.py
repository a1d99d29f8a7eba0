"""Ranking: the profiles that lead in a figure, as far as intervals distinguish them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from hwbench.report.view import View, settings
from hwbench.table import Row


def leaders(rows: Sequence[Row], *, lower_is_better: bool) -> list[str]:
    """The profile with the best figure, and those whose intervals overlap its own, best first.

    Args:
        rows: One a profile, each with a figure. One without an interval is exact.
        lower_is_better: The direction of improvement.
    """
    sign = 1.0 if lower_is_better else -1.0
    ranked = sorted(rows, key=lambda row: sign * (row.value or 0.0))
    return [row.profile for row in ranked if not _apart(bounds(ranked[0]), bounds(row))]


def latencies(view: View, profiles: Sequence[str]) -> dict[str, Row]:
    """The figures by which the profiles' median latencies are compared.

    Ratios to one baseline where every profile has one, since they are paired by block and free of what changes the machine's
    speed; else the latencies themselves.

    Args:
        view: The run.
        profiles: The profiles; those without a latency are left out.
    """
    medians = {name: row for name in profiles if (row := _measured(view, name, "p50_ms")) is not None}
    ratios = {name: row for name in medians if (row := _measured(view, name, "p50_ratio")) is not None}
    named = {settings(row.condition).get("to") for row in ratios.values()}
    if len(named) == 1 and medians.keys() - ratios.keys() <= named:
        baseline = medians.keys() - ratios.keys()
        return {name: replace(medians[name], value=1.0, ci_low=1.0, ci_high=1.0) for name in baseline} | ratios
    return medians


def bounds(row: Row) -> tuple[float, float]:
    """A figure's interval; the figure itself where it is exact."""
    value = row.value if row.value is not None else math.nan
    return (value if row.ci_low is None else row.ci_low, value if row.ci_high is None else row.ci_high)


def is_open(row: Row) -> bool:
    """True if nothing bounds a positive figure on either side: the machine was too noisy."""
    return bounds(row) == (0.0, math.inf)


def pareto_front(points: Mapping[str, tuple[tuple[float, float], float]], *, falls: bool = False) -> set[str]:
    """The points that none other is known to dominate.

    A point dominates another one whose cost is higher by disjoint intervals and whose quality is no better.

    Args:
        points: Name to the interval of the cost, of which less is better, and the quality.
        falls: Whether lower quality figures are the better ones.
    """

    def beaten(name: str) -> bool:
        (low, _), quality = points[name]
        return any(
            other_high < low and (other <= quality if falls else other >= quality)
            for (_, other_high), other in points.values()
        )

    return {name for name in points if not beaten(name)}


def _measured(view: View, profile: str, metric: str) -> Row | None:
    row = view.headline(profile, "latency", metric)
    return row if row is not None and row.status == "ok" and row.metric == metric and row.value is not None else None


def _apart(a: tuple[float, float], b: tuple[float, float]) -> bool:
    return a[1] < b[0] or b[1] < a[0]
