"""report.html: one self-contained page that fetches nothing, with interactive charts."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
import polars as pl
import vl_convert
from markupsafe import Markup

from hwbench.report import about, summary
from hwbench.report.blocks import Key
from hwbench.report.charts import style
from hwbench.report.details import details
from hwbench.report.format import plain
from hwbench.report.sections import sections
from hwbench.report.view import REFERENCE, View
from hwbench.verdict import Verdict

# Outlines of charts' symbols in a box of 12 × 12, for the legends.
_OUTLINES = {
    "circle": "M2.5 6a3.5 3.5 0 1 0 7 0a3.5 3.5 0 1 0-7 0z",
    "square": "M3 3h6v6h-6z",
    "diamond": "M6 1.5L10 6L6 10.5L2 6z",
    "triangle-up": "M6 2L10 9.5H2z",
    "cross": "M4.8 2h2.4v2.8h2.8v2.4h-2.8v2.8h-2.4v-2.8h-2.8v-2.4h2.8z",
    "triangle-down": "M6 10L2 2.5H10z",
    "triangle-right": "M10 6L2.5 10V2z",
}


def write_html(run: Mapping[str, Any], table: pl.DataFrame, verdicts: Sequence[Verdict], path: Path) -> Path:
    """Write the report as one HTML file.

    Args:
        run: The content of ``run.json``.
        table: The measurement table.
        verdicts: The acceptance rules' verdicts.
        path: Where to write it.

    Returns:
        ``path``.
    """
    path.write_text(render_html(View(run, table, verdicts)), encoding="utf-8")
    return path


def render_html(view: View) -> str:
    """The page's text."""
    parts = sections(view)
    specs = [chart.spec for section in parts for chart in section.charts]
    scripts = [_bundle(), _asset("report.js")] if specs else []
    return _template().render(
        view=view,
        summary=summary,
        about=about,
        sections=parts,
        details=details(view),
        style=Markup(_asset("report.css")),  # noqa: S704  # our own file
        scripts=[Markup(script) for script in scripts],  # noqa: S704  # our own file and the bundled library
        script_sources=" ".join(_digest(script) for script in scripts) or "'none'",
        specs=script_json(specs),
    )


def script_json(content: Any) -> Markup:
    """JSON that can stand in a ``<script>`` element whatever names it holds.

    Raises:
        ValueError: It holds a number that JSON has no word for.
    """
    text = json.dumps(content, allow_nan=False, separators=(",", ":"))
    for sign in "<>&":
        text = text.replace(sign, f"\\u{ord(sign):04x}")
    return Markup(text)  # noqa: S704  # nothing in it can end the element any more


def swatch(view: View, profile: str) -> Markup:
    """A profile's looks in the charts, as a small drawing; empty for what is not drawn."""
    if profile == REFERENCE or profile not in view.profiles:
        return Markup("")
    colour, dash, symbol = style(view.profiles.index(profile))
    line = f'<path d="M0 6H24" stroke-width="2" stroke-dasharray="{" ".join(map(str, dash)) if dash[1] else "none"}"/>'
    mark = f'<path transform="translate(6 0)" d="{_OUTLINES[symbol]}" fill="{colour}" stroke="none"/>'
    svg = f'<svg class="swatch" viewBox="0 0 24 12" aria-hidden="true" stroke="{colour}" fill="none">{line}{mark}</svg>'
    return Markup(svg)  # noqa: S704  # only our own constants


def key_swatch(key: Key) -> Markup:
    """An entry of a chart's own legend, as a small drawing: a shaded box or a dashed line."""
    if key.shade:
        drawing = Markup(
            '<svg class="swatch" viewBox="0 0 24 12" aria-hidden="true"><path d="M4 0H20V12H4z" fill="{}"/></svg>'
        )
        return drawing.format(key.shade)
    drawing = Markup(
        '<svg class="swatch" viewBox="0 0 24 12" aria-hidden="true" stroke="var(--ink)" fill="none">'
        '<path d="M0 6H24" stroke-width="2" stroke-dasharray="{}"/></svg>'
    )
    return drawing.format(" ".join(map(str, key.dash)) if any(key.dash[1:2]) else "none")


def _digest(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


@cache
def _bundle() -> str:
    """Vega, Vega-Lite and Vega-Embed in one script."""
    bundle: str = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;")
    return bundle.replace("</script", r"<\/script")


@cache
def _asset(name: str) -> str:
    return resources.files("hwbench.report").joinpath("assets", name).read_text(encoding="utf-8")


@cache
def _template() -> jinja2.Template:
    environment = jinja2.Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=jinja2.StrictUndefined
    )
    environment.globals |= {"swatch": swatch, "key_swatch": key_swatch}
    environment.finalize = lambda value: (
        plain(value) if type(value) is str else value
    )  # Markup is ours and stays as it is
    return environment.from_string(_asset("report.html.j2"))
