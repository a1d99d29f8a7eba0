"""What a section of a report is made of: cells, tables, charts. HTML and Markdown render the same blocks."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from hwbench.report.format import exact, figure_text, interval_text, value_text
from hwbench.table import Row

Tone = Literal["", "pass", "fail", "inconclusive", "unavailable", "error", "muted", "strong"]

MARKS = {"pass": "✓", "fail": "✗", "inconclusive": "?", "unavailable": "–", "error": "!"}


@dataclass(frozen=True)
class Cell:
    """One cell of a table.

    Attributes:
        text: What it says.
        notes: Smaller lines under it.
        tone: How it is meant; outcomes get their mark in front, so that colour never stands alone.
        profile: The profile it names, so that it gets that profile's swatch.
    """

    text: str
    notes: tuple[str, ...] = ()
    tone: Tone = ""
    profile: str = ""

    @property
    def mark(self) -> str:
        """The sign of its tone; empty if it has none."""
        return MARKS.get(self.tone, "")


@dataclass(frozen=True)
class Table:
    """A table: the first column names the row.

    Attributes:
        columns: The headings.
        rows: One tuple of cells per row, as long as ``columns``.
        title: What it shows; empty if the section says so already.
        numeric: Whether all columns but the first hold figures.
        folded: Whether HTML folds it away until asked.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Cell, ...], ...]
    title: str = ""
    numeric: bool = True
    folded: bool = False


@dataclass(frozen=True)
class Key:
    """An entry of a chart's own legend, beside that of the profiles.

    Attributes:
        text: What it stands for.
        shade: The colour of an area, as CSS; empty for a line.
        dash: The dashes and gaps of a line.
    """

    text: str
    shade: str = ""
    dash: tuple[int, ...] = ()


@dataclass(frozen=True)
class Chart:
    """A chart with the figures it draws.

    Attributes:
        title: What it shows, as a heading.
        spec: Vega-Lite, as a JSON object.
        profiles: The profiles drawn, for the legend.
        caption: How to read it.
        figures: The figures drawn, for readers of paper, Markdown and screen readers.
        keys: What shades or dashes stand for.
    """

    title: str
    spec: dict[str, Any]
    profiles: tuple[str, ...]
    caption: str
    figures: Table
    keys: tuple[Key, ...] = ()


@dataclass(frozen=True)
class Section:
    """One section of a report.

    Attributes:
        title: Its heading.
        intro: What was done, in a sentence or two.
        charts: The charts.
        tables: The tables under the charts.
        notes: What remains to be said, under the tables.
        first: Tables above the charts: the figures that the section is read for.
    """

    title: str
    intro: str
    charts: tuple[Chart, ...] = ()
    tables: tuple[Table, ...] = ()
    notes: tuple[str, ...] = field(default=())
    first: tuple[Table, ...] = ()


def figure_cell(row: Row | None, detail: bool = True) -> Cell:
    """A figure: its value, under it the interval and n, and what the row adds; or the reason there is none."""
    if row is None:
        return Cell("not measured", tone="muted")
    if row.status != "ok":
        tone: Tone = "unavailable" if row.status in {"unavailable", "skipped"} else "error"
        return Cell(row.status, (row.detail,) if detail and row.detail else (), tone)
    notes = (interval_text(row.ci_low, row.ci_high, row.value), count_text(row), row.detail if detail else "")
    return Cell(value_text(row), tuple(note for note in notes if note))


def count_text(row: Row) -> str:
    """How many observations stand behind a figure; empty if the row does not say."""
    return "" if row.n is None else f"n\u00a0{exact(row.n)}"


def short_cell(row: Row | None) -> Cell:
    """A figure on one line."""
    if row is None:
        return Cell("", tone="muted")
    return Cell(figure_text(row), tone="" if row.status == "ok" else "muted")
