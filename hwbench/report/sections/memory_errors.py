"""Memory errors: accuracy against supply voltage or time, and what a protection buys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from hwbench.report import charts, panels
from hwbench.report.blocks import Cell, Chart, Section, Table, count_text, figure_cell, short_cell
from hwbench.report.curves import curve, without_faults
from hwbench.report.format import exact, metric_title, words
from hwbench.report.view import View, drawn, settings
from hwbench.table import Row, condition

STUDIES = ("memory_errors",)
UNPROTECTED = "no protection"
_STUDY = "memory_errors"
_AXIS = "Supply voltage (V/Vmin)"
_COUNTS = ("corrected", "detected", "miscorrected", "undetected")
_PROTECTIONS = {
    "secded_72_64": "SECDED (72, 64)",
    "secded_39_32": "SECDED (39, 32)",
    "parity_64": "parity of 64 bits",
    "parity_32": "parity of 32 bits",
    "parity_8": "parity of 8 bits",
    "sign_exponent_duplication": "sign and exponent twice",
    "sign_exponent_triplication": "sign and exponent three times",
}
_Figure = tuple[float, str, Row]  # voltage, protection in words, figure


def section(view: View) -> Section | None:
    """What protection buys, accuracy and energy against voltage, and accuracy after time."""
    chart = _voltage_chart(view)
    title = metric_title(view.primary)
    heat = curve(
        view, _STUDY, view.primary, "temperature_c", "Temperature of the memory (°C)", f"{title} against temperature",
        "Without protection; the mean over simulated chips, whose bit error rate at each temperature the given table says.",
    )  # fmt: skip
    bought, exposed = _bought(view), _exposed(view)
    if chart is None and heat is None and not bought.rows and not exposed.rows:
        return None
    return Section(
        "Errors of the memory that holds the model",
        "Simulated chips whose memory cells fail at a supply voltage or temperature, or gather errors over hours at a "
        "failure-in-time rate (FIT: errors in 10⁹ hours). On one chip, what fails at one voltage fails at every lower one; "
        "protected and unprotected builds meet the same failing cells.",
        tuple(drawing for drawing in (chart, heat) if drawing),
        tuple(table for table in (bought, exposed, _without_figures(view)) if table.rows),
        view.uncovered(_STUDY),
    )


def protection_title(name: str) -> str:
    """A protection's name for a person; of a stack, nearest to the data first."""
    return " + ".join(_PROTECTIONS.get(part, part.replace("_", " ")) for part in name.split("+"))


def _voltage_chart(view: View) -> Chart | None:
    found, energies = _along(view, view.primary), _along(view, "energy")
    if not found:
        return None
    variants = tuple(dict.fromkeys(protection for _, protection, _ in (*found, *energies)))
    title = metric_title(view.primary)
    profiles = drawn((row for _, _, row in found), view)
    spec = panels.two_panels(
        [_point(*figure) for figure in found],
        [_point(*figure) for figure in energies],
        view.profiles,
        variants,
        (_AXIS, title, metric_title("energy")),
        without_faults(view, view.primary),
    )
    under = " Below: energy relative to that at Vmin." if energies else ""
    return Chart(
        f"{title} against supply voltage",
        spec,
        profiles,
        f"Mean over simulated chips; the band is its interval. Dotted: the reference, no errors.{under}",
        _figures(view, found, energies),
        panels.keys(variants) if len(variants) > 1 else (),
    )


def _along(view: View, metric: str) -> list[_Figure]:
    """A metric's figures along the voltage axis, by profile, protection and voltage; unprotected first."""
    rows = [*view.where(_STUDY, metric, "voltage"), *view.where(_STUDY, metric, "voltage", "protection")]
    found = [
        (float(setting["voltage"]), _protection(setting), row)
        for setting, row in rows
        if isinstance(setting["voltage"], int | float)
    ]
    order = {profile: place for place, profile in enumerate(view.profiles)}
    return sorted(found, key=lambda figure: (figure[1] != UNPROTECTED, figure[1], order[figure[2].profile], figure[0]))


def _point(voltage: float, protection: str, row: Row) -> dict[str, Any]:
    n = count_text(row).removeprefix("n\u00a0") or "exact"
    return charts.point(row, x=voltage, variant=protection, n=n) | {"at": f"V/Vmin {exact(voltage)}"}


def _figures(view: View, found: list[_Figure], energies: list[_Figure]) -> Table:
    title, energy = metric_title(view.primary), metric_title("energy")
    columns: dict[str, dict[float, Row]] = {}
    for what, figures in ((title, found), (energy, energies)):
        for voltage, protection, row in figures:
            columns.setdefault(f"{what}, {row.profile}, {protection}", {})[voltage] = row
    at = sorted({voltage for column in columns.values() for voltage in column})
    body = tuple(
        (Cell(exact(voltage)), *(short_cell(column.get(voltage)) for column in columns.values())) for voltage in at
    )
    return Table((_AXIS, *columns), body, "Figures drawn", folded=True)


def _bought(view: View) -> Table:
    """One line per profile, protection and setting: the drop without and with it, and what it did to words."""
    found = [
        (setting, row)
        for row in view.rows
        if row.study == _STUDY and row.metric == "accuracy_drop" and row.profile in view.profiles
        and "protection" in (setting := settings(row.condition))
    ]  # fmt: skip
    known = {row.metric for row in view.rows if row.study == _STUDY}
    beside = [metric for metric in ("drop_avoided", *_COUNTS) if metric in known]
    body = []
    for setting, row in found:
        bare = {key: value for key, value in setting.items() if key != "protection"}
        figures = (view.row(row.profile, _STUDY, metric, row.condition) for metric in beside)
        storage = _overhead(view, row.profile, str(setting["protection"]))
        body.append(
            (
                Cell(row.profile, profile=row.profile),
                Cell(_protection(setting), (f"{storage} more storage",) if storage else ()),
                Cell(words(bare) or "every setting"),
                _counted(view.row(row.profile, _STUDY, "accuracy_drop", condition(**bare))),
                _counted(row),
                *(_counted(figure) for figure in figures),
            )
        )
    columns = ("Profile", "Protection", "At", "Drop without", "Drop with", *map(metric_title, beside))
    return Table(columns, tuple(body), "What protection buys on this build; words a chip on average", numeric=False)


def _overhead(view: View, profile: str, protection: str) -> str:
    for row in view.of(profile, _STUDY):
        named = settings(row.condition).get("protection")
        if row.metric == "storage_overhead" and row.status == "ok" and row.value is not None and named == protection:
            return f"{100 * row.value:.3g} %"
    return ""


def _exposed(view: View) -> Table:
    """Accuracy after hours at a failure-in-time rate, unprotected and protected."""
    rows = [
        (setting, row)
        for keys in (("fit", "hours"), ("fit", "hours", "protection"))
        for setting, row in view.where(_STUDY, view.primary, *keys)
    ]
    body = tuple(
        (
            Cell(row.profile, profile=row.profile),
            Cell(_setting(setting["fit"])),
            Cell(_setting(setting["hours"])),
            Cell(_protection(setting)),
            _counted(row),
            _counted(view.row(row.profile, _STUDY, "accuracy_drop", row.condition)),
        )
        for setting, row in rows
    )
    columns = ("Profile", "FIT per Mbit", "Hours", "Protection", metric_title(view.primary), "Accuracy drop")
    return Table(columns, body, "After hours of service", numeric=False)


def _without_figures(view: View) -> Table:
    rows = [row for profile in view.profiles for row in view.of(profile, _STUDY) if row.status != "ok"]
    body = tuple(
        (Cell(row.profile, profile=row.profile), Cell(words(settings(row.condition))), figure_cell(row)) for row in rows
    )
    return Table(("Profile", "At", "What happened"), body, "Without figures", numeric=False)


def _protection(setting: Mapping[str, Any]) -> str:
    return protection_title(str(setting["protection"])) if "protection" in setting else UNPROTECTED


def _setting(value: object) -> str:
    return exact(value) if isinstance(value, int | float) else str(value)


def _counted(row: Row | None) -> Cell:
    return Cell("", tone="muted") if row is None else figure_cell(row, detail=False)
