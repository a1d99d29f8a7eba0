"""The trade-off between latency and accuracy, with the profiles on the Pareto front."""

from __future__ import annotations

import math
from typing import Any

from hwbench.report import charts
from hwbench.report.blocks import Cell, Chart, Section, Table, short_cell
from hwbench.report.format import figure_text, metric_title
from hwbench.report.ranking import bounds, latencies, pareto_front
from hwbench.report.view import View
from hwbench.table import Row

STUDIES = ("accuracy", "latency", "throughput", "fidelity")
_LOG_SPAN = 20.0


def section(view: View) -> Section | None:
    """Median latency against accuracy; None unless two profiles have both."""
    pairs = _pairs(view)
    if len(pairs) < 2:
        return None
    costs = latencies(view, [profile for profile, _, _ in pairs])
    front = pareto_front(
        {profile: (bounds(costs[profile]), accuracy.value or 0.0) for profile, _, accuracy in pairs},
        falls=view.primary_falls,
    )
    points = [_point(profile, latency, accuracy, profile in front) for profile, latency, accuracy in pairs]
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
            Cell("yes" if profile in front else "no"),
        )
        for profile, latency, accuracy in pairs
    )
    figures = Table(
        ("Profile", "Median latency", metric_title(view.primary), "On the front"), body, "Figures drawn", folded=True
    )
    chart = Chart(
        "Latency against accuracy",
        spec,
        tuple(profile for profile, _, _ in pairs),
        "Bars are intervals. The dashed line is the Pareto front: no other profile is at least as accurate and faster with "
        "disjoint intervals.",
        figures,
    )
    names = [profile for profile, _, _ in pairs if profile in front]
    return Section(
        "Speed against accuracy",
        f"One inference at a time (batch 1) on this machine. On the Pareto front: {', '.join(names)}.",
        (chart,),
    )


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
