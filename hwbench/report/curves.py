"""Curves: a metric over a numeric condition, one line per profile, with the figures as a table."""

from __future__ import annotations

from typing import Any

from hwbench.report import charts
from hwbench.report.blocks import Cell, Chart, Table, short_cell
from hwbench.report.format import exact, metric_title
from hwbench.report.view import REFERENCE, View, drawn
from hwbench.table import Row

_LOG_SPAN = 50.0  # settings further apart than this factor are drawn on a logarithmic axis


def curve(
    view: View, study: str, metric: str, key: str, axis: str, title: str, caption: str, **fixed: Any
) -> Chart | None:
    """A metric over a numeric condition; None if nothing was measured.

    Args:
        view: The run.
        study: The study that measured it.
        metric: The metric.
        key: The condition's key, e.g. ``"ber"``.
        axis: The horizontal axis's title.
        title: The chart's heading.
        caption: How to read it.
        fixed: What else the condition holds, with these values.
    """
    found = [(setting, row) for setting, row in view.sweep(study, metric, key, **fixed) if row.profile in view.profiles]
    if not found:
        return None
    positive = [setting for setting, _ in found if setting > 0]
    logarithmic = (
        bool(positive) and min(setting for setting, _ in found) >= 0 and max(positive) / min(positive) >= _LOG_SPAN
    )
    points = [charts.point(row, x=setting) for setting, row in found if setting > 0 or not logarithmic]
    whole = all(setting.is_integer() for setting, _ in found)
    across = charts.log_x(axis, positive) if logarithmic else charts.linear_x(axis, whole)
    spec = charts.lines(points, view.profiles, across, metric_title(metric), without_faults(view, metric))
    profiles = drawn((row for _, row in found), view)
    return Chart(title, spec, profiles, caption, _figures(found, profiles, axis))


def _figures(found: list[tuple[float, Row]], profiles: tuple[str, ...], axis: str) -> Table:
    by_place = {(setting, row.profile): row for setting, row in found}
    at = sorted({setting for setting, _ in found})
    body = tuple(
        (Cell(exact(setting)), *(short_cell(by_place.get((setting, name))) for name in profiles)) for setting in at
    )
    return Table((axis, *profiles), body, "Figures drawn", folded=True)


def without_faults(view: View, metric: str) -> float | None:
    """The reference's figure under no condition, to compare the curves with."""
    row = view.row(REFERENCE, "accuracy", metric)
    return row.value if row is not None and row.status == "ok" else None
