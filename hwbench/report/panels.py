"""Two panels over one horizontal axis: accuracy above, what it costs below."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import altair as alt

from hwbench.report.blocks import Key
from hwbench.report.charts import colour, finish, opacity, reference_rule, shape

_UPPER, _GAP, _LOWER = 215, 46, 78
_TITLE_ABOVE = 14  # as far above its panel as the page's style puts the titles of vertical axes
_DASHES = ((1, 0), (6, 3), (2, 2), (9, 3, 2, 3), (12, 4), (4, 2, 1, 2))


def two_panels(
    upper: Sequence[dict[str, Any]],
    lower: Sequence[dict[str, Any]],
    profiles: Sequence[str],
    variants: Sequence[str],
    titles: tuple[str, str, str],
    level: float | None = None,
) -> dict[str, Any]:
    """Curves with interval bands above, exact curves below; a colour per profile, a dash per variant.

    Vega-Lite cannot make concatenated views as wide as the page, so this is one view whose two vertical scales each take
    a part of its height.

    Args:
        upper: Made by `hwbench.report.charts.point`, with ``x`` and ``variant``.
        lower: The same, without intervals; none, and the upper panel takes the whole height.
        profiles: Every profile of the run.
        variants: What the dashes stand for.
        titles: Of the horizontal axis, the upper panel and the lower one.
        level: A horizontal line in the upper panel to compare with.
    """
    across, above, below = titles
    foot = _UPPER + _GAP + _LOWER
    x = alt.X("x:Q", title=across, scale=alt.Scale(zero=False, nice=False), axis=alt.Axis(grid=False, tickCount=6))
    dash = alt.StrokeDash(
        "variant:N",
        scale=alt.Scale(domain=list(variants), range=[list(key.dash) for key in keys(variants)]),
        legend=None,
    )
    looks: dict[str, Any] = {"x": x, "color": colour(profiles), "detail": "variant:N"}

    def panel(name: str, y: alt.Y, size: int) -> list[alt.Chart]:
        base = alt.Chart().transform_filter(f"datum.panel === '{name}'").encode(**looks)
        line = base.mark_line(strokeWidth=2).encode(y=y, strokeDash=dash, opacity=opacity(1, 0.12))
        dots = base.mark_point(filled=True, size=size)
        return [line, dots.encode(y=y, shape=shape(profiles), opacity=opacity(1, 0.12), tooltip=_TIPS)]

    scale = alt.Scale(zero=False, nice=True, range=[_UPPER if lower else foot, 0])
    y = alt.Y("value:Q", scale=scale, title=above)
    band = alt.Chart().mark_area().encode(
        y=alt.Y("low:Q", scale=scale, title=above), y2="high:Q", opacity=opacity(0.16, 0.03), **looks
    )  # fmt: skip
    bounded = "datum.panel === 'upper' && isValid(datum.low) && isValid(datum.high)"
    layers = [alt.layer(*reference_rule(level), band.transform_filter(bounded), *panel("upper", y, 46))]
    if lower:
        placed = alt.Axis(orient="left", titleY=_UPPER + _GAP - _TITLE_ABOVE, tickCount=3)
        energy = alt.Scale(zero=True, nice=True, range=[foot, _UPPER + _GAP])
        layers.append(alt.layer(*panel("lower", alt.Y("value:Q", scale=energy, title=below, axis=placed), 24)))
    points = [point | {"panel": name} for name, part in (("upper", upper), ("lower", lower)) for point in part]
    return finish(layers, points, foot, fit="fit-x") | {"resolve": {"scale": {"y": "independent"}}}


def keys(variants: Sequence[str]) -> tuple[Key, ...]:
    """The legend of the dashes."""
    return tuple(Key(name, dash=_DASHES[place % len(_DASHES)]) for place, name in enumerate(variants))


_TIPS = [
    alt.Tooltip("profile:N", title="Profile"),
    alt.Tooltip("variant:N", title="Protection"),
    alt.Tooltip("at:N", title="At"),
    alt.Tooltip("figure:N", title="Figure"),
    alt.Tooltip("n:N", title="n"),
]
