"""The answer first: the conclusion in a sentence, the verdict matrix and the profiles side by side."""

from __future__ import annotations

from collections import Counter

from hwbench.report.blocks import Cell, Table, figure_cell
from hwbench.report.format import (
    METRIC_TITLES,
    exact,
    figure_text,
    interval_text,
    metric_title,
    plain,
    size,
    unit_suffix,
    value_text,
)
from hwbench.report.ranking import is_open, latencies, leaders
from hwbench.report.view import REFERENCE, View
from hwbench.table import NO_LABELS, Row
from hwbench.verdict import Verdict

_OUTCOME_PHRASES = {
    "fail": ("fails", "fail"),
    "error": ("had a job end in an error", "had jobs end in an error"),
    "inconclusive": ("is inconclusive", "are inconclusive"),
    "unavailable": ("could not run here", "could not run here"),
    "no rules": ("has no rules", "have no rules"),
}
# The title, the figure, and whether less of it is better.
_BEST = (
    ("fastest", "latency", "p50_ms", True),
    ("smallest", "memory", "model_bytes", True),
    ("least memory", "memory", "peak_mib", True),
    ("most tolerant of bit errors", "bit_flips", "tolerated_ber", False),
)
_NAMED = 3  # profiles that share a lead, at most
_COMPARED = (
    ("accuracy", "accuracy_drop"),
    ("latency", "p50_ms"),
    ("latency", "p99_ms"),
    ("throughput", "samples_per_s"),
    ("memory", "peak_mib"),
    ("memory", "model_bytes"),
    ("bit_flips", "tolerated_ber"),
    ("faults", "sdc_rate"),
    ("faults", "due_rate"),
    ("worst_case", "flips_needed"),
    ("fidelity", "sqnr_db"),
)
_AGREEMENT = (  # what leads where accuracy is not known
    ("fidelity", "sqnr_db"),
    ("fidelity", "worst_slice_sqnr_db"),
    ("fidelity", "top1_agreement"),
)
_TELLING = frozenset({"throughput", "fidelity"})  # studies whose details belong beside the figure
_NAMED_RULES = {"as_asked": "Runs as asked", "fits_memory": "Fits in memory", "max_model_mib": "Model size"}


def conclusion(view: View) -> str:
    """The number of profiles that pass, and the outcome of the others."""
    if not view.profiles:
        return "No profile was run."
    outcomes: Counter[str] = Counter(view.outcome(profile) for profile in view.profiles)
    if outcomes.keys() <= {"no rules", "unavailable", "error"} and not view.verdicts:
        measured = outcomes.pop("no rules", 0)
        first = f"{measured} profile{'s were' if measured != 1 else ' was'} measured; no acceptance rule was given."
    else:
        passed = outcomes["pass"]
        first = f"{passed} of {len(view.profiles)} profiles meet{'s' if passed == 1 else ''} every acceptance rule."
    rest = [
        f"{outcomes[key]} {one if outcomes[key] == 1 else many}"
        for key, (one, many) in _OUTCOME_PHRASES.items()
        if outcomes[key]
    ]
    unlabeled = f"{NO_LABELS.capitalize()}: builds are judged by their agreement with the reference."
    return " ".join([first, *([f"{', '.join(rest)}."] if rest else []), *([unlabeled] if view.is_unlabeled else [])])


def best(view: View) -> list[tuple[str, str, str]]:
    """Of the profiles that pass: (title, profiles, figure) of the fastest and so on; none unless two pass.

    Profiles whose intervals overlap the best one's are named with it; a lead that more than a few share is left out.
    """
    passing = [profile for profile in view.profiles if view.outcome(profile) == "pass"]
    leading = []
    for title, study, metric, lower_is_better in _BEST:
        figures = {name: row for name in passing if (row := view.headline(name, study, metric)) is not None}
        figures = {name: row for name, row in figures.items() if row.status == "ok" and row.value is not None}
        compared = latencies(view, passing) if study == "latency" else figures
        if len(compared) > 1:
            names = leaders(list(compared.values()), lower_is_better=lower_is_better)
            if len(names) <= min(_NAMED, len(compared) - 1):
                values = dict.fromkeys(value_text(figures[name]) for name in names)
                leading.append((title, " and ".join(names), " and ".join(values)))
    return leading


def notice(view: View) -> str:
    """Warnings about the run as a whole, such as that it is not complete; empty if there are none."""
    state = view.run.get("state", "complete")
    warnings = [str(warning) for warning in view.run.get("warnings") or ()]
    if state != "complete":
        warnings.insert(
            0, f"This run is {'still running' if state == 'running' else state}: only what was finished is shown."
        )
    return " ".join(warnings)


def verdict_matrix(view: View) -> Table:
    """Profiles by rules; each cell has the outcome, the figure with its interval, and the limit."""
    rules = tuple(dict.fromkeys(verdict.rule for verdict in view.verdicts))
    body = []
    for profile in view.profiles:
        mine = {verdict.rule: verdict for verdict in view.rules(profile)}
        overall = view.outcome(profile)
        tone = "muted" if overall == "no rules" else overall
        reason = view.reason(profile)
        head = Cell(profile, profile=profile)
        body.append(
            (head, Cell(overall, (reason,) if reason else (), tone), *(verdict_cell(mine.get(rule)) for rule in rules))
        )
    return Table(("Profile", "Overall", *(rule_title(rule) for rule in rules)), tuple(body), numeric=False)


def verdict_cell(verdict: Verdict | None) -> Cell:
    """One verdict: outcome, figure, limit; why, where the figure does not say it."""
    if verdict is None:
        return Cell("no rule", tone="muted")
    named = verdict.rule in _NAMED_RULES or worst_part(verdict)
    why = verdict.detail if verdict.outcome == "fail" and named else ""
    notes = (*verdict_figure(verdict), f"limit {limit_text(verdict)}", why)
    return Cell(verdict.outcome, tuple(note for note in notes if note), verdict.outcome)


def worst_part(verdict: Verdict) -> str:
    """The part of the output that a verdict on the worst slice is about; empty for other rules and for what passes."""
    is_slice = verdict.metric == "worst_slice_sqnr_db" and verdict.outcome in ("fail", "inconclusive")
    return verdict.detail.partition(": ")[0] if is_slice else ""


def verdict_figure(verdict: Verdict) -> tuple[str, ...]:
    """The figure that a rule was compared with and its interval, if there are any."""
    if verdict.value is None:
        return ()
    if verdict.rule == "as_asked":
        return ("all nodes" if verdict.value == 1.0 else f"{100 * verdict.value:.3g} % of nodes",)
    low, high = verdict.ci_low, verdict.ci_high
    row = Row(verdict.study, verdict.metric, value=verdict.value, unit=verdict.unit, ci_low=low, ci_high=high)
    return tuple(part for part in (value_text(row), interval_text(low, high, row.value)) if part)


def limit_text(verdict: Verdict) -> str:
    """A rule's limit with its direction, e.g. ``"≤ 0.01"``."""
    if verdict.rule == "as_asked":
        return "all nodes"
    sign = "≥" if verdict.rule.startswith("min_") else "≤"
    shown = size(verdict.limit) if verdict.metric == "model_bytes" else exact(verdict.limit) + unit_suffix(verdict.unit)
    return f"{sign} {shown}"


def rule_title(rule: str) -> str:
    """A rule's name for a person, e.g. ``max_p99_ms`` as ``"Latency p99"``."""
    bare = rule.removeprefix("max_").removeprefix("min_")
    return _NAMED_RULES.get(rule) or METRIC_TITLES.get(bare, bare.replace("_", " ").capitalize())


def comparison(view: View) -> Table:
    """The profiles side by side, the reference first; columns that nobody measured are left out."""
    measured = {(row.study, row.metric) for row in view.rows if row.status == "ok"}
    lead = (("accuracy", view.primary),) if ("accuracy", view.primary) in measured else _AGREEMENT
    wanted = dict.fromkeys((*lead, *_COMPARED))
    columns = [pair for pair in wanted if pair in measured]
    names = [
        name
        for name in (REFERENCE, *view.profiles)
        if name != REFERENCE or view.row(REFERENCE, "accuracy", view.primary)
    ]
    body = tuple((_name_cell(view, name), *(_compared_cell(view, name, *pair) for pair in columns)) for name in names)
    return Table(("Profile", *(_heading(metric) for _, metric in columns)), body)


def _relative(view: View, name: str) -> tuple[str, ...]:
    """The ratio of a profile's latency to the baseline's, in words; the baseline's own is named."""
    baseline, ratio = view.run.get("baseline"), view.headline(name, "latency", "p50_ratio")
    if baseline == name:
        return ("the ratios' baseline",)
    if baseline is None or ratio is None or ratio.status != "ok" or ratio.metric != "p50_ratio":
        return ()
    return (f"{figure_text(ratio)} × {plain(baseline)}",)


def _heading(metric: str) -> str:
    return {"sqnr_db": "Fidelity (SQNR)", "samples_per_s": "Best throughput"}.get(metric, metric_title(metric))


def _name_cell(view: View, name: str) -> Cell:
    about = view.about(name)
    return Cell(name, (str(about["summary"]),) if about.get("summary") else (), profile=name)


def _compared_cell(view: View, name: str, study: str, metric: str) -> Cell:
    row = view.headline(name, study, metric)
    if row is None and name == REFERENCE:
        return Cell("")
    cell = figure_cell(row, detail=row is not None and row.status == "ok" and study in _TELLING)
    if row is not None and row.metric == "tolerated_ber" and row.detail.startswith(("below", "above", "not decided")):
        cell = Cell(cell.text, (*cell.notes, row.detail.partition(":")[0]))
    if row is not None and row.status == "ok" and study in {"latency", "throughput"} and is_open(row):
        cell = Cell(cell.text, (*cell.notes, "noisy"))
    elif row is not None and metric == "p50_ms":
        cell = Cell(cell.text, (*cell.notes, *_relative(view, name)))
    return Cell(cell.text, cell.notes, "muted") if cell.tone == "unavailable" else cell
