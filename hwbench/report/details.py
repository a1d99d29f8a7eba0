"""Everything about one profile: what it is, its rules, its figures, its worst layers and classes."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hwbench.report.blocks import Cell, Table, short_cell
from hwbench.report.format import exact, metric_title, number, study_title, words
from hwbench.report.sections.coverage import asked_text, deviations, ran_text
from hwbench.report.summary import limit_text, rule_title, verdict_figure
from hwbench.report.view import ProfileOutcome, View, settings
from hwbench.table import Row

LISTED = 20
_LAYER_TITLES = {"own_sqnr_db": "SQNR, its own", "sqnr_db": "SQNR, accumulated"}
_APART = frozenset({"class", "tensor", "node", "bit", "output"})


@dataclass(frozen=True)
class ProfileDetail:
    """One profile's part of the report.

    Attributes:
        name: The profile.
        outcome: What its verdicts come to.
        facts: (label, text) pairs.
        tables: Its rules, figures, worst layers and classes.
    """

    name: str
    outcome: ProfileOutcome
    facts: tuple[tuple[str, str], ...]
    tables: tuple[Table, ...]


def details(view: View) -> list[ProfileDetail]:
    """Every profile's part, in the run's order."""
    return [ProfileDetail(name, view.outcome(name), _facts(view, name), _tables(view, name)) for name in view.profiles]


def _facts(view: View, name: str) -> tuple[tuple[str, str], ...]:
    about = view.about(name)
    seconds = about.get("seconds")
    pairs = (
        ("What it is", about.get("summary")),
        ("Status", about.get("status") if about.get("status", "ok") != "ok" else None),
        ("Reason", about.get("detail")),
        ("What would help", about.get("hint")),
        ("Backend", about.get("backend")),
        ("Target", _target(about.get("target"))),
        ("Asked", asked_text(_mapping(about.get("asked")))),
        ("Ran", ran_text(_mapping(about.get("ran")))),
        ("Kept in float", _kept(_mapping(about.get("kept_in_float")))),
        ("Build", about.get("build")),
        ("Same build as", ", ".join(map(str, about.get("shares_build_with") or ()))),
        ("Measured in", f"{number(seconds)} s" if isinstance(seconds, int | float) else None),
    )
    return tuple((label, str(text)) for label, text in pairs if text)


def _mapping(content: object) -> Mapping[str, Any]:
    return content if isinstance(content, Mapping) else {}


def _target(content: object) -> str:
    target = _mapping(content)
    cap, quota = target.get("memory_mib"), target.get("cpu_quota")
    parts = (
        str(target.get("kind") or ""),
        f"{cap} MiB of memory" if cap else "",
        f"{target['cpu']} ({target['arch']})" if target.get("cpu") else "",
        f"{quota} cores" if quota else "",
        f"processors {', '.join(map(str, target['processors']))}" if target.get("processors") else "",
        f"enforced by {target['mechanism']}" if target.get("mechanism") and (cap or quota) else "",
    )
    return ", ".join(part for part in parts if part)


def _kept(reasons: Mapping[str, Any]) -> str:
    """The tensors that 8 bits could not hold, with the reason."""
    shown = [f"{name}: {why}" for name, why in list(reasons.items())[:LISTED]]
    return "; ".join([*shown, *([f"and {len(reasons) - LISTED} more"] if len(reasons) > LISTED else [])])


def _tables(view: View, name: str) -> tuple[Table, ...]:
    rows = [row for row in view.rows if row.profile == name]
    astray = deviations(view, name)
    nodes = tuple(
        (Cell(str(settings(row.condition).get("node", ""))), Cell(row.detail or row.status)) for row in astray[:LISTED]
    )
    tables = (
        _rules(view, name),
        _figures(rows),
        *_layers(rows),
        _classes(rows, view.primary),
        Table(
            ("Node", "Asked, and what ran instead"),
            nodes,
            _first("Nodes that ran otherwise than asked", len(nodes), len(astray)),
            numeric=False,
        ),
    )
    return tuple(table for table in tables if table.rows)


def _first(title: str, shown: int, total: int) -> str:
    return title if shown == total else f"{title} ({shown} of {total})"


def _rules(view: View, name: str) -> Table:
    body = tuple(
        (
            Cell(rule_title(v.rule), (v.rule,)),
            Cell(v.outcome, tone=v.outcome),
            Cell(" ".join(verdict_figure(v))),
            Cell(limit_text(v)),
            Cell(v.detail),
        )
        for v in view.rules(name)
    )
    return Table(("Rule", "Verdict", "Figure", "Limit", "Note"), body, "Acceptance rules", numeric=False)


def _figures(rows: Sequence[Row]) -> Table:
    shown = [row for row in rows if not settings(row.condition).keys() & _APART]
    order = {key: place for place, key in enumerate(dict.fromkeys((row.study, row.metric) for row in shown))}
    studies = list(dict.fromkeys(row.study for row in shown))
    shown.sort(key=lambda row: (studies.index(row.study), order[row.study, row.metric]))
    body = []
    for before, row in zip([None, *shown], shown, strict=False):
        study = "" if before is not None and before.study == row.study else study_title(row.study)
        count = Cell("" if row.n is None else exact(row.n))
        body.append(
            (
                Cell(study),
                Cell(metric_title(row.metric)),
                Cell(words(settings(row.condition))),
                short_cell(row),
                count,
                Cell(row.detail),
            )
        )
    level = next((row.ci_level for row in shown if row.ci_level is not None), None)
    title = f"Figures, intervals at {100 * level:.3g} %" if level else "Figures"
    return Table(("Study", "Metric", "Condition", "Figure", "n", "Note"), tuple(body), title, numeric=False)


def _layers(rows: Sequence[Row]) -> tuple[Table, Table]:
    """The layers, largest error of their own first, and those for which it is not known."""
    found: dict[str, dict[str, Row]] = {}
    for row in rows:
        tensor = settings(row.condition).get("tensor") if row.study == "fidelity" else None
        if tensor is not None:
            found.setdefault(str(tensor), {})[row.metric] = row
    unranked = {name: by for name, by in found.items() if "own_sqnr_db" in by and by["own_sqnr_db"].status != "ok"}
    ranked = sorted((item for item in found.items() if item[0] not in unranked), key=lambda item: _own_error(item[1]))
    metrics = dict.fromkeys((*_LAYER_TITLES, *(metric for _, by in ranked for metric in by)))
    shown = [metric for metric in metrics if any(metric in by for _, by in ranked)]
    titles = (_LAYER_TITLES.get(metric, metric_title(metric)) for metric in shown)
    body = tuple(
        (Cell(name, tuple(filter(None, [next(iter(by.values())).detail]))), *(short_cell(by.get(m)) for m in shown))
        for name, by in ranked
    )
    others = tuple(
        (Cell(name), short_cell(by.get("sqnr_db")), Cell(by["own_sqnr_db"].detail)) for name, by in unranked.items()
    )[:LISTED]
    return (
        Table(("Layer", *titles), body, "Layers, largest error of their own first"),
        Table(
            ("Layer", _LAYER_TITLES["sqnr_db"], "Reason"),
            others,
            _first("Layers whose own error is not known", len(others), len(unranked)),
            numeric=False,
        ),
    )


def _own_error(by_metric: Mapping[str, Row]) -> float:
    row = by_metric.get("own_sqnr_db")
    return -math.inf if row is None or row.value is None else row.value


def _classes(rows: Sequence[Row], primary: str) -> Table:
    found = [
        row for row in rows if row.study == "accuracy" and row.metric == primary and "class" in settings(row.condition)
    ]
    worst = sorted(found, key=lambda row: (row.value is None, row.value or 0.0))[:LISTED]
    body = tuple(
        (Cell(str(settings(row.condition)["class"])), short_cell(row), Cell("" if row.n is None else exact(row.n)))
        for row in worst
    )
    return Table(("Class", metric_title(primary), "n"), body, _first("Classes, worst first", len(body), len(found)))
