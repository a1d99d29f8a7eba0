"""Sustained load: throughput over minutes, and what held the machine back."""

from __future__ import annotations

from hwbench.report.blocks import Cell, Section, Table, figure_cell
from hwbench.report.curves import curve
from hwbench.report.view import View

STUDIES = ("sustained",)
_STUDY = "sustained"


def section(view: View) -> Section | None:
    """The last window's throughput as a share of the first's, and throughput, frequency and temperature over time."""
    shares = [(profile, row) for profile in view.profiles if (row := view.headline(profile, _STUDY, "sustained_ratio"))]
    if not shares:
        return None
    axis = "Seconds under load"
    charts = [
        curve(
            view,
            _STUDY,
            metric,
            "second",
            axis,
            title,
            "Windows in which other processes used the machine are left out.",
        )
        for metric, title in (
            ("samples_per_s", "Throughput over time"),
            ("frequency_mhz", "Processor frequency over time"),
            ("temperature_c", "Hottest sensor over time"),
            ("gpu_frequency_mhz", "GPU frequency over time"),
            ("gpu_temperature_c", "GPU temperature over time"),
        )
    ]
    body = tuple(
        (Cell(profile, profile=profile), figure_cell(row, detail=False), Cell(row.detail)) for profile, row in shares
    )
    return Section(
        "Sustained load",
        "Runs one after the other without pause: the last window's throughput as a share of the first's.",
        tuple(chart for chart in charts if chart),
        first=(Table(("Profile", "Kept", "Why"), body, "What is kept of the throughput", numeric=False),),
    )
