"""Charts over the tensors of one build: a rate per tensor as bars, a rate per tensor and bit as a heat map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from hwbench.report.charts import finish

THRESHOLDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # fixed, so that two heat maps can be compared
SHADES = tuple(f"var(--q{place})" for place in range(len(THRESHOLDS) + 1))
ROW_HEIGHT = 17
_LABEL = 26  # characters of a tensor's name; its end tells more than its beginning
_LEGEND_WIDTH, _LEGEND_HEIGHT = 250, 45


def tensor_bars(points: Sequence[dict[str, Any]], colour: str, title: str) -> dict[str, Any]:
    """Horizontal bars with intervals, one per tensor, in the order given.

    Args:
        points: With ``tensor``, ``value``, ``figure``, ``n``, ``more`` and, where there is an interval, ``low``, ``high``.
        colour: The profile's colour.
        title: The horizontal axis's title.
    """
    tips = [*_TIPS, alt.Tooltip("more:N", title="Beside it")]
    base = alt.Chart().encode(y=_tensors(points), tooltip=tips)
    bars = base.mark_bar(height={"band": 0.66}, opacity=0.45, color=colour).encode(
        x=alt.X("value:Q", title=title, axis=alt.Axis(tickCount=5))
    )
    whiskers = base.mark_rule(strokeWidth=1.75, color=colour).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    ends = base.mark_tick(thickness=1.75, height={"band": 0.5}, color=colour)
    bounded = "isValid(datum.low) && isValid(datum.high)"
    layers = [
        bars,
        whiskers.transform_filter(bounded),
        *(ends.encode(x=alt.X(f"{end}:Q", title=title)).transform_filter(bounded) for end in ("low", "high")),
    ]
    return finish(layers, points, ROW_HEIGHT * len(points) + 10)


def heat_map(points: Sequence[dict[str, Any]], tensors: Sequence[str], title: str) -> dict[str, Any]:
    """A cell per tensor and bit, shaded in seven steps of one hue; where nothing was drawn the page shows.

    Args:
        points: With ``tensor``, ``bit``, ``value``, ``figure`` and ``n``.
        tensors: The rows, from the top.
        title: What the shades stand for.
    """
    bits = list(range(max(int(point["bit"]) for point in points) + 1))
    across = alt.X(
        "bit:O",
        title="Bit (0 = least significant)",
        scale=alt.Scale(domain=bits, paddingInner=0.06, paddingOuter=0),
        axis=alt.Axis(labelAngle=0, domain=False, ticks=False, labelOverlap="greedy", labelFlush=False),
    )
    ink = {"labelColor": "var(--ink-2)", "titleColor": "var(--ink-2)", "titleFontWeight": 400}
    legend = alt.Legend(
        title=title, orient="top", direction="horizontal", gradientLength=_LEGEND_WIDTH, gradientThickness=9, **ink
    )
    shade = alt.Color(
        "value:Q", scale=alt.Scale(type="threshold", domain=list(THRESHOLDS), range=list(SHADES)), legend=legend
    )
    rows = _tensors([{"tensor": tensor} for tensor in tensors], paddingInner=0.1, paddingOuter=0.1)
    cells = alt.Chart().mark_rect().encode(x=across, y=rows, color=shade, tooltip=[_TIPS[0], _BIT, *_TIPS[1:]])
    return finish([cells], points, ROW_HEIGHT * len(tensors) + 10 + _LEGEND_HEIGHT)


_BIT = alt.Tooltip("bit:O", title="Bit")
_TIPS = [
    alt.Tooltip("tensor:N", title="Tensor"),
    alt.Tooltip("figure:N", title="SDC rate"),
    alt.Tooltip("n:N", title="n"),
]


def _tensors(points: Sequence[dict[str, Any]], **scale: Any) -> alt.Y:
    short = f"length(datum.label) > {_LABEL} ? '…' + slice(datum.label, 1 - {_LABEL}) : datum.label"
    axis = alt.Axis(
        labelExpr=short, labelLimit=170, ticks=False, domain=False, grid=False, labelOverlap=False, minExtent=60
    )
    order = list(dict.fromkeys(str(point["tensor"]) for point in points))
    return alt.Y("tensor:N", title=None, scale=alt.Scale(domain=order, **scale), axis=axis)
