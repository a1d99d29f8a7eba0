"""Vega-Lite charts with the report's conventions: one colour, dash and symbol per profile, intervals as bands or bars.

Colours are CSS variables (``var(--s0)`` ...), so that the page's style sheet themes the charts too: light,
dark and print.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Literal

import altair as alt

from hwbench.report.format import figure_text, words
from hwbench.report.view import settings
from hwbench.table import Row

COLOURS = tuple(f"var(--s{place})" for place in range(7))
DASHES = ([1, 0], [7, 3], [2, 2], [9, 3, 2, 3])
SYMBOLS = ("circle", "square", "diamond", "triangle-up", "cross", "triangle-down", "triangle-right")
HEIGHT = 290
_INTERVAL = [
    alt.Tooltip("profile:N", title="Profile"),
    alt.Tooltip("at:N", title="At"),
    alt.Tooltip("figure:N", title="Figure"),
]


def style(place: int) -> tuple[str, list[int], str]:
    """Colour, dash and symbol of the profile at a place; 28 places differ."""
    turn = place // len(COLOURS)
    return COLOURS[place % len(COLOURS)], DASHES[turn % len(DASHES)], SYMBOLS[(place + turn) % len(SYMBOLS)]


def point(row: Row, **more: Any) -> dict[str, Any]:
    """What a chart needs of a row; JSON has no infinities, so bounds that are not finite are left out."""
    finite = {
        key: value
        for key, value in (("value", row.value), ("low", row.ci_low), ("high", row.ci_high))
        if value is not None and math.isfinite(value)
    }
    return {"profile": row.profile, "at": words(settings(row.condition)), "figure": figure_text(row), **finite, **more}


def lines(
    points: Sequence[dict[str, Any]], profiles: Sequence[str], x: alt.X, y_title: str, level: float | None = None
) -> dict[str, Any]:
    """Lines with interval bands, one per profile.

    Args:
        points: Made by `point`, with ``x``.
        profiles: Every profile of the run, so that its place fixes its looks.
        x: The horizontal axis.
        y_title: The vertical axis's title.
        level: A horizontal line to compare with, e.g. the reference's figure without faults.
    """
    base = alt.Chart().encode(x=x, color=colour(profiles))
    scale = alt.Scale(zero=False, nice=True)
    band = base.mark_area().encode(
        y=alt.Y("low:Q", scale=scale, title=y_title), y2="high:Q", opacity=opacity(0.16, 0.03)
    )
    band = band.transform_filter("isValid(datum.low) && isValid(datum.high)")
    line = base.mark_line(strokeWidth=2).encode(
        y=alt.Y("value:Q", scale=scale, title=y_title), strokeDash=_dash(profiles), opacity=opacity(1, 0.12)
    )
    dots = base.mark_point(filled=True, size=46).encode(
        y=alt.Y("value:Q", scale=scale, title=y_title),
        shape=shape(profiles),
        opacity=opacity(1, 0.12),
        tooltip=_INTERVAL,
    )
    return finish([*reference_rule(level), band, line, dots], points, HEIGHT)


def places(
    points: Sequence[dict[str, Any]], profiles: Sequence[str], domain: Sequence[int], x_title: str, y_title: str
) -> dict[str, Any]:
    """Points with interval bars over numbered places, side by side where profiles share a place.

    Args:
        points: Made by `point`, with ``x``, one of the places, and ``n``.
        profiles: Every profile of the run.
        domain: The places, measured or not.
        x_title: The horizontal axis's title.
        y_title: The vertical axis's title.
    """
    shown = [name for name in profiles if any(entry["profile"] == name for entry in points)]
    x = alt.X(
        "x:O",
        title=x_title,
        scale=alt.Scale(domain=list(domain), paddingInner=0.3, paddingOuter=0.15),
        axis=alt.Axis(labelAngle=0, values=list(domain[:: math.ceil(len(domain) / 16)])),
    )
    base = alt.Chart().encode(
        x=x, xOffset=alt.XOffset("profile:N", scale=alt.Scale(domain=shown)), color=colour(profiles)
    )
    whiskers = base.mark_rule(strokeWidth=1.75).encode(
        y=alt.Y("low:Q", title=y_title), y2="high:Q", opacity=opacity(0.55, 0.06)
    )
    dots = base.mark_point(filled=True, size=46).encode(
        y=alt.Y("value:Q", title=y_title), shape=shape(profiles), opacity=opacity(1, 0.12),
        tooltip=[*_INTERVAL, alt.Tooltip("n:N", title="n")],
    )  # fmt: skip
    return finish([whiskers.transform_filter("isValid(datum.low) && isValid(datum.high)"), dots], points, HEIGHT)


def scatter(
    points: Sequence[dict[str, Any]], profiles: Sequence[str], x_title: str, y_title: str, logarithmic: bool
) -> dict[str, Any]:
    """Points with intervals in both directions, and the line through those that no other point beats.

    Args:
        points: With ``x``, ``y``, ``front`` (whether it is on the Pareto front), ``x_text``, ``y_text`` and, where
            there are
            intervals, ``x_low``, ``x_high``, ``y_low``, ``y_high``.
        profiles: Every profile of the run.
        x_title: The horizontal axis's title.
        y_title: The vertical axis's title.
        logarithmic: Whether the horizontal axis is.
    """
    across = alt.Scale(type="log") if logarithmic else alt.Scale(zero=False, padding=12)
    up = alt.Scale(zero=False, padding=12)

    def x(field: str) -> alt.X:
        return alt.X(f"{field}:Q", title=x_title, scale=across, axis=alt.Axis(grid=False, tickCount=6))

    def y(field: str) -> alt.Y:
        return alt.Y(f"{field}:Q", title=y_title, scale=up)

    tips = [
        alt.Tooltip("profile:N", title="Profile"),
        alt.Tooltip("x_text:N", title="Latency"),
        alt.Tooltip("y_text:N", title="Accuracy"),
    ]
    base = alt.Chart().encode(color=colour(profiles), opacity=opacity(1, 0.15))
    front = (
        alt.Chart()
        .transform_filter("datum.front")
        .mark_line(interpolate="step-after", strokeWidth=1.25, color="var(--ink-3)", strokeDash=[4, 3])
        .encode(x=x("x"), y=y("y"), order=alt.Order("x:Q"))
    )
    wide = (
        base.mark_rule(strokeWidth=1.5)
        .encode(x=x("x_low"), x2="x_high:Q", y=y("y"))
        .transform_filter("isValid(datum.x_low)")
    )
    tall = (
        base.mark_rule(strokeWidth=1.5)
        .encode(x=x("x"), y=y("y_low"), y2="y_high:Q")
        .transform_filter("isValid(datum.y_low)")
    )
    dots = base.mark_point(filled=True, size=110).encode(x=x("x"), y=y("y"), shape=shape(profiles), tooltip=tips)
    return finish([front, wide, tall, dots], points, HEIGHT + 40)


def bars(points: Sequence[dict[str, Any]], profiles: Sequence[str], title: str) -> dict[str, Any]:
    """Horizontal bars, one per profile, with an optional darker part and an optional tick for a limit.

    Args:
        points: Made by `point`, with ``part`` (a share of the bar, drawn solid) and ``cap`` where there are such
            figures.
        profiles: Every profile of the run.
        title: The horizontal axis's title.
    """
    shown = [entry["profile"] for entry in points]
    y = alt.Y("profile:N", sort=shown, title=None, axis=alt.Axis(labelLimit=130, ticks=False, domain=False, grid=False))
    tips = [*_INTERVAL[::2], alt.Tooltip("more:N", title="Of it")]
    base = alt.Chart().encode(y=y, tooltip=tips)
    axis = alt.Axis(tickCount=5)
    whole = base.mark_bar(height={"band": 0.62}).encode(
        x=alt.X("value:Q", title=title, axis=axis), color=colour(profiles), opacity=opacity(0.4, 0.08)
    )
    part = base.mark_bar(height={"band": 0.62}).encode(
        x=alt.X("part:Q", title=title), color=colour(profiles), opacity=opacity(1, 0.12)
    )
    cap = base.mark_tick(thickness=2.5, height={"band": 0.9}, color="var(--ink)").encode(x=alt.X("cap:Q", title=title))
    layers = [
        whole,
        *([part] if any("part" in entry for entry in points) else []),
        *([cap] if any("cap" in entry for entry in points) else []),
    ]
    return finish(layers, points, 34 * len(points) + 10)


def finish(
    layers: Sequence[Any], points: Sequence[dict[str, Any]], height: int, fit: Literal["fit", "fit-x"] = "fit"
) -> dict[str, Any]:
    """Layers over the same points, as wide as the page allows, with the parameter that the legend sets.

    Args:
        layers: The layers.
        points: The data they share.
        height: In pixels.
        fit: Whether the height is that of the whole chart (``"fit"``) or that within the axes (``"fit-x"``).
    """
    focused = (
        alt.layer(*layers, data=_data(points))
        .add_params(alt.param(name="focus", value=None))
        .properties(width="container", height=height, autosize=alt.AutoSizeParams(type=fit, contains="padding"))
    )
    spec: dict[str, Any] = focused.to_dict()
    spec.pop("$schema", None)
    spec.pop("config", None)
    return spec


def reference_rule(level: float | None) -> list[alt.Chart]:
    """A dotted horizontal line to compare with; none without a level."""
    if level is None or not math.isfinite(level):
        return []
    return [alt.Chart(_data([{"level": level}])).mark_rule(strokeDash=[2, 3], color="var(--ink-2)").encode(y="level:Q")]


def log_x(title: str, settings_: Sequence[float]) -> alt.X:
    """A logarithmic axis labelled with powers of ten."""
    first, last = math.floor(math.log10(min(settings_)) + 1e-9), math.ceil(math.log10(max(settings_)) - 1e-9)
    ticks = [10.0**power for power in range(first, last + 1)]
    return alt.X(
        "x:Q",
        title=title,
        scale=alt.Scale(type="log", nice=False),
        axis=alt.Axis(values=ticks, labelExpr="format(datum.value, '.0e')", grid=False),
    )


def linear_x(title: str, whole: bool = False) -> alt.X:
    """A linear axis that need not start at zero; ``whole`` keeps its ticks to whole numbers."""
    axis = alt.Axis(grid=False, tickCount=6, tickMinStep=1 if whole else alt.Undefined)
    return alt.X("x:Q", title=title, scale=alt.Scale(zero=False, nice=False), axis=axis)


def _data(points: Sequence[dict[str, Any]]) -> alt.Data:
    return alt.Data(values=list(points))  # type: ignore[no-untyped-call]  # altair leaves this one class untyped


def _domain(profiles: Sequence[str], what: int) -> alt.Scale:
    return alt.Scale(domain=list(profiles), range=[style(place)[what] for place in range(len(profiles))])


def colour(profiles: Sequence[str]) -> alt.Color:
    """Each profile's colour; the page has the legend."""
    return alt.Color("profile:N", scale=_domain(profiles, 0), legend=None)


def _dash(profiles: Sequence[str]) -> alt.StrokeDash:
    return alt.StrokeDash("profile:N", scale=_domain(profiles, 1), legend=None)


def shape(profiles: Sequence[str]) -> alt.Shape:
    """Each profile's symbol."""
    return alt.Shape("profile:N", scale=_domain(profiles, 2), legend=None)


def opacity(normal: float, faded: float) -> Any:
    """How much a profile stands out: ``normal``, or ``faded`` while the legend brings another one forward."""
    return alt.when("focus === null || datum.profile === focus").then(alt.value(normal)).otherwise(alt.value(faded))
