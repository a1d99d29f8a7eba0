"""Bit errors: what a build keeps of its accuracy while its stored bits flip."""

from __future__ import annotations

from hwbench.report.blocks import Cell, Section, Table, figure_cell
from hwbench.report.curves import curve
from hwbench.report.format import metric_title
from hwbench.report.view import View

STUDIES = ("bit_flips",)
_AXIS = "Bit error rate"


def section(view: View) -> Section | None:
    """Accuracy and silent data corruption against the bit error rate, and the rate each profile tolerates."""
    accuracy = curve(
        view,
        "bit_flips",
        view.primary,
        "ber",
        _AXIS,
        f"{metric_title(view.primary)} against bit error rate",
        "Mean over draws; the band is its interval over draws and inputs. Dotted: the reference without bit errors.",
    )
    corruption = curve(
        view,
        "bit_flips",
        "sdc_rate",
        "ber",
        _AXIS,
        "Silent data corruption against bit error rate",
        "The share of inputs whose answer looks valid but is no longer the fault-free one.",
    )
    tolerated = tuple(
        (Cell(profile, profile=profile), figure_cell(row))
        for profile in view.profiles
        if (row := view.row(profile, "bit_flips", "tolerated_ber")) is not None and row.status == "ok"
    )
    if not (accuracy or corruption or tolerated):
        return None
    table = Table(
        ("Profile", "Tolerated bit error rate"),
        tolerated,
        "Largest rate at which the accuracy drop stays within the limit",
    )
    return Section(
        "Bit errors in the stored model",
        "Every stored bit of the deployed build (weights, scales, zero points, biases) flips with the given "
        "probability. The same "
        "draws hit every profile, and the errors at one rate are among those at every higher rate.",
        tuple(chart for chart in (accuracy, corruption) if chart),
        (table,) if tolerated else (),
    )
