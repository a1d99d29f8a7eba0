"""Bit errors: accuracy of a build while its stored bits flip."""

from __future__ import annotations

from hwbench.report.blocks import Cell, Chart, Section, Table
from hwbench.report.curves import curve
from hwbench.report.format import interval_text, metric_title, value_text
from hwbench.report.view import View

STUDIES = ("bit_flips",)


def section(view: View) -> Section | None:
    """Accuracy, silent and detected failures against the bit error rate, and the rate each profile tolerates."""
    charts = _charts(view)
    tolerated = _tolerated(view)
    if not (charts or tolerated.rows):
        return None
    return Section(
        "Bit errors in the stored model",
        "Every stored bit of the deployed build (weights, scales, zero points, biases) flips with the given "
        "probability. The same draws hit every profile, and the errors at one rate are among those at higher ones.",
        charts,
        (tolerated,) if tolerated.rows else (),
        view.uncovered("bit_flips"),
    )


def _charts(view: View) -> tuple[Chart, ...]:
    kinds = [
        (
            view.primary,
            metric_title(view.primary),
            "Mean over draws. The band is its interval for unseen draws and inputs. Dotted: the reference without bit errors.",
        ),
        (
            "sdc_rate",
            "Silent data corruption",
            "Share of inputs whose output is finite, but whose answer differs from the fault-free one.",
        ),
    ]
    if any(row.value for _, row in view.sweep("bit_flips", "due_rate", "ber")):
        kinds.append(("due_rate", "Detected failures", "Share of inputs whose output is NaN or infinite."))
    drawn = (
        curve(view, "bit_flips", metric, "ber", "Bit error rate", f"{title} against bit error rate", caption)
        for metric, title, caption in kinds
    )
    title = f"{metric_title(view.primary)} over finite outputs against bit error rate"
    caption = (
        "The figure over finite outputs, if some are infinite. The detected failures are the share that is left out."
    )
    finite = curve(view, "bit_flips", view.primary, "ber", "Bit error rate", title, caption, outputs="finite")
    return tuple(chart for chart in (*drawn, finite) if chart)


def _tolerated(view: View) -> Table:
    rows = tuple(
        (
            Cell(profile, profile=profile),
            Cell(value_text(row)),
            Cell(interval_text(row.ci_low, row.ci_high, row.value)),
            Cell(row.detail),
        )
        for profile in view.profiles
        if (row := view.row(profile, "bit_flips", "tolerated_ber")) is not None and row.status == "ok"
    )
    return Table(
        ("Profile", "Bit error rate", "Shown to be tolerated … not shown to exceed the limit", "Note"),
        rows,
        "Tolerated bit error rate",
        numeric=False,
    )
