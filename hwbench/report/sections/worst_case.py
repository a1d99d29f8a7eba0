"""The worst case: how few chosen bit flips take a build's accuracy away."""

from __future__ import annotations

from hwbench.report.blocks import Cell, Section, Table, figure_cell
from hwbench.report.curves import curve
from hwbench.report.format import metric_title
from hwbench.report.view import View

STUDIES = ("worst_case",)
_STUDY = "worst_case"


def section(view: View) -> Section | None:
    """Flips needed, and accuracy against the number of targeted flips."""
    title = metric_title(view.primary)
    chart = curve(
        view,
        _STUDY,
        view.primary,
        "flips",
        "Targeted bit flips",
        f"{title} against targeted flips",
        "Each point keeps the flips before it and adds the next ones found. Dotted: the reference, no flips.",
    )
    needed = {profile: view.row(profile, _STUDY, "flips_needed") for profile in view.profiles}
    if chart is None and not any(row.status == "ok" for row in needed.values() if row):
        return None
    body = tuple(
        (Cell(profile, profile=profile), figure_cell(view.headline(profile, _STUDY, "flips_needed"), detail=False),
         Cell(row.detail if (row := view.headline(profile, _STUDY, "flips_needed")) else ""))
        for profile in view.profiles if view.of(profile, _STUDY)
    )  # fmt: skip
    return Section(
        "Worst case: targeted bit flips",
        "What somebody who may choose the bits can do to the deployed build. Another choice than the search's may need fewer "
        "flips.",
        (chart,) if chart else (),
        first=(Table(("Profile", "Flips needed", "What that means"), body, "Flips needed", numeric=False),),
    )
