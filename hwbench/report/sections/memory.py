"""Memory: the peak of the process tree, the model's size, and the runs under a cap."""

from __future__ import annotations

from typing import Any

from hwbench.report import charts
from hwbench.report.blocks import Cell, Chart, Section, Table, figure_cell, short_cell
from hwbench.report.format import figure_text
from hwbench.report.view import View, settings
from hwbench.table import Row, condition

STUDIES = ("memory",)
ANONYMOUS, FILE = condition(kind="anonymous"), condition(kind="file")
_MIB = float(1 << 20)


def section(view: View) -> Section | None:
    """Peak memory and model size, as bars."""
    peaks = [
        row
        for profile in view.profiles
        if (row := view.row(profile, "memory", "peak_mib")) is not None and _measured(row)
    ]
    sizes = [
        row
        for profile in view.profiles
        if (row := view.row(profile, "memory", "model_bytes")) is not None and _measured(row)
    ]
    drawn = [chart for chart in (_peak_chart(view, peaks), _size_chart(view, sizes)) if chart]
    capped = _capped(view)
    if not drawn and not capped.rows:
        return None
    return Section(
        "Memory",
        "The peak of the whole process tree, runtime included. Anonymous memory is what the process must have; "
        "file-backed memory (libraries, the mapped model) can be read again from disk.",
        tuple(drawn),
        (capped,) if capped.rows else (),
    )


def _measured(row: Row) -> bool:
    return row.status == "ok" and row.value is not None


def _peak_chart(view: View, rows: list[Row]) -> Chart | None:
    if not rows:
        return None
    points: list[dict[str, Any]] = []
    for row in rows:
        anonymous = view.row(row.profile, "memory", "peak_mib", ANONYMOUS)
        point = charts.point(row, more="")
        if anonymous is not None and _measured(anonymous):
            point |= {"part": anonymous.value, "more": f"{figure_text(anonymous)} anonymous"}
        cap = _number(view.about(row.profile).get("target"), "memory_mib")
        points.append(point | ({"cap": cap} if cap else {}))
    body = tuple(
        (
            Cell(row.profile, profile=row.profile),
            short_cell(row),
            *(short_cell(view.row(row.profile, "memory", "peak_mib", kind)) for kind in (ANONYMOUS, FILE)),
        )
        for row in rows
    )
    return Chart(
        "Peak memory",
        charts.bars(points, view.profiles, "MiB"),
        (),
        "Whole bar: the peak. Solid part: anonymous memory. Tick: the profile's cap.",
        Table(("Profile", "Peak", "Anonymous", "File-backed"), body, "Figures drawn", folded=True),
    )


def _size_chart(view: View, rows: list[Row]) -> Chart | None:
    if not rows:
        return None
    points = [charts.point(row, more="") | {"value": (row.value or 0.0) / _MIB} for row in rows]
    body = tuple((Cell(row.profile, profile=row.profile), short_cell(row)) for row in rows)
    return Chart(
        "Model size on disk",
        charts.bars([point | {"part": point["value"]} for point in points], view.profiles, "MiB"),
        (),
        "The deployed build's file.",
        Table(("Profile", "Size"), body, "Figures drawn", folded=True),
    )


def _capped(view: View) -> Table:
    rows = [
        row
        for row in view.rows
        if row.study == "memory" and row.profile in view.profiles and "cap_mib" in settings(row.condition)
    ]
    body = tuple(
        (Cell(row.profile, profile=row.profile), Cell(f"{settings(row.condition)['cap_mib']} MiB"), figure_cell(row))
        for row in rows
    )
    return Table(("Profile", "Cap", "Peak under the cap"), body, "Runs under an enforced memory cap")


def _number(content: object, key: str) -> float | None:
    value = content.get(key) if isinstance(content, dict) else None
    return float(value) if isinstance(value, int | float) else None
