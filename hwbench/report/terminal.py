"""The report for a terminal: verdicts and profiles side by side, within 100 columns."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import polars as pl
from rich import box
from rich.table import Table
from rich.text import Text

from hwbench.report.blocks import Cell
from hwbench.report.format import exact, figure_text, metric_title, plain, value_text
from hwbench.report.ranking import bounds, is_open
from hwbench.report.summary import conclusion, limit_text, rule_title, verdict_figure, worst_part
from hwbench.report.view import REFERENCE, View
from hwbench.table import Row
from hwbench.verdict import Verdict

WIDTH = 100
_STYLES = {
    "pass": "green",
    "fail": "bold red",
    "error": "bold red",
    "inconclusive": "yellow",
    "unavailable": "dim",
    "muted": "dim",
}
_COLUMNS = (
    ("p50 ms", "latency", "p50_ms"),
    ("Ratio", "latency", "p50_ratio"),
    ("Best /s", "throughput", "samples_per_s"),
    ("Peak MiB", "memory", "peak_mib"),
    ("BER ok", "bit_flips", "tolerated_ber"),
    ("SQNR", "fidelity", "sqnr_db"),
    ("SDC rate", "faults", "sdc_rate"),
    ("DUE rate", "faults", "due_rate"),
)
_AGREEMENT = (
    ("SQNR", "fidelity", "sqnr_db"),
    ("Worst slice", "fidelity", "worst_slice_sqnr_db"),
    ("Agreement", "fidelity", "top1_agreement"),
)
_SHOWN = 6  # of the columns that were measured; more do not fit


def verdict_table(run: Mapping[str, Any], table: pl.DataFrame, verdicts: Sequence[Verdict]) -> Table:
    """One line per profile and rule; arguments as in `hwbench.report.html.write_html`."""
    view = View(run, table, verdicts)
    shown = Table(
        title=Text(plain(conclusion(view))), title_justify="left", box=box.SIMPLE_HEAD, width=WIDTH, pad_edge=False
    )
    shown.add_column("Profile", ratio=3, overflow="fold")
    shown.add_column("Verdict", width=14, no_wrap=True)
    shown.add_column("Rule", ratio=2, overflow="fold")
    shown.add_column("Figure", ratio=4, min_width=26, overflow="fold")
    shown.add_column("Limit", width=11, justify="right")
    for profile in view.profiles:
        for line in _verdict_lines(view, profile):
            shown.add_row(*line)
        shown.add_section()
    return shown


def comparison_table(run: Mapping[str, Any], table: pl.DataFrame, verdicts: Sequence[Verdict]) -> Table:
    """The profiles side by side, intervals for accuracy only; arguments as in `hwbench.report.html.write_html`."""
    view = View(run, table, verdicts)
    measured = {(row.study, row.metric) for row in view.rows if row.status == "ok"}
    has_accuracy = ("accuracy", view.primary) in measured
    wanted = _COLUMNS if has_accuracy else dict.fromkeys((*_AGREEMENT, *_COLUMNS))
    columns = [column for column in wanted if column[1:] in measured][:_SHOWN]
    shown = Table(box=box.SIMPLE_HEAD, width=WIDTH, pad_edge=False, padding=(0, 1, 0, 0))
    shown.add_column("Profile", ratio=1, min_width=12, overflow="fold")
    if has_accuracy:
        shown.add_column(plain(metric_title(view.primary)), justify="right", no_wrap=True)
    for title, _, _ in columns:
        shown.add_column(title, justify="right", no_wrap=True)
    for profile in (REFERENCE, *view.profiles):
        accuracy = view.headline(profile, "accuracy", view.primary)
        if profile == REFERENCE and (accuracy is None or not has_accuracy):
            continue
        figures = [
            _ratio(view, profile) if metric == "p50_ratio" else _value(view.headline(profile, study, metric))
            for _, study, metric in columns
        ]
        leading = [_value(accuracy, interval=True)] if has_accuracy else []
        shown.add_row(Text(plain(profile)), *leading, *figures)
    return shown


def _verdict_lines(view: View, profile: str) -> list[tuple[Text, ...]]:
    outcome, rules = view.outcome(profile), view.rules(profile)
    name, blank = Text(plain(profile)), Text("")
    if outcome in {"unavailable", "error", "no rules"} and all(verdict.outcome == "unavailable" for verdict in rules):
        tone = "muted" if outcome == "no rules" else outcome
        return [(name, _marked(Cell(outcome, tone=tone)), blank, Text(plain(view.reason(profile))), blank)]
    return [
        (
            name if place == 0 else blank,
            _marked(Cell(verdict.outcome, tone=verdict.outcome)),
            Text(plain(rule_title(verdict.rule))),
            Text(plain(_verdict_text(verdict))),
            Text(limit_text(verdict)),
        )
        for place, verdict in enumerate(rules)
    ]


def _verdict_text(verdict: Verdict) -> str:
    """The figure, and the part of the output that it is of; the reason where there is no figure."""
    figure = " ".join(verdict_figure(verdict))
    return f"{figure}, {part}" if figure and (part := worst_part(verdict)) else figure or verdict.detail


def _marked(cell: Cell) -> Text:
    return Text(f"{cell.mark} {cell.text}".strip(), style=_STYLES.get(cell.tone, ""))


def _value(row: Row | None, interval: bool = False) -> Text:
    if row is None or row.status in {"unavailable", "skipped"}:
        return Text("–", style="dim")
    if row.status != "ok":
        return Text(row.status, style="red")
    if row.metric == "tolerated_ber" and row.ci_low != row.ci_high:  # not decided in between
        return Text(plain(f"{exact(row.ci_low or 0.0)}–{exact(row.ci_high or 0.0)}"))
    return Text(plain(figure_text(row) if interval else value_text(replace(row, unit="", ci_low=None))))


def _ratio(view: View, profile: str) -> Text:
    """A profile's latency over the baseline's, with the larger half of its interval as a share; "noisy" where that is open."""
    row = view.headline(profile, "latency", "p50_ratio")
    if row is None and view.run.get("baseline") == profile:
        return Text("1")
    if row is None or row.metric != "p50_ratio" or row.status != "ok" or row.value is None:
        return Text("–", style="dim")
    if is_open(row):
        return Text("noisy", style="yellow")
    low, high = bounds(row)
    return Text(f"{row.value:.2f} ±{100 * max(high / row.value - 1, 1 - low / row.value):.0f}%")
