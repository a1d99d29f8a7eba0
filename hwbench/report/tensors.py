"""Charts over the tensors of one build: a rate per tensor as bars, a rate per tensor and bit as a heat map."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import chain, count
from typing import Any

import altair as alt

from hwbench.report.blocks import Key
from hwbench.report.charts import finish
from hwbench.report.format import exact, plain

THRESHOLDS = (0.001, 0.003, 0.01, 0.03, 0.1, 0.3)  # fixed, so that two heat maps can be compared
STEPS = (*(f"< {exact(bound)}" for bound in THRESHOLDS), f"≥ {exact(THRESHOLDS[-1])}")
SHADES = tuple(f"var(--q{place})" for place in range(len(STEPS)))
SHADE_KEYS = tuple(Key(step, shade) for step, shade in zip(STEPS, SHADES, strict=True))
_ROW_HEIGHT = 17
_HEAD, _TAIL = 12, 13  # characters kept of a long name: its layer stands at the beginning, its role at the end


def labels(names: Iterable[str]) -> dict[str, str]:
    """Short labels for tensors' names, no two the same.

    Exporters repeat the path of a module in its parts' names (``/features/features.3/conv/conv.0/weight``) and quantizers
    mark every name the same; both are left out, and of what is still long the middle.
    """
    found: dict[str, str] = {}
    taken: set[str] = set()
    for name in names:
        parts = plain(name).replace("_quantized", "").strip("/").split("/")
        kept = [part for part, after in zip(parts, [*parts[1:], ""], strict=True) if not after.startswith(f"{part}.")]
        short = "/".join(kept)
        if len(short) > _HEAD + _TAIL + 1:
            short = f"{short[:_HEAD]}…{short[-_TAIL:]}"
        candidates = chain([short], (f"{short} ({turn})" for turn in count(2)))
        found[name] = next(label for label in candidates if label not in taken)
        taken.add(found[name])
    return found


def tensor_bars(points: Sequence[dict[str, Any]], colour: str, title: str) -> dict[str, Any]:
    """Horizontal bars with intervals, one per tensor, in the order given.

    Args:
        points: With ``label``, ``tensor``, ``value``, ``figure``, ``n``, ``more`` and, where there is an interval, ``low`` and
            ``high``.
        colour: The profile's colour.
        title: The horizontal axis's title.
    """
    base = alt.Chart().encode(y=_rows(points), tooltip=[*_TIPS, alt.Tooltip("more:N", title="Beside it")])
    bars = base.mark_bar(height={"band": 0.66}, opacity=0.45, color=colour).encode(
        x=alt.X("value:Q", title=title, axis=alt.Axis(tickCount=5))
    )
    bounded = "isValid(datum.low) && isValid(datum.high)"
    whiskers = base.mark_rule(strokeWidth=1.75, color=colour).encode(x=alt.X("low:Q", title=title), x2="high:Q")
    ends = base.mark_tick(thickness=1.75, height={"band": 0.5}, color=colour)
    layers = [
        bars,
        whiskers.transform_filter(bounded),
        *(ends.encode(x=alt.X(f"{end}:Q", title=title)).transform_filter(bounded) for end in ("low", "high")),
    ]
    return finish(layers, points, _ROW_HEIGHT * len(points), fit="fit-x")


def heat_map(points: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A cell per tensor and bit, shaded in seven steps of one hue; where nothing was drawn the page shows.

    Args:
        points: With ``label``, ``tensor``, ``bit``, ``value``, ``figure`` and ``n``; tensors in the order of the rows.
    """
    bits = list(range(max(int(point["bit"]) for point in points) + 1))
    across = alt.X(
        "bit:O",
        title="Bit (0 = least significant)",
        scale=alt.Scale(domain=bits, paddingInner=0.06, paddingOuter=0),
        axis=alt.Axis(labelAngle=0, domain=False, ticks=False, values=bits if len(bits) <= 8 else bits[::4]),
    )
    shade = alt.Color("step:O", scale=alt.Scale(domain=list(STEPS), range=list(SHADES)), legend=None)
    tips = [_TIPS[0], alt.Tooltip("bit:O", title="Bit"), *_TIPS[1:]]
    shaded = [
        {key: point[key] for key in ("label", "tensor", "bit", "figure", "n")}
        | {"step": STEPS[bisect_right(THRESHOLDS, point["value"])]}
        for point in points
    ]
    rows = _rows(points, paddingInner=0.1, paddingOuter=0)
    cells = alt.Chart().mark_rect().encode(x=across, y=rows, color=shade, tooltip=tips)
    return finish([cells], shaded, _ROW_HEIGHT * len({point["label"] for point in points}), fit="fit-x")


_TIPS = [
    alt.Tooltip("tensor:N", title="Tensor"),
    alt.Tooltip("figure:N", title="SDC rate"),
    alt.Tooltip("n:N", title="n"),
]


def _rows(points: Sequence[dict[str, Any]], **scale: Any) -> alt.Y:
    axis = alt.Axis(labelLimit=180, ticks=False, domain=False, grid=False, labelOverlap=False)
    order = list(dict.fromkeys(str(point["label"]) for point in points))
    return alt.Y("label:N", title=None, scale=alt.Scale(domain=order, **scale), axis=axis)
