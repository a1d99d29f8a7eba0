"""Portability: outputs of each build on other processors' instruction sets, compared with those here."""

from __future__ import annotations

from hwbench.report.blocks import Cell, Section, Table, Tone, figure_cell
from hwbench.report.format import figure_text, number
from hwbench.report.view import View, settings
from hwbench.table import Row, condition

STUDIES = ("portability",)
_STUDY = "portability"
_NATIVE = "native"


def section(view: View) -> Section | None:
    """Every build on every instruction set."""
    profiles = [profile for profile in view.profiles if view.of(profile, _STUDY)]
    targets = list(dict.fromkeys(target for profile in profiles for target in _targets(view, profile)))
    if not targets:
        return None
    body = tuple(
        (Cell(profile, profile=profile), *(_cell(view, profile, target) for target in targets)) for profile in profiles
    )
    return Section(
        "Will it be the same on their machines?",
        "Each build, the same file, ran on other processors' instruction sets, emulated. A figure is the SQNR of the outputs "
        "against the reference's; under it, the loss against this processor and the first layer whose values differ.",
        tables=(Table(("Profile", *targets), body), _circumstances(view, profiles, targets)),
    )


def _targets(view: View, profile: str) -> list[str]:
    return [str(at["target"]) for row in view.of(profile, _STUDY) if "target" in (at := settings(row.condition))]


def _cell(view: View, profile: str, target: str) -> Cell:
    figure = view.row(profile, _STUDY, "sqnr_db", condition(target=target))
    if figure is None:
        return figure_cell(view.headline(profile, _STUDY, "sqnr_loss_db"))
    portable = view.row(profile, _STUDY, "portable", condition(target=target))
    if figure.status != "ok" or portable is None:
        return figure_cell(figure, detail=figure.status != "ok")
    agreement = view.row(profile, _STUDY, "top1_agreement", condition(against=_NATIVE, target=target))
    tone: Tone = "pass" if portable.value else "fail"
    notes = (
        portable.detail,
        ""
        if agreement is None or agreement.value == 1.0
        else f"top-1 agreement with this processor: {figure_text(agreement)}",
        _first_layer(view, profile, target),
    )
    return Cell(figure_text(figure), tuple(note for note in notes if note), tone)


def _first_layer(view: View, profile: str, target: str) -> str:
    for row in view.of(profile, _STUDY):
        at = settings(row.condition)
        if at.get("target") == target and "tensor" in at and row.status == "ok":
            operator = row.detail.partition(":")[0]
            observable = "observable " if "observable" in row.detail else ""
            return f"first {observable}difference at {at['tensor']} ({operator}), SQNR {number(row.value or 0.0)} dB"
    return ""


def _circumstances(view: View, profiles: list[str], targets: list[str]) -> Table:
    """The int8 instructions and the versions of each target, which may differ too."""
    body = []
    for target in targets:
        rows = [view.row(profile, _STUDY, "sqnr_db", condition(target=target)) for profile in profiles]
        details = dict.fromkeys(_detail(row) for row in rows if row is not None)
        body.append((Cell(target), Cell(next(iter(details), ""), tuple(details)[1:])))
    return Table(("Target", "What ran there"), tuple(body), "The targets", numeric=False)


def _detail(row: Row) -> str:
    return row.detail if row.status == "ok" else f"{row.status}: {row.detail}"
