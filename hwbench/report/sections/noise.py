"""Noise: accuracy of a build while its inputs or weights are disturbed."""

from __future__ import annotations

from hwbench.report.blocks import Section
from hwbench.report.curves import curve
from hwbench.report.format import metric_title
from hwbench.report.view import View

STUDIES = ("noise",)
_KINDS = (
    (
        "snr_db", "Input signal-to-noise ratio (dB)", "input signal-to-noise ratio",
        "Gaussian noise on each sample in the model's input domain, not clipped. Further right is cleaner.",
    ),
    ("impulse_rate", "Impulse rate", "impulse noise", "The share of input values replaced by an extreme one."),
    (
        "weight_sigma", "Weight noise σ", "weight noise",
        "Gaussian noise on the stored weights: relative to each tensor's range for floats, in steps for integers.",
    ),
)  # fmt: skip


def section(view: View) -> Section | None:
    """Accuracy against input noise, impulses and weight noise."""
    title = metric_title(view.primary)
    drawn = [
        chart
        for key, axis, against, caption in _KINDS
        if (chart := curve(view, "noise", view.primary, key, axis, f"{title} against {against}", caption))
    ]
    if not drawn:
        return None
    return Section(
        "Noise on inputs and weights",
        "Every profile and every strength gets the same draws of noise; curves differ by the build alone.",
        tuple(drawn),
    )
