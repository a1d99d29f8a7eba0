"""The worst case: how few chosen bit flips take a build's accuracy away."""

from __future__ import annotations

from collections.abc import Iterator

from hwbench.report.blocks import Cell, Chart, Section, Table, figure_cell
from hwbench.report.curves import curve
from hwbench.report.format import metric_title
from hwbench.report.view import View, settings
from hwbench.table import Row

STUDIES = ("worst_case",)
_STUDY = "worst_case"
# Each search as the condition names it, to what the report calls it and how it chooses.
_SEARCHES = {
    "greedy": ("any stored number", "Round by round, the flip after which the loss is largest, in any stored number."),
    "greedy_weights": ("weights only", "Round by round, the flip after which the loss is largest, in weights only."),
    "data_free": ("without data", "The highest bits of the largest weights of the first layers, without any data."),
    "list": ("from a list", "The flips of a list, in its order."),
}


def section(view: View) -> Section | None:
    """Flips needed, and accuracy against the number of chosen flips, by search."""
    charts = tuple(_charts(view))
    if not charts and not any(row.status == "ok" for row in _found(view)):
        return None
    return Section(
        "Worst case: targeted bit flips",
        "What somebody who may choose the bits can do to the deployed build. Another choice than the search's may need fewer "
        "flips.",
        charts,
        notes=view.uncovered(_STUDY),
        first=(_needed(view),),
    )


def _charts(view: View) -> Iterator[Chart]:
    title = metric_title(view.primary)
    for search, (called, how) in _SEARCHES.items():
        caption = f"{how} Each point keeps the flips before it. Dotted: the reference, no flips."
        heading = f"{title} against targeted flips: {called}"
        chart = curve(view, _STUDY, view.primary, "flips", "Targeted bit flips", heading, caption, search=search)
        if chart is not None:
            yield chart


def _needed(view: View) -> Table:
    body = tuple(
        (
            Cell(row.profile, profile=row.profile),
            Cell(_SEARCHES.get(str(settings(row.condition).get("search")), ("",))[0]),
            figure_cell(row, detail=False),
            Cell(row.detail),
        )
        for row in _found(view)
    )
    return Table(("Profile", "Flips in", "Flips needed", "What that means"), body, "Flips needed", numeric=False)


def _found(view: View) -> Iterator[Row]:
    """What each search came to, or why there was none."""
    for profile in view.profiles:
        rows = [row for row in view.of(profile, _STUDY) if row.metric == "flips_needed"]
        yield from [row for row in rows if row.condition != "{}"] or rows
