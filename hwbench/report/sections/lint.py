"""Static warnings: findings per kind of machine, and what cures them."""

from __future__ import annotations

from hwbench.report.blocks import Cell, Section, Table
from hwbench.report.format import metric_title, value_text
from hwbench.report.view import View, settings

STUDIES = ("lint",)
_STUDY, _COUNT = "lint", "findings"
_LISTED = 200


def section(view: View) -> Section | None:
    """How many findings each build has for each kind of machine, and each finding."""
    counts = {
        (row.profile, str(settings(row.condition).get("isa"))): row
        for row in view.rows
        if row.study == _STUDY and row.metric == _COUNT and row.status == "ok" and row.profile in view.profiles
    }
    machines = tuple(dict.fromkeys(isa for _, isa in counts))
    measured = [name for name in view.profiles if any(profile == name for profile, _ in counts)]
    if not any(row.value for row in counts.values()):
        return None
    body = tuple(
        (
            Cell(name, profile=name),
            *(
                Cell(
                    value_text(row),
                    (row.detail.replace("_", " "),) if row.detail else (),
                    "strong" if row.value else "muted",
                )
                if (row := counts.get((name, isa))) is not None
                else Cell("", tone="muted")
                for isa in machines
            ),
        )
        for name in measured
    )
    found = [
        row
        for row in view.rows
        if row.study == _STUDY and row.status == "ok" and row.metric != _COUNT and row.profile in view.profiles
    ]
    lines = tuple(
        (
            Cell(row.profile, profile=row.profile),
            Cell(str(settings(row.condition).get("isa", ""))),
            Cell(str(settings(row.condition).get("layer", "whole file"))),
            Cell(metric_title(row.metric)),
            Cell(row.detail),
        )
        for row in found[:_LISTED]
    )
    more = (f"{len(found) - _LISTED} further findings are in measurements.parquet.",) if len(found) > _LISTED else ()
    return Section(
        "Static warnings",
        "Read off the deployed graph, nothing run: what other processors, or TensorRT, would compute differently, slowly or "
        "not at all. Findings under \"any\" hold wherever the build runs.",
        tables=(
            Table(("Profile", *machines), body, "Findings by kind of machine"),
            Table(("Profile", "Machine", "Layer", "Finding", "Why, and what cures it"), lines, "Every finding", numeric=False,
                  folded=True),
        ),
        notes=more,
    )  # fmt: skip
