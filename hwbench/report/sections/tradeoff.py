"""The trade-off between latency and accuracy, with the profiles that no other one beats."""

from __future__ import annotations

import math
from typing import Any

from hwbench.report import charts
from hwbench.report.blocks import Cell, Chart, Section, Table, short_cell
from hwbench.report.format import figure_text, metric_title
from hwbench.report.view import View
from hwbench.table import Row

STUDIES = ("accuracy", "latency", "throughput", "fidelity")
_LOG_SPAN = 20.0


def section(view: View) -> Section | None:
    """Median latency against accuracy; None unless two profiles have both."""
    pairs = _pairs(view)
    if len(pairs) < 2:
        return None
    front = pareto_front(
        [(latency.value or 0.0, accuracy.value or 0.0) for _, latency, accuracy in pairs], falls=view.primary_falls
    )
    points = [
        _point(profile, latency, accuracy, place in front) for place, (profile, latency, accuracy) in enumerate(pairs)
    ]
    times = [point["x"] for point in points]
    spec = charts.scatter(
        points,
        view.profiles,
        "Median latency (ms)",
        metric_title(view.primary),
        logarithmic=min(times) > 0 and max(times) / min(times) > _LOG_SPAN,
    )
    body = tuple(
        (
            Cell(profile, profile=profile),
            short_cell(latency),
            short_cell(accuracy),
            Cell("yes" if place in front else "no"),
        )
        for place, (profile, latency, accuracy) in enumerate(pairs)
    )
    figures = Table(
        ("Profile", "Median latency", metric_title(view.primary), "On the front"), body, "Figures drawn", folded=True
    )
    chart = Chart(
        "Latency against accuracy",
        spec,
        tuple(profile for profile, _, _ in pairs),
        "Bars are intervals. The dashed line is the Pareto front: no other profile is both faster and at least as "
        "accurate.",
        figures,
    )
    names = [profile for place, (profile, _, _) in enumerate(pairs) if place in front]
    return Section(
        "Speed against accuracy",
        f"One inference at a time (batch 1) on this machine. On the Pareto front: {', '.join(names)}.",
        (chart,),
    )


def pareto_front(points: list[tuple[float, float]], falls: bool = False) -> set[int]:
    """The places of the points that none other dominates.

    Args:
        points: (cost, quality); lower cost is better.
        falls: Whether lower quality figures are the better ones.
    """
    signed = [(cost, -quality if falls else quality) for cost, quality in points]

    def beaten(cost: float, quality: float) -> bool:
        return any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in signed)

    return {place for place, (cost, quality) in enumerate(signed) if not beaten(cost, quality)}


def _pairs(view: View) -> list[tuple[str, Row, Row]]:
    found = []
    for profile in view.profiles:
        latency = view.headline(profile, "latency", "p50_ms")
        accuracy = view.row(profile, "accuracy", view.primary)
        if latency is not None and accuracy is not None and _finite(latency) and _finite(accuracy):
            found.append((profile, latency, accuracy))
    return found


def _finite(row: Row) -> bool:
    return row.status == "ok" and row.value is not None and math.isfinite(row.value)


def _point(profile: str, latency: Row, accuracy: Row, front: bool) -> dict[str, Any]:
    point: dict[str, Any] = {
        "profile": profile,
        "front": front,
        "x_text": figure_text(latency),
        "y_text": figure_text(accuracy),
    }
    for axis, row in (("x", latency), ("y", accuracy)):
        point[axis] = row.value
        if (
            row.ci_low is not None
            and row.ci_high is not None
            and math.isfinite(row.ci_low)
            and math.isfinite(row.ci_high)
        ):
            point |= {f"{axis}_low": row.ci_low, f"{axis}_high": row.ci_high}
    return point
