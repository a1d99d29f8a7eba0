"""Studies that no section knows: their rows as they stand."""

from __future__ import annotations

from collections.abc import Sequence

from hwbench.report.blocks import Cell, Section, Table, short_cell
from hwbench.report.format import metric_title, study_title, words
from hwbench.report.view import View, settings

LISTED = 200


def sections(view: View, known: Sequence[str]) -> list[Section]:
    """One section for each study of the table that is not among ``known``."""
    return [_section(view, study) for study in view.studies if study not in known]


def _section(view: View, study: str) -> Section:
    rows = [row for row in view.rows if row.study == study]
    body = tuple(
        (
            Cell(row.profile, profile=row.profile),
            Cell(metric_title(row.metric)),
            Cell(words(settings(row.condition))),
            short_cell(row),
            Cell(row.detail),
        )
        for row in rows[:LISTED]
    )
    note = (f"{len(rows) - LISTED} further rows are in measurements.parquet.",) if len(rows) > LISTED else ()
    table = Table(("Profile", "Metric", "Condition", "Figure", "Note"), body, numeric=False)
    return Section(study_title(study), "The figures of this study.", tables=(table,), notes=note)
