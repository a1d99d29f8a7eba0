"""Fidelity of every output's parts: groups of slices whose ranges differ, worst first, and their distinct values."""

from __future__ import annotations

import math

from hwbench.report.blocks import Cell, Section, Table, short_cell
from hwbench.report.format import exact, value_text
from hwbench.report.view import View, settings
from hwbench.table import Row

STUDIES = ("fidelity",)
_STUDY = "fidelity"
_RATIOS = ("slice_sqnr_db", "value_agreement")
_LISTED = 12


def section(view: View) -> Section | None:
    """Each profile's parts, worst first; None if all outputs have one range and the data have labels."""
    parts = {profile: _parts(view, profile) for profile in view.profiles}
    several = any(sum(_is_whole(view, row) for row in rows) > 1 for rows in parts.values())
    if not any(parts.values()) or not (view.is_unlabeled or several):
        return None
    body = tuple(_line(view, row) for rows in parts.values() for row in rows[:_LISTED])
    left_out = sum(max(0, len(rows) - _LISTED) for rows in parts.values())
    return Section(
        "Fidelity of the output's parts",
        "Slices along the axis where the reference's ranges differ most, grouped by range, against the reference. A scale "
        "shared with larger numbers leaves a part few distinct values, which the SQNR over the whole output does not show.",
        tables=(
            Table(
                ("Profile", "Output", "Slices", "SQNR", "Largest error", "Distinct values", "Reference's", "Note"),
                body,
                "Parts of the outputs, worst first",
                numeric=False,
            ),
        ),
        notes=(f"{left_out} further parts are in measurements.parquet.",) if left_out else (),
    )


def _parts(view: View, profile: str) -> list[Row]:
    """The rows of a profile's parts, the judged ones first, the worst of each first."""
    rows = [row for row in view.of(profile, _STUDY) if row.metric in _RATIOS and "output" in settings(row.condition)]
    return sorted(rows, key=lambda row: (not _is_whole(view, row), _order(row)))


def _is_whole(view: View, row: Row) -> bool:
    """False for a single slice of a part, which is not judged by itself."""
    return row.metric != _RATIOS[0] or _beside(view, row, "distinct_values") is not None


def _order(row: Row) -> float:
    return math.inf if row.value is None else row.value


def _line(view: View, row: Row) -> tuple[Cell, ...]:
    where = settings(row.condition)
    slices = f"{where['slice']} of axis {where['axis']}" if "slice" in where else "all"
    return (
        Cell(row.profile, profile=row.profile),
        Cell(str(where["output"])),
        Cell(slices),
        short_cell(row),
        _number(_beside(view, row, "max_abs_error")),
        _number(_beside(view, row, "distinct_values")),
        _number(_beside(view, row, "reference_distinct_values")),
        Cell(row.detail),
    )


def _beside(view: View, row: Row, metric: str) -> Row | None:
    """Another figure of the same part."""
    return view.row(row.profile, _STUDY, metric, row.condition)


def _number(row: Row | None) -> Cell:
    if row is None or row.value is None:
        return Cell("", tone="muted")
    return Cell(f"≥ {exact(row.value)}" if row.detail and row.unit == "count" else value_text(row))
