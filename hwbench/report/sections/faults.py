"""Single faults: how probably one of them changes a prediction, and which tensors and bits carry that risk."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from hwbench.report import charts, tensors
from hwbench.report.blocks import Cell, Chart, Section, Table, figure_cell
from hwbench.report.format import exact, figure_text, metric_title, plain, value_text
from hwbench.report.view import View, drawn
from hwbench.table import Row, condition

STUDIES = ("faults",)
SHOWN = 30  # tensors drawn; more would not fit a screen
_STUDY = "faults"
_AXIS = "Bit (0 = least significant)"
_WIDEST = 64  # bits of the widest stored number
_MARGINS = {
    "top5": "SDC beyond top\u00a05",
    "confidence_10": "SDC, confidence down >\u00a010\u00a0%",
    "confidence_20": "SDC, confidence down >\u00a020\u00a0%",
}
_CHECKS = (
    "golden_max_abs_diff",
    "verified_trials",
    "rebuilt_trials",
    "untold_trials",
    "left_out_tensors",
    "covered_numbers",
)
_ENDS = {"ok": "Ran", "refused": "Refused", "crash": "Died", "timeout": "Hung"}
_FIELDS = {
    "float32": "Bits 0 to 22 are the mantissa, 23 to 30 the exponent, 31 the sign.",
    "float16": "Bits 0 to 9 are the mantissa, 10 to 14 the exponent, 15 the sign.",
    "bfloat16": "Bits 0 to 6 are the mantissa, 7 to 14 the exponent, 15 the sign.",
    "int4": "Bit 3 is the sign.",
    "int8": "Bit 7 is the sign.",
    "int32": "Bit 31 is the sign.",
    "int64": "Bit 63 is the sign.",
}


def section(view: View) -> Section | None:
    """Overall rates first, then by tensor, bit position, both, and role."""
    if not any(row.status == "ok" for row in view.rows if row.study == _STUDY):
        return None
    by_tensor = [chart for profile in view.profiles for chart in _by_tensor(view, profile)]
    return Section(
        "Single faults in the build",
        "One fault at a time in the deployed build, compared with the fault-free output on the same inputs: in a stored "
        "number, or under @activation in a tensor between operators or an input, under @artefact in a byte of the file. Silent "
        "data corruption (SDC): the output is finite but the answer is another. Detected (DUE): the output is NaN or "
        "infinite, or the run died. Rates are over pairs of fault and input; n counts what stands behind each.",
        (*by_tensor, *_by_bit(view)),
        tuple(table for table in (_roles(view), _checks(view)) if table.rows),
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
            head = view.headline(profile, _STUDY, "sdc_rate")
            if head is not None and head.status != "ok":
                figures[0] = figure_cell(head)  # with the reason why
            body.append((Cell(profile, profile=profile), *figures))
    return Table(("Profile", *asked), tuple(body), "Over all bits that faults were drawn from")


def _by_tensor(view: View, profile: str) -> Iterator[Chart]:
    rows = {str(setting["tensor"]): row for setting, row in _of(view, profile, "sdc_rate", "tensor")}
    named = f": {profile}" if len(_measured(view)) > 1 else ""
    if rows:
        yield _bars(view, profile, rows, f"SDC rate by layer{named}")
    cells: dict[str, dict[int, Row]] = {}
    for setting, row in _of(view, profile, "sdc_rate", "tensor", "bit"):
        if _is_bit(setting["bit"]):
            cells.setdefault(str(setting["tensor"]), {})[setting["bit"]] = row
    if cells:
        yield _heat_map(rows, cells, f"SDC rate by layer and bit{named}")


def _bars(view: View, profile: str, rows: Mapping[str, Row], title: str) -> Chart:
    dues = {str(setting["tensor"]): row for setting, row in _of(view, profile, "due_rate", "tensor")}
    shown = _riskiest({tensor: _upper(row) for tensor, row in rows.items()})
    points = [
        _point(rows[tensor], tensor, label)
        | {"more": f"DUE rate {figure_text(dues[tensor])}" if tensor in dues else "no DUE rate"}
        for tensor, label in tensors.labels(shown).items()
    ]
    beside = [dues] if dues else []
    body = tuple(
        (Cell(tensor, (row.detail,) if row.detail else ()), *(_one_note(one.get(tensor)) for one in (rows, *beside)))
        for tensor, row in rows.items()
    )
    cut = _cut(shown, rows)
    return Chart(
        title,
        tensors.tensor_bars(points, charts.style(view.profiles.index(profile))[0], "SDC rate"),
        (),
        f"In the order of the graph; lines are intervals.{f'{cut}; the table has all.' if cut else ''}",
        Table(
            ("Tensor", "SDC rate", *("DUE rate" for _ in beside)),
            body,
            "Figures of all tensors" if cut else "Figures drawn",
            folded=True,
        ),
    )


def _heat_map(rows: Mapping[str, Row], cells: Mapping[str, Mapping[int, Row]], title: str) -> Chart:
    bounds = {tensor: _upper(rows[tensor]) for tensor in rows if tensor in cells}  # in the order of the bars
    bounds |= {tensor: max(map(_upper, by.values())) for tensor, by in cells.items() if tensor not in bounds}
    shown = _riskiest(bounds)
    points = [
        _point(row, tensor, label) | {"bit": bit}
        for tensor, label in tensors.labels(shown).items()
        for bit, row in sorted(cells[tensor].items())
    ]
    bits = range(max(point["bit"] for point in points) + 1)
    body = tuple((Cell(tensor), *(_one_note(cells[tensor].get(bit)) for bit in bits)) for tensor in shown)
    cut = _cut(shown, cells)
    return Chart(
        title,
        tensors.heat_map(points),
        (),
        "Blank: the number has no such bit, or no fault was drawn there."
        f"{f'{cut}; the others are in measurements.parquet.' if cut else ''}",
        Table(("Tensor", *(f"Bit {bit}" for bit in bits)), body, "Figures drawn", folded=True),
        tensors.SHADE_KEYS,
    )


def _riskiest(bounds: Mapping[str, float]) -> list[str]:
    """The tensors with the highest upper bounds, in the order they came in."""
    chosen = set(sorted(bounds, key=lambda tensor: -bounds[tensor])[:SHOWN])
    return [tensor for tensor in bounds if tensor in chosen]


def _cut(shown: Sequence[str], every: Collection[str]) -> str:
    if len(shown) == len(every):
        return ""
    return f" Only the {len(shown)} of {len(every)} tensors with the highest upper bound are drawn"


def _by_bit(view: View) -> Iterator[Chart]:
    found: dict[tuple[str, str], dict[tuple[int, str], Row]] = {}
    for metric in ("sdc_rate", "due_rate"):
        for setting, row in view.where(_STUDY, metric, "bit", "format"):
            if _is_bit(setting["bit"]):
                found.setdefault((str(setting["format"]), metric), {})[setting["bit"], row.profile] = row
    for form in dict.fromkeys(form for form, _ in found):
        for metric in ("sdc_rate", "due_rate"):
            rows = found.get((form, metric), {})
            if rows and (metric == "sdc_rate" or any(row.value for row in rows.values())):
                yield _bits(view, form, metric, rows)


def _bits(view: View, form: str, metric: str, rows: Mapping[tuple[int, str], Row]) -> Chart:
    profiles = drawn(rows.values(), view)
    domain = range(max(_width(form), 1 + max(bit for bit, _ in rows)))
    points = [charts.point(row, x=bit, n=_count(row)) for (bit, _), row in sorted(rows.items())]
    body = tuple(
        (Cell(str(bit)), *(_one_note(rows.get((bit, profile))) for profile in profiles))
        for bit in sorted({bit for bit, _ in rows})
    )
    return Chart(
        f"{metric_title(metric)} by bit of {form} numbers",
        charts.places(points, view.profiles, domain, _AXIS, metric_title(metric)),
        profiles,
        f"{_FIELDS.get(form, '')} Lines are intervals.".strip(),
        Table((_AXIS, *profiles), body, "Figures drawn", folded=True),
    )


def _width(form: str) -> int:
    """Bits of a number format, as its name says; 0 if it says none."""
    digits = re.search(r"[1-9][0-9]?$", form)
    return min(int(digits[0]), _WIDEST) if digits else 0


def _roles(view: View) -> Table:
    sdc, due = (
        {(row.profile, str(setting["role"])): row for setting, row in view.where(_STUDY, metric, "role")}
        for metric in ("sdc_rate", "due_rate")
    )
    rates = {"SDC rate": sdc, **({"DUE rate": due} if due else {})}
    body = tuple(
        (
            Cell(profile, profile=profile),
            Cell(role.replace("_", " ")),
            *(_counted(rate.get((profile, role))) for rate in rates.values()),
        )
        for profile, role in sdc
    )
    return Table(("Profile", "Role", *rates), body, "By role of the number", numeric=False)


def _checks(view: View) -> Table:
    """What the engine, which runs only the part of the graph after a fault, was held against."""
    body = tuple(
        (Cell(profile, profile=profile), Cell(metric_title(row.metric)), Cell(value_text(row)), Cell(row.detail))
        for profile in view.profiles
        for metric in _CHECKS
        if (row := view.row(profile, _STUDY, metric)) is not None
    )
    body += tuple(
        (
            Cell(row.profile, profile=row.profile),
            Cell(f"{_ENDS.get(str(setting['end']), setting['end'])}, of {row.n} processes"),
            Cell(value_text(row)),
            Cell(row.detail),
        )
        for setting, row in view.where(_STUDY, "processes", "end")
    )
    return Table(("Profile", "Check", "Figure", "What that means"), body, "Checks of the campaign", numeric=False)


def _of(view: View, profile: str, metric: str, *keys: str) -> list[tuple[Mapping[str, Any], Row]]:
    return [(setting, row) for setting, row in view.where(_STUDY, metric, *keys) if row.profile == profile]


def _measured(view: View) -> set[str]:
    return {row.profile for row in view.rows if row.study == _STUDY and row.status == "ok"}


def _upper(row: Row) -> float:
    bound = row.ci_high if row.ci_high is not None else row.value
    return bound if bound is not None else 0.0


def _point(row: Row, tensor: str, label: str) -> dict[str, Any]:
    return charts.point(row, label=label, tensor=plain(tensor), n=_count(row))


def _count(row: Row) -> str:
    return "not stated" if row.n is None else exact(row.n)


def _one_note(row: Row | None) -> Cell:
    """A figure with its interval and count on one line under it, for tables of hundreds of them."""
    cell = _counted(row)
    return Cell(cell.text, (" ".join(cell.notes),) if cell.notes else (), cell.tone)


def _counted(row: Row | None) -> Cell:
    return Cell("", tone="muted") if row is None else figure_cell(row, detail=False)


def _is_bit(value: object) -> bool:
    """Whether a condition's bit is one that a number can have; a table from elsewhere may hold anything."""
    return isinstance(value, int) and 0 <= value < _WIDEST
