"""Least memory: the smallest cap under which a build runs, what it is made of, and what is lost close to it."""

from __future__ import annotations

from hwbench.report.blocks import Cell, Section, Table, figure_cell
from hwbench.report.format import metric_title
from hwbench.report.view import View, settings
from hwbench.table import condition

STUDIES = ("least_memory",)
_STUDY = "least_memory"
_NEEDS = {
    "Least memory": "{}",
    "Anonymous": condition(kind="anonymous"),
    "File-backed": condition(kind="file"),
    "To load": condition(phase="load"),
    "To run": condition(phase="run"),
}


def section(view: View) -> Section | None:
    """One line a profile for what it needs; one line a cap for what it is worth there."""
    profiles = [profile for profile in view.profiles if view.of(profile, _STUDY)]
    if not profiles:
        return None
    needs = tuple(
        (
            Cell(profile, profile=profile),
            *(figure_cell(view.row(profile, _STUDY, "least_mib", one)) for one in _NEEDS.values()),
        )
        for profile in profiles
    )
    metrics = (view.primary, "p50_ms", "p99_ms")
    points = dict.fromkeys(
        (row.profile, row.condition) for row in view.rows if row.study == _STUDY and row.metric in metrics
    )
    body = tuple(
        (
            Cell(profile, (f"{settings(point)['cap_mib']} MiB",) if point != "{}" else ("no cap",), profile=profile),
            *(figure_cell(view.row(profile, _STUDY, metric, point)) for metric in metrics),
        )
        for profile, point in points
        if profile in profiles
    )
    tables = [Table(("Profile", *_NEEDS), needs)]
    if body:
        columns = ("Profile and cap", *(metric_title(metric) for metric in metrics))
        tables.append(Table(columns, body, "Accuracy and latency under enforced caps"))
    return Section(
        "Least memory",
        "The smallest enforced cap, in steps of 2 MiB, under which every trial ran: a fresh worker with none of its files in "
        "memory, the interpreter and the runtime counted. Loading is what it takes to get to a session; running is what a "
        "session that was loaded without a cap needs. A trial that thrashes, slower than the study's limit, has failed.",
        (),
        tuple(tables),
    )
