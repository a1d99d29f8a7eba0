"""Single faults: how probably one of them changes a prediction, and which tensors and bits carry that risk."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from hwbench.report import charts, tensors
from hwbench.report.blocks import Cell, Chart, Section, Table, count_text, figure_cell
from hwbench.report.curves import curve_of
from hwbench.report.format import figure_text, metric_title, plain
from hwbench.report.view import View
from hwbench.table import Row, condition

STUDIES = ("faults",)
SHOWN = 30  # tensors drawn; more would not fit a screen
_STUDY = "faults"
_WIDEST = 64  # bits of the widest stored number
_MARGINS = {
    "top5": "SDC beyond the top five",
    "confidence_10": "SDC, confidence down over 10 %",
    "confidence_20": "SDC, confidence down over 20 %",
}
_FIELDS = {
    "fp32": "Bits 0 to 22 are the mantissa, 23 to 30 the exponent, 31 the sign.",
    "fp16": "Bits 0 to 9 are the mantissa, 10 to 14 the exponent, 15 the sign.",
    "bf16": "Bits 0 to 6 are the mantissa, 7 to 14 the exponent, 15 the sign.",
    "int4": "Bit 3 is the sign.",
    "int8": "Bit 7 is the sign.",
    "int32": "Bit 31 is the sign.",
}


def section(view: View) -> Section | None:
    """Overall rates first, then by tensor, bit position, both, and role."""
    if not any(row.status == "ok" for row in view.rows if row.study == _STUDY):
        return None
    drawn = [chart for profile in view.profiles for chart in _by_tensor(view, profile)]
    return Section(
        "Single faults in the stored model",
        "One fault at a time in a stored number of the deployed build, compared with the fault-free output on the same "
        "inputs. Silent data corruption (SDC): the output is finite but the answer is another. Detected (DUE): the "
        "output is NaN or infinite, or the run died. Rates are over pairs of fault and input; n counts what stands "
        "behind each.",
        (*drawn, *_by_bit(view)),
        tuple(table for table in (_roles(view),) if table.rows),
        first=(_overall(view),),
    )


def _overall(view: View) -> Table:
    margins = list(dict.fromkeys(str(setting["margin"]) for setting, _ in view.where(_STUDY, "sdc_rate", "margin")))
    columns: dict[str, tuple[str, str]] = {
        "SDC rate": ("sdc_rate", "{}"),
        "DUE rate": ("due_rate", "{}"),
        "Mean accuracy drop": ("accuracy_drop", "{}"),
        **{_MARGINS.get(name, f"SDC, {name}"): ("sdc_rate", condition(margin=name)) for name in margins},
    }
    found = {pair for pair in columns.values() for name in view.profiles if view.row(name, _STUDY, *pair)}
    asked = {title: pair for title, pair in columns.items() if pair in found or title == "SDC rate"}
    body = []
    for profile in view.profiles:
        if view.of(profile, _STUDY):
            figures = [figure_cell(view.row(profile, _STUDY, *pair), detail=False) for pair in asked.values()]
            if view.row(profile, _STUDY, "sdc_rate") is None:  # the reason why, if the study could not be carried out
                figures[0] = figure_cell(view.headline(profile, _STUDY, "sdc_rate"))
            body.append((Cell(profile, profile=profile), *figures))
    return Table(("Profile", *asked), tuple(body), "Over all stored bits")


def _by_tensor(view: View, profile: str) -> Iterator[Chart]:
    rows = {str(setting["tensor"]): row for setting, row in _of(view, profile, "sdc_rate", "tensor")}
    dues = {str(setting["tensor"]): row for setting, row in _of(view, profile, "due_rate", "tensor")}
    worst = sorted(rows, key=lambda tensor: -_upper(rows[tensor]))[:SHOWN]
    shown = [tensor for tensor in rows if tensor in set(worst)]
    named = f": {profile}" if len(_profiles(view)) > 1 else ""
    cut = f" The {SHOWN} of {len(rows)} tensors with the highest upper bound are drawn" if len(rows) > SHOWN else ""
    if rows:
        points = [
            _point(rows[tensor], tensor) | {"more": f"DUE {figure_text(dues[tensor])}" if tensor in dues else ""}
            for tensor in shown
        ]
        body = tuple(
            (Cell(tensor, (row.detail,) if row.detail else ()), _counted(row), _counted(dues.get(tensor)))
            for tensor, row in rows.items()
        )
        yield Chart(
            f"SDC rate by layer{named}",
            tensors.tensor_bars(points, charts.style(view.profiles.index(profile))[0], "SDC rate"),
            (),
            f"In the order of the graph, intervals as lines.{cut + '; all are in the figures.' if cut else ''}",
            Table(("Tensor", "SDC rate", "DUE rate"), body, "Figures drawn", folded=True),
        )
    yield from _heat_map(view, profile, worst, cut, named)


def _heat_map(view: View, profile: str, worst: list[str], cut: str, named: str) -> Iterator[Chart]:
    cells: dict[str, dict[int, Row]] = {}
    for setting, row in _of(view, profile, "sdc_rate", "tensor", "bit"):
        if _is_bit(setting["bit"]):
            cells.setdefault(str(setting["tensor"]), {})[setting["bit"]] = row
    listed = set(worst or list(cells)[:SHOWN])
    shown = [tensor for tensor in cells if tensor in listed]
    if not shown:
        return
    points = [_point(row, tensor) | {"bit": bit} for tensor in shown for bit, row in sorted(cells[tensor].items())]
    bits = range(max(point["bit"] for point in points) + 1)
    body = tuple((Cell(tensor), *(_counted(cells[tensor].get(bit)) for bit in bits)) for tensor in shown)
    where = f"{cut}; the others are in measurements.parquet." if cut else ""
    yield Chart(
        f"SDC rate by layer and bit{named}",
        tensors.heat_map(points, [plain(tensor) for tensor in shown], "SDC rate"),
        (),
        f"Darker cells, in dark mode lighter ones, corrupt more answers. Blank: no such bit, or no fault drawn there.{where}",
        Table(("Tensor", *(f"Bit {bit}" for bit in bits)), body, "Figures drawn", folded=True),
    )


def _by_bit(view: View) -> Iterator[Chart]:
    order = {profile: place for place, profile in enumerate(view.profiles)}
    found: dict[tuple[str, str], list[tuple[float, Row]]] = {}
    for metric in ("sdc_rate", "due_rate"):
        for setting, row in view.where(_STUDY, metric, "bit", "format"):
            if _is_bit(setting["bit"]):
                found.setdefault((str(setting["format"]), metric), []).append((float(setting["bit"]), row))
    for form in dict.fromkeys(form for form, _ in found):
        for metric in ("sdc_rate", "due_rate"):
            rows = sorted(found.get((form, metric), ()), key=lambda pair: (order[pair[1].profile], pair[0]))
            if metric == "sdc_rate" or any(row.value for _, row in rows):
                title = f"{metric_title(metric)} by bit of {form} numbers"
                chart = curve_of(view, rows, metric, "Bit (0 = least significant)", title, _FIELDS.get(form, ""))
                yield from (chart,) if chart else ()


def _roles(view: View) -> Table:
    sdc, due = (
        {(row.profile, str(setting["role"])): row for setting, row in view.where(_STUDY, metric, "role")}
        for metric in ("sdc_rate", "due_rate")
    )
    body = tuple(
        (Cell(profile, profile=profile), Cell(role), _counted(row), _counted(due.get((profile, role))))
        for (profile, role), row in sdc.items()
    )
    return Table(("Profile", "Role", "SDC rate", "DUE rate"), body, "By role of the stored number", numeric=False)


def _of(view: View, profile: str, metric: str, *keys: str) -> list[tuple[Mapping[str, Any], Row]]:
    return [(setting, row) for setting, row in view.where(_STUDY, metric, *keys) if row.profile == profile]


def _profiles(view: View) -> set[str]:
    return {row.profile for row in view.rows if row.study == _STUDY and row.status == "ok"}


def _upper(row: Row) -> float:
    bound = row.ci_high if row.ci_high is not None else row.value
    return bound if bound is not None else 0.0


def _point(row: Row, tensor: str) -> dict[str, Any]:
    return charts.point(row, tensor=plain(tensor), n=count_text(row).removeprefix("n\u00a0") or "not stated")


def _counted(row: Row | None) -> Cell:
    return Cell("", tone="muted") if row is None else figure_cell(row, detail=False)


def _is_bit(value: object) -> bool:
    """Whether a condition's bit is one that a number can have; a table from elsewhere may hold anything."""
    return isinstance(value, int) and 0 <= value < _WIDEST
