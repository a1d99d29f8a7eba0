"""Acceptance rules to verdicts: a run's figures compared with a profile's limits."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from hwbench import stats
from hwbench.profile import Profile
from hwbench.table import NO_LABELS, Row, condition

Outcome = Literal["pass", "fail", "inconclusive", "unavailable"]


@dataclass(frozen=True)
class Verdict:
    """The outcome of one acceptance rule of one profile.

    Attributes:
        profile: The profile.
        rule: The rule's name, e.g. ``"max_accuracy_drop"``.
        outcome: pass (the whole interval is inside the limit), fail (outside), inconclusive (it straddles the limit), or
            unavailable (there is no figure).
        limit: The limit asked for.
        study, metric, condition: The row of the table that the rule was compared with.
        value, ci_low, ci_high, unit: That row's figure.
        detail: One sentence for a person.
    """

    profile: str
    rule: str
    outcome: Outcome
    limit: float
    study: str
    metric: str
    condition: str = "{}"
    value: float | None = None
    ci_low: float | None = None
    ci_high: float | None = None
    unit: str = ""
    detail: str = ""


@dataclass(frozen=True)
class Rule:
    """Which figure an acceptance rule is about.

    Attributes:
        study, metric, condition: The row of the table; ``"primary"`` stands for the run's primary metric.
        at_most: Whether the limit is an upper one.
        scale: What the limit is multiplied with to be in the row's unit.
        over_inputs: Whether the interval is over inputs alone, so that more of them narrow it.
    """

    study: str
    metric: str
    condition: str = "{}"
    at_most: bool = True
    scale: float = 1.0
    over_inputs: bool = False


_BATCH_1 = condition(batch=1)
RULES: dict[str, Rule] = {
    "max_accuracy_drop": Rule("accuracy", "accuracy_drop", over_inputs=True),
    "min_accuracy": Rule("accuracy", "primary", at_most=False, over_inputs=True),
    "min_top1_agreement": Rule("fidelity", "top1_agreement", at_most=False, over_inputs=True),
    "min_sqnr_db": Rule("fidelity", "sqnr_db", at_most=False),
    "min_worst_slice_sqnr_db": Rule("fidelity", "worst_slice_sqnr_db", at_most=False, over_inputs=True),
    "max_sqnr_loss_db": Rule("portability", "sqnr_loss_db"),
    "max_p50_ms": Rule("latency", "p50_ms", _BATCH_1),
    "max_p90_ms": Rule("latency", "p90_ms", _BATCH_1),
    "max_p99_ms": Rule("latency", "p99_ms", _BATCH_1),
    "min_samples_per_s": Rule("throughput", "samples_per_s", at_most=False),
    "max_peak_mib": Rule("memory", "peak_mib"),
    "max_model_mib": Rule("memory", "model_bytes", scale=2**20),
    "min_tolerated_ber": Rule("bit_flips", "tolerated_ber", at_most=False),
    "max_sdc_rate": Rule("faults", "sdc_rate"),
    "max_due_rate": Rule("faults", "due_rate"),
}

WORST_SLICE_DB = 4.0
"""The limit on the worst slice of a build without labels, where the profile has none.

At 4 dB, 40 % of the variation is error. The limit separates useless from working builds of models that packages ship. A YOLOv8n
(NudeNet) whose scores share the boxes' scale has two distinct scores left, at 2.3 and 0.6 dB on two sets of images; a text
recognizer (PP-OCRv4) in dynamic int8 reads 1 % of the characters, at −0.1 dB. With a scale of their own, the scores are at 10.3
and 7.4 dB; in static int8 the recognizer reads 95 %, at 5.4 to 6.0 dB; a text detector is at 13 to 14 dB.
"""


def judge(profile: Profile, rows: Sequence[Row], primary: str, *, unlabeled: bool = False) -> list[Verdict]:
    """Hold one profile's figures against its acceptance rules.

    An interval that lies wholly inside the limit passes, wholly outside fails, and otherwise the rule is inconclusive; an exact
    figure passes or fails. Three rules need no setting if their study was run: a build must run as asked
    (unless ``as_asked = false``), and a profile with a memory cap must run under it. Without labels a classifier's loss of
    accuracy is judged by the answers that differ from the reference's, and a build's worst slice by `WORST_SLICE_DB`, where the
    profile gives no limit.

    Args:
        profile: The profile.
        rows: Its rows of the table.
        primary: The run's primary accuracy metric.
        unlabeled: Whether the data have no labels.
    """
    table = {(row.study, row.metric, row.condition): row for row in rows}
    asked: dict[str, tuple[Rule, float]] = {}
    for name, rule in RULES.items():
        limit = getattr(profile.accept, name)
        if limit is not None:
            asked[name] = (replace(rule, metric=primary) if rule.metric == "primary" else rule, limit)
    measured = {row.study for row in rows}
    slices = table.get(("fidelity", "worst_slice_sqnr_db", "{}"))
    if unlabeled and slices is not None and slices.value is not None:
        asked.setdefault("min_worst_slice_sqnr_db", (RULES["min_worst_slice_sqnr_db"], WORST_SLICE_DB))
    if profile.accept.as_asked and "coverage" in measured:
        asked["as_asked"] = (Rule("coverage", "nodes_as_asked", at_most=False), 1.0)
    verdicts = [_hold(profile.name, name, rule, limit, table) for name, (rule, limit) in asked.items()]
    verdicts = [_without_labels(verdict, table) for verdict in verdicts]
    if profile.target.memory_mib is not None and "memory" in measured:
        verdicts.append(_fits(profile, table))
    return verdicts


def exit_code(
    verdicts: Iterable[Verdict], rows: Iterable[Row], *, required: Iterable[str] = (), strict: bool = False
) -> int:
    """The exit code of a run that was carried out: 0, 1 (a rule fails or a job ended badly), 3 or 4.

    Args:
        verdicts: All verdicts.
        rows: All rows.
        required: Profiles that must be available.
        strict: Whether inconclusive verdicts, and unavailable profiles and rules, count.
    """
    verdicts, rows = list(verdicts), list(rows)
    if any(verdict.outcome == "fail" for verdict in verdicts):
        return 1
    if any(row.status in ("error", "timeout", "oom", "crash") for row in rows):
        return 1
    usable = {row.profile for row in rows if row.status == "ok"}
    missing = {row.profile for row in rows} - usable or any(verdict.outcome == "unavailable" for verdict in verdicts)
    if set(required) - usable or (strict and missing):
        return 3
    if strict and any(verdict.outcome == "inconclusive" for verdict in verdicts):
        return 4
    return 0


def _hold(profile: str, name: str, rule: Rule, limit: float, table: Mapping[tuple[str, str, str], Row]) -> Verdict:
    row = table.get((rule.study, rule.metric, rule.condition))
    verdict = Verdict(profile, name, "unavailable", limit, rule.study, rule.metric, rule.condition)
    if row is None or row.value is None or math.isnan(row.value):
        missing = [row for (study, _, _), row in table.items() if study == rule.study and row.status != "ok"]
        why = missing[0].detail if missing else f"the study {rule.study!r} gave no {rule.metric} in this run"
        return replace(verdict, detail=why)
    low, high = (
        (row.ci_low, row.ci_high) if row.ci_low is not None and row.ci_high is not None else (row.value, row.value)
    )
    bound = limit * rule.scale
    inside = high <= bound if rule.at_most else low >= bound
    outside = low > bound if rule.at_most else high < bound
    outcome: Outcome = "pass" if inside else "fail" if outside else "inconclusive"
    needed = _needed(row, low, high, bound, table) if outcome == "inconclusive" and rule.over_inputs else ""
    return replace(
        verdict,
        outcome=outcome,
        value=row.value,
        ci_low=row.ci_low,
        ci_high=row.ci_high,
        unit=row.unit,
        limit=bound,
        detail="; ".join(part for part in (row.detail, needed) if part),
    )


def _without_labels(verdict: Verdict, table: Mapping[tuple[str, str, str], Row]) -> Verdict:
    """The verdict on the loss of accuracy where there are no labels.

    Outputs equal to the reference's lose nothing, whatever the labels. A classifier's accuracy cannot fall by more than the
    share of answers that differ from the reference's: where it is inside the limit, so is the loss. Beyond it nothing is known.
    """
    if verdict.rule != "max_accuracy_drop" or verdict.outcome != "unavailable" or verdict.detail != NO_LABELS:
        return verdict
    error = table.get(("fidelity", "max_abs_error", "{}"))
    if error is not None and error.status == "ok" and error.value == 0 and not error.detail:
        equal = f"{NO_LABELS}; all outputs equal the reference's, so that nothing is lost"
        return replace(verdict, outcome="pass", value=0.0, detail=equal)
    row = table.get(("fidelity", "top1_agreement", "{}"))
    if row is None or row.value is None or row.ci_low is None or row.ci_high is None:
        advice = "min_worst_slice_sqnr_db and min_sqnr_db, with the study 'fidelity', judge a build without labels"
        return replace(verdict, detail=f"{NO_LABELS}; {advice}")
    low, high = 1 - row.ci_high, 1 - row.ci_low
    within = high <= verdict.limit
    detail = f"{NO_LABELS}: the share of answers that differ from the reference's, which the loss cannot exceed"
    return replace(
        verdict,
        outcome="pass" if within else "inconclusive",
        study=row.study,
        metric=row.metric,
        value=1 - row.value,
        ci_low=low,
        ci_high=high,
        unit=row.unit,
        detail=detail if within else f"{detail}; labels would decide",
    )


def _needed(row: Row, low: float, high: float, limit: float, table: Mapping[tuple[str, str, str], Row]) -> str:
    """The number of inputs that would decide an inconclusive rule, in words; empty where it is not known."""
    value, n = row.value, row.n
    if value is None or not n or not math.isfinite(low) or not math.isfinite(high):
        return ""
    counts = [table.get(("accuracy", "discordant", condition(right=side))) for side in ("reference", "build")]
    lost, gained = (None if count is None else count.value for count in counts)
    if row.metric == "accuracy_drop" and lost is not None and gained is not None:
        needed = stats.paired_inputs_to_decide(lost, gained, n, limit)
    else:
        needed = stats.inputs_to_decide(stats.shrinking(value, low, high, n), limit, n)
    if needed is None:
        return f"n = {n} does not decide; the figure is at the limit, where no number of inputs would"
    return f"n = {n} does not decide; about {needed} inputs like these would"


def _fits(profile: Profile, table: Mapping[tuple[str, str, str], Row]) -> Verdict:
    cap = float(profile.target.memory_mib or 0)
    setting = condition(cap_mib=profile.target.memory_mib)
    verdict = Verdict(profile.name, "fits_memory", "unavailable", cap, "memory", "peak_mib", setting, unit="MiB")
    row = table.get(("memory", "peak_mib", setting))
    if row is None or row.status not in ("ok", "oom"):
        return replace(verdict, detail=row.detail if row else "the study 'memory' made no run under the cap")
    return replace(verdict, outcome="pass" if row.status == "ok" else "fail", value=row.value, detail=row.detail)
