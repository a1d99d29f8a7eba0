"""report.md: the same report as GitHub Markdown, its charts as tables."""

from __future__ import annotations

import html
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from hwbench.report import about, summary
from hwbench.report.blocks import Cell, Section, Table
from hwbench.report.details import ProfileDetail, details
from hwbench.report.format import plain
from hwbench.report.sections import sections
from hwbench.report.view import View
from hwbench.verdict import Verdict

# Brackets only make a link where "(", "[" or ":" follows; intervals are left readable. Besides Markdown's own signs:
# < > & (HTML), @ (mentions somebody), :// and www. (become links).
_SIGNS = re.compile(r"[\\`*_#|~$]|\](?=[(\[:])|!(?=\[)")
_HTML = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "@": "&#64;"}


def write_markdown(run: Mapping[str, Any], table: pl.DataFrame, verdicts: Sequence[Verdict], path: Path) -> Path:
    """Write the report as GitHub Markdown; arguments as in `hwbench.report.html.write_html`."""
    path.write_text(render_markdown(View(run, table, verdicts)), encoding="utf-8")
    return path


def render_markdown(view: View) -> str:
    """The report's text."""
    parts = [
        f"# {escape(view.model_name)}: hardware compatibility",
        f"**{summary.conclusion(view)}**",
        "; ".join(f"{what}: {escape(profile)} ({figure})" for what, profile, figure in summary.best(view)),
        escape(summary.notice(view)),
        "## Verdicts",
        _table(summary.verdict_matrix(view)),
        "## Profiles side by side",
        _table(summary.comparison(view)),
        *(block for section in sections(view) for block in _section(section)),
        "## Profiles in detail",
        *(block for detail in details(view) for block in _detail(detail)),
        "## Method and machine",
        *(f"- **{escape(study)}.** {escape(text)}" for study, text in about.methods(view)),
    ]
    for title, pairs in (
        ("Model", about.model_facts(view)),
        ("Data", about.data_facts(view)),
        ("Machine and run", about.host_facts(view)),
    ):
        parts += [f"### {title}", _facts(pairs)] if pairs else []
    versions = about.versions(view)
    parts += (
        [
            "### Package versions",
            ", ".join(f"{escape(name.text)} {escape(version.text)}" for name, version in versions.rows),
        ]
        if versions.rows
        else []
    )
    return _joined(parts)


def escape(text: str) -> str:
    """Text that Markdown shows as it is, on one line."""
    flat = " ".join(plain(text).split())
    safe = _SIGNS.sub(r"\\\g<0>", flat)
    safe = "".join(_HTML.get(sign, sign) for sign in safe)
    return safe.replace("://", "&#58;//").replace("www.", "www&#46;")


def _joined(parts: Iterable[str]) -> str:
    text = ""
    for part in filter(None, parts):
        follows = part.startswith("- ") and text.rpartition("\n")[2].startswith("- ")
        text += ("\n" if follows else "\n\n") + part if text else part
    return text + "\n"


def _section(section: Section) -> list[str]:
    blocks = [f"## {escape(section.title)}", escape(section.intro)]
    for table in section.first:
        blocks += [f"### {escape(table.title)}" if table.title else "", _table(table)]
    for chart in section.charts:
        blocks += [f"### {escape(chart.title)}", escape(chart.caption), _table(chart.figures)]
    for table in section.tables:
        blocks += [f"### {escape(table.title)}" if table.title else "", _table(table)]
    return [*blocks, *map(escape, section.notes)]


def _detail(detail: ProfileDetail) -> list[str]:
    blocks = [
        f"<details><summary><b>{html.escape(plain(detail.name))}</b>: {detail.outcome}</summary>",
        _facts(detail.facts),
    ]
    for table in detail.tables:
        blocks += [f"**{escape(table.title)}**", _table(table)]
    return [*blocks, "</details>"]


def _facts(pairs: Iterable[tuple[str, str]]) -> str:
    return "\n".join(f"- {escape(label)}: {escape(text)}" for label, text in pairs)


def _table(table: Table) -> str:
    align = "---:" if table.numeric else "---"
    lines = [
        "| " + " | ".join(escape(column) for column in table.columns) + " |",
        "| --- |" + f" {align} |" * (len(table.columns) - 1),
        *("| " + " | ".join(_cell(cell) for cell in row) + " |" for row in table.rows),
    ]
    return "\n".join(lines)


def _cell(cell: Cell) -> str:
    first = f"{cell.mark} {escape(cell.text)}" if cell.mark else escape(cell.text)
    return "<br>".join([first, *map(escape, cell.notes)])
