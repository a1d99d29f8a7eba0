"""Asked versus ran: whether each build ran where, and as, its profile asked."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwbench.report.blocks import Cell, Section, Table, figure_cell
from hwbench.report.view import View, settings
from hwbench.table import Row

STUDIES = ("coverage",)
LISTED = 100
_INT8_FLAGS = {"dynamic": "dynamic", "per_channel": "per channel", "reduce_range": "reduced range"}


def section(view: View) -> Section | None:
    """What every profile asked for, what ran, and each node that deviates."""
    about = [
        profile
        for profile in view.profiles
        if view.about(profile).get("asked") or view.headline(profile, "coverage", "nodes_as_asked")
    ]
    if not about:
        return None
    asked = Table(
        ("Profile", "Asked", "Ran", "Nodes as asked"), tuple(_row(view, profile) for profile in about), numeric=False,
    )  # fmt: skip
    astray = deviations(view)
    body = tuple(
        (
            Cell(row.profile, profile=row.profile),
            Cell(str(settings(row.condition).get("node", ""))),
            Cell(row.detail or row.status),
        )
        for row in astray[:LISTED]
    )
    note = (f"{len(astray) - LISTED} further nodes are in measurements.parquet.",) if len(astray) > LISTED else ()
    return Section(
        "Asked versus ran",
        "A runtime may quietly place a node elsewhere or compute it in another precision. Each node is compared "
        "with what the profile asked for.",
        tables=(
            asked,
            *(
                (
                    Table(
                        ("Profile", "Node", "Asked, and what ran instead"),
                        body,
                        "Nodes that ran otherwise than asked",
                        numeric=False,
                    ),
                )
                if body
                else ()
            ),
        ),
        notes=note,
    )


def deviations(view: View, profile: str | None = None) -> list[Row]:
    """The rows of the nodes that ran otherwise than asked."""
    return [
        row
        for row in view.rows
        if row.study == "coverage" and "node" in settings(row.condition) and row.value != 1.0
        and row.profile in ((profile,) if profile else view.profiles)
    ]  # fmt: skip


def asked_text(asked: Mapping[str, Any]) -> str:
    """What a profile asked for, in one line, e.g. ``"int8 (u8 × s8, per channel) on cpu"``."""
    form = str(asked.get("format", ""))
    types = " × ".join(str(asked[key]) for key in ("activations", "weights") if asked.get(key))
    flags = tuple(name for key, name in _INT8_FLAGS.items() if asked.get(key))
    extras = (
        (types, *flags)
        if form == "int8"
        else (f"blocks of {asked['block_size']}",)
        if form == "int4" and asked.get("block_size")
        else ()
    )
    shown = ", ".join(part for part in extras if part)
    text = f"{form} ({shown})" if shown else form
    computes_in = asked.get("computes_in")
    if computes_in and form.startswith("fp") and computes_in != form:
        text = f"{text} computed in {computes_in}"
    options = asked.get("options")
    given = options if isinstance(options, Mapping) else {}
    device = asked.get("device") or given.get("provider") or given.get("device")
    return f"{text} on {device}" if device else text


def ran_text(ran: Mapping[str, Any]) -> str:
    """What ran, in one line, e.g. ``"12 nodes int8, 3 fp32 on CPU"``."""
    counts = ran.get("precision")
    parts = [f"{count} {name or 'unstated'}" for name, count in counts.items()] if isinstance(counts, Mapping) else []
    text = "nodes: " + ", ".join(parts) if parts else ""
    return f"{text} on {ran['device']}".strip() if ran.get("device") else text


def _row(view: View, profile: str) -> tuple[Cell, ...]:
    about = view.about(profile)
    asked, ran = about.get("asked"), about.get("ran")
    row = view.headline(profile, "coverage", "nodes_as_asked")
    cell = figure_cell(row)
    if row is not None and row.status == "ok" and row.value is not None:
        cell = Cell(
            "all" if row.value == 1.0 else f"{100 * row.value:.3g} %",
            cell.notes,
            "pass" if row.value == 1.0 else "fail",
        )
    return (
        Cell(profile, profile=profile),
        Cell(asked_text(asked) if isinstance(asked, Mapping) else "", tone="" if asked else "muted"),
        Cell(ran_text(ran) if isinstance(ran, Mapping) and ran else "did not run", tone="" if ran else "muted"),
        cell,
    )
