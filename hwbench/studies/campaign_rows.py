"""Rows of the measurement table from the trials of a fault campaign."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import polars as pl

from hwbench.faults.space import FaultSpace
from hwbench.stats import Estimate
from hwbench.stats.campaign import bounded_mean
from hwbench.studies.base import Case
from hwbench.studies.outputs import row
from hwbench.table import Row, condition
from hwbench.worker.outcomes import COLUMNS
from hwbench.worker.protocol import JobResult

Array = np.ndarray[Any, np.dtype[Any]]
_MARGINS = {"n_top5": "top5", "n_confidence_10": "confidence_10", "n_confidence_20": "confidence_20"}


def campaign_rows(case: Case, level: float, space: FaultSpace, trials: pl.DataFrame, counts: Array) -> list[Row]:
    """Rates over (fault, input) pairs, overall and by tensor, bit and role.

    A rate is the mean over faults of the share of inputs they hit; its interval is clustered by fault, conditional on the
    evaluation inputs, and exact for rates of 0 (`hwbench.stats.campaign.bounded_mean`).

    Args:
        case: What was measured.
        level: Confidence level.
        space: The build's fault space.
        trials: One line a trial.
        counts: Their counts, columns `hwbench.worker.outcomes.COLUMNS`.
    """
    order = _graph_order(space, trials, counts)
    trials, counts = trials[order], counts[order]
    share = {name: counts[:, place] / counts[:, 0] for place, name in enumerate(COLUMNS)}
    rows = [_rate(level, "sdc_rate", share["n_changed"]), _rate(level, "due_rate", share["n_due"])]
    if case.classifies:
        rows += [_rate(level, "sdc_rate", share[column], margin=name) for column, name in _MARGINS.items()]
    if case.data.labels is not None and case.classifies:
        lost = bounded_mean(share["n_lost"] - share["n_won"], -1.0, 1.0, level)
        rows.append(row("faults", "accuracy_drop", lost, "ratio", detail="mean loss of top1 by one fault"))
    for keys in _groups(space, trials):
        rows += list(_grouped(level, "sdc_rate", share["n_changed"], keys))
        if not any({"tensor", "bit"} <= key.keys() for key in keys[:1]):
            rows += list(_grouped(level, "due_rate", share["n_due"], keys))
    return rows


def verification_rows(results: Mapping[str, JobResult]) -> Iterator[Row]:
    """What the engine was held against: its golden output, and trials run again by a full rebuild."""
    checks = [result.data["checks"] for result in results.values() if "checks" in result.data]
    segmented = [check for check in checks if check.get("segmented")]
    if segmented:
        apart = max(check["golden_max_abs_diff"] for check in segmented)
        same = all(check["golden_equal"] for check in segmented)
        said = (
            "the segmented golden output is the whole build's, bit for bit"
            if same
            else "the answers are the same on every input"
        )
        yield Row("faults", "golden_max_abs_diff", value=apart, n=len(segmented), detail=said)
    for check in checks:
        if not check.get("segmented") and check.get("reason", "").startswith("the segmented"):
            yield Row(
                "faults",
                "rebuilt_trials",
                value=float(check["rebuilt"]),
                n=1,
                detail=f"{check['reason']}: a full rebuild per trial",
            )
    if "verify" in results:
        n = len(results["verify"].array("counts"))
        yield Row(
            "faults",
            "verified_trials",
            value=float(n),
            n=n,
            detail="run again by a full rebuild, with the same outcome",
        )


def _graph_order(space: FaultSpace, trials: pl.DataFrame, counts: Array) -> list[int]:
    """The trials that count an input, in the order of the graph."""
    place = {tensor.name: (tensor.depth, at) for at, tensor in enumerate(space.tensors)}
    names, bits = trials["tensor"].to_list(), trials["bit"].to_list()
    return sorted(np.flatnonzero(counts[:, 0]).tolist(), key=lambda at: (place[names[at]], bits[at], at))


def _rate(level: float, metric: str, shares: Array, **setting: Any) -> Row:
    figure = bounded_mean(shares, 0.0, 1.0, level) if len(shares) else Estimate(float("nan"), 0.0, 1.0, level, 0)
    return row("faults", metric, figure, "ratio", condition(**setting), "of single faults, over (fault, input) pairs")


def _groups(space: FaultSpace, trials: pl.DataFrame) -> Iterator[list[dict[str, Any]]]:
    """For each way of grouping, every trial's group."""
    about = {tensor.name: tensor for tensor in space.tensors}
    places = list(zip(trials["tensor"].to_list(), trials["bit"].to_list(), strict=True))
    yield [{"tensor": name} for name, _ in places]
    yield [{"bit": bit, "format": about[name].format} for name, bit in places]
    yield [{"role": about[name].role} for name, _ in places]
    yield [{"tensor": name, "bit": bit} for name, bit in places]


def _grouped(level: float, metric: str, shares: Array, keys: list[dict[str, Any]]) -> Iterator[Row]:
    members: dict[str, list[int]] = {}
    for trial, key in enumerate(keys):
        members.setdefault(condition(**key), []).append(trial)
    for setting, at in members.items():
        yield row("faults", metric, bounded_mean(shares[at], 0.0, 1.0, level), "ratio", setting)
