"""Scaling: speed and answers over numbers of threads and over processor quotas."""

from __future__ import annotations

from hwbench.report.blocks import Cell, Section, Table, figure_cell
from hwbench.report.curves import curve
from hwbench.report.format import metric_title, words
from hwbench.report.view import View, settings

STUDIES = ("scaling",)
_STUDY = "scaling"
_COLUMNS = ("samples_per_s", "scaling_efficiency", "p50_ms", "p99_ms", "max_abs_error")


def section(view: View) -> Section | None:
    """Throughput over threads and quotas; at each point also latency, efficiency and how far the answers moved."""
    charts = [
        chart
        for key, axis, caption in (
            ("threads", "Threads", "Samples per second at the graph's batch, one run after the other."),
            (
                "cpu_quota",
                "Processor quota (cores)",
                "Enforced on the whole process tree; a run that uses it up is stopped.",
            ),
        )
        if (
            chart := curve(
                view, _STUDY, "samples_per_s", key, axis, f"Throughput over {words({key: ''}).strip()}", caption
            )
        )
    ]
    points = dict.fromkeys(
        (row.profile, row.condition) for row in view.rows if row.study == _STUDY and row.profile in view.profiles
    )
    if not points:
        return None
    metrics = (*_COLUMNS, view.primary)
    body = tuple(
        (
            Cell(profile, (words(settings(point)),) if point != "{}" else (), profile=profile),
            *(figure_cell(view.row(profile, _STUDY, metric, point), detail=metric != "p50_ms") for metric in metrics),
        )
        for profile, point in points
    )
    return Section(
        "Scaling: threads and processor time",
        "Speed with fewer threads or less processor time. Efficiency is the speed-up over the first point as a share of the "
        "threads added. Answers are compared with those of the first point.",
        tuple(charts),
        (
            Table(
                ("Profile and point", *(metric_title(metric) for metric in metrics)), body, "Every point", folded=True
            ),
        ),
    )
