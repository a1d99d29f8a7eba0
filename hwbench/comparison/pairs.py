"""Differences of accuracy figures paired by input, where two runs evaluated the same inputs with the same labels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import polars as pl

from hwbench.callables import is_reference
from hwbench.comparison.figures import Figure
from hwbench.metrics import TASKS, Metric
from hwbench.npy import Array
from hwbench.pairing import input_loss
from hwbench.per_input import PerInput

KEY = ("profile", "study", "metric", "condition")
Key = tuple[str, ...]
_LEVEL = 0.95
_STUDY = "accuracy"
_REFERENCE = "reference"
_NAMED = {metric.name: metric for metrics in TASKS.values() for metric in metrics}


class Results(Protocol):
    """A run, as far as a comparison needs it."""

    @property
    def record(self) -> Mapping[str, Any]:
        """The content of ``run.json``."""

    @property
    def table(self) -> pl.DataFrame:
        """The measurement table."""

    def inputs(self, profile: str) -> PerInput | None:
        """The results of every input; None where the run kept none."""

    def launches(self, study: str, profile: str) -> pl.DataFrame | None:
        """The figures of every launch, with the columns of `hwbench.studies.launch_series`; None where there are none."""


@dataclass(frozen=True)
class Pair:
    """The difference of one figure between two runs, paired by input.

    Attributes:
        difference: B − A; None where the figures cannot be paired.
        detail: The pairs, or the reason against pairing.
        n: Inputs; None where the figures cannot be paired.
        only_a: Inputs that only run A gets right; None unless the figure is a proportion.
        only_b: Inputs that only run B gets right.
    """

    difference: Figure | None
    detail: str
    n: int | None = None
    only_a: int | None = None
    only_b: int | None = None
    ratio: Figure | None = None
    joint: bool = True


def pair_runs(a: Results, b: Results) -> dict[Key, Pair]:
    """Pair the accuracy figures of every profile that both runs measured.

    Args:
        a: The run to compare with.
        b: The new run.

    Returns:
        Pairs by profile, study, metric and condition.
    """
    rows = b.table.filter((pl.col("study") == _STUDY) & (pl.col("condition") == "{}") & (pl.col("status") == "ok"))
    reason = _obstacle(a.record, b.record)
    pairs: dict[Key, Pair] = {}
    for profile in rows["profile"].unique(maintain_order=True):
        metrics = rows.filter(pl.col("profile") == profile)["metric"].to_list()
        for metric in metrics:
            if metric in _NAMED or metric in {a.record["primary"], "accuracy_drop"}:
                pairs[profile, _STUDY, metric, "{}"] = Pair(None, reason)
        if not reason:
            pairs.update(_profile(a, b, profile))
    return pairs


def _obstacle(a: Mapping[str, Any], b: Mapping[str, Any]) -> str:
    """The reason for which no figure of two runs can be paired; empty if there is none."""
    if a["data"]["sha256"] != b["data"]["sha256"] or a["data"]["n"] != b["data"]["n"]:
        return "the runs evaluated different data"
    if not a["data"]["labels"] and a["reference"]["sha256"] != b["reference"]["sha256"]:
        return "without labels, each run compares with its own reference, and these differ"
    return ""


def _profile(a: Results, b: Results, profile: str) -> Iterator[tuple[Key, Pair]]:
    first, second = a.inputs(profile), b.inputs(profile)
    primary = a.record["primary"]
    if first is None or second is None or first.n != second.n:
        missing = "A" if first is None else "B"
        for metric in (*_NAMED, primary, "accuracy_drop"):
            yield (profile, _STUDY, metric, "{}"), Pair(None, f"run {missing} kept no results per input")
        return
    for name in first.values.keys() & second.values.keys():
        pair = _pair(_metric(name, a.record), first, second, int(a.record["seed"]))
        yield (profile, _STUDY, name, "{}"), pair
        if name == primary == b.record["primary"]:
            yield (profile, _STUDY, "accuracy_drop", "{}"), _drop(a, b, pair, primary)


def _metric(name: str, record: Mapping[str, Any]) -> Metric:
    """The metric of a name. The user's own is not loaded: its values are stored, and it is a mean of them."""
    if name in _NAMED and not is_reference(record["spec"].get("metric") or ""):
        return _NAMED[name]
    return Metric(name, "", bool(record["higher_is_better"]), False, _stored, by_user=True)


def _stored(outputs: Array, _labels: Array) -> Array:
    """Values as the run stored them."""
    return outputs


def _pair(metric: Metric, a: PerInput, b: PerInput, seed: int) -> Pair:
    before, after, same = a.values[metric.name], b.values[metric.name], a.computes_as(b)
    lost = input_loss(metric, before, after, a.spread, _LEVEL, seed, same=same)
    worse = Figure(lost.whole.value, lost.whole.low, lost.whole.high)
    difference = worse.scaled(-1.0 if metric.higher_is_better else 1.0)
    detail = f"{a.n} inputs" + (", all outputs bit-identical" if same else "")
    if lost.left_out:
        detail += f", {lost.left_out} of them without a finite output in A or B"
    if not metric.is_proportion(before, after):
        return Pair(difference, detail, a.n)
    change = metric.worsening(before, after)
    counts = int(np.count_nonzero(change > 0)), int(np.count_nonzero(change < 0))
    return Pair(difference, f"{detail}, right only in A {counts[0]}, only in B {counts[1]}", a.n, *counts)


def _drop(a: Results, b: Results, pair: Pair, primary: str) -> Pair:
    """The change of the accuracy drop: that of the accuracy itself where both runs' references gave the same values."""
    first, second = a.inputs(_REFERENCE), b.inputs(_REFERENCE)
    if first is None or second is None or primary not in first.values or primary not in second.values:
        return Pair(None, "no results per input of the references")
    if not np.array_equal(first.values[primary], second.values[primary], equal_nan=True):
        return Pair(None, "the runs' references gave different values")
    sign = -1.0 if _metric(primary, a.record).higher_is_better else 1.0
    return replace(pair, difference=pair.difference and pair.difference.scaled(sign))
