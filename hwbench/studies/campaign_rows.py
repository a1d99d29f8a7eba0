"""Rows of the measurement table from the trials of a fault campaign."""

from __future__ import annotations

from collections.abc import Collection, Hashable, Iterator, Mapping, Sequence
from typing import Any, cast

import numpy as np
import polars as pl

from hwbench.faults.sampler import Results, Sampler
from hwbench.faults.sampling import Exhaustive, Uniform
from hwbench.faults.space import FaultSpace
from hwbench.stats import Estimate, mean_interval
from hwbench.stats.campaign import bounded_mean
from hwbench.studies.base import Case
from hwbench.studies.outputs import row
from hwbench.table import Row, condition
from hwbench.worker.outcomes import COLUMNS, LEAST_PROBABILITY, MAX_LOSS
from hwbench.worker.protocol import JobResult

Array = np.ndarray[Any, np.dtype[Any]]
_MARGINS = {"n_top5": "top5", "n_confidence_10": "confidence_10", "n_confidence_20": "confidence_20"}
_ENTROPY = (
    f"cross-entropy by one fault, where outputs stay finite; probabilities below {LEAST_PROBABILITY:g} count as that"
)


def campaign_rows(
    case: Case, level: float, space: FaultSpace, trials: pl.DataFrame, counts: Array, sampler: Sampler | None
) -> list[Row]:
    """Rates over (fault, input) pairs, overall and by tensor, bit and role.

    A rate is the mean over faults of the share of inputs they hit; its interval is clustered by fault and conditional on the
    evaluation inputs. Faults that were sampled stand for all of the space, as their sampler tells; faults of a list for
    themselves.

    Args:
        case: What was measured.
        level: Confidence level.
        space: The faults that could have been tried.
        trials: One line a trial.
        counts: Their counts, columns `hwbench.worker.outcomes.COLUMNS`.
        sampler: What chose the trials; None for a list.
    """
    order = _graph_order(space, trials, counts)
    trials, counts = trials[order], counts[order]
    share = {name: counts[:, place] / counts[:, 0] for place, name in enumerate(COLUMNS)}
    places = list(zip(trials["tensor"].to_list(), trials["bit"].to_list(), strict=True))
    groups = _groups(space, places, whole=sampler is not None)
    if sampler is None:
        return [*_plain(level, share, places, groups), *_beside(case, level, share)]
    results = Results(places, counts[:, 0], counts[:, 1], counts[:, 2])
    found = sampler.estimate(results, cast("Mapping[Hashable, Collection[Hashable]]", groups))
    rows = [_row("sdc_rate", found.overall.sdc), _row("due_rate", found.overall.due)]
    for setting, rates in found.groups.items():
        if not rates.sdc.n:  # of faults that none was tried of there is no figure
            continue
        rows.append(_row("sdc_rate", rates.sdc, str(setting)))
        if len(groups[str(setting)]) > 1:
            rows.append(_row("due_rate", rates.due, str(setting)))
    equal = isinstance(sampler, Uniform | Exhaustive)  # trials that all stand for equally many faults
    return rows + (list(_beside(case, level, share)) if equal else [])


def loss_rows(case: Case, level: float, counts: Array, losses: Array, sampler: Sampler | None) -> Iterator[Row]:
    """What one fault adds to the loss on average, over inputs whose output stays finite; none without labels.

    Args:
        case: What was measured.
        level: Confidence level.
        counts: The trials' counts, columns `hwbench.worker.outcomes.COLUMNS`.
        losses: What each trial adds to the loss, summed over inputs.
        sampler: What chose the trials, which must stand for equally many faults each; None for a list.
    """
    if case.data.labels is None or not (sampler is None or isinstance(sampler, Uniform | Exhaustive)):
        return
    finite = counts[:, 0] - counts[:, COLUMNS.index("n_due")]
    change = losses[finite > 0] / finite[finite > 0]
    if not len(change) or not np.isfinite(change).all():
        return
    if case.classifies:
        yield row("faults", "loss_change", bounded_mean(change, -MAX_LOSS, MAX_LOSS, level), "nats", detail=_ENTROPY)
    else:
        figure = mean_interval(change, level, case.seed)
        yield row("faults", "loss_change", figure, "", detail="of the mean squared error, where outputs stay finite")


def verification_rows(results: Mapping[str, JobResult], *, agree: bool) -> Iterator[Row]:
    """What the engine was held against: its golden output, and trials run again by a full rebuild.

    Args:
        results: The campaign's jobs.
        agree: Whether the trials run again had the outcome that the engine gave them.
    """
    checks = [result.data["checks"] for result in results.values() if "checks" in result.data]
    segmented = [check for check in checks if check.get("segmented") and check["golden_compared"]]
    if segmented:
        apart = max(check["golden_max_abs_diff"] for check in segmented)
        same = all(check["golden_equal"] for check in segmented)
        said = (
            "the segmented golden outputs that were compared are the whole build's, bit for bit"
            if same
            else "the answers are the same on every input compared"
        )
        yield Row(
            "faults",
            "golden_max_abs_diff",
            value=apart,
            n=sum(check["golden_compared"] for check in segmented),
            detail=said,
        )
    reasons = [check["reason"] for check in checks if check["reason"]]
    if reasons:
        rebuilt = sum(check["rebuilt"] for check in checks if check["reason"])
        detail = f"by a full rebuild each: {reasons[0]}"
        yield Row("faults", "rebuilt_trials", value=float(rebuilt), n=len(reasons), detail=detail)
    if "verify" in results:
        n = len(results["verify"].array("counts"))
        yield Row(
            "faults",
            "verified_trials",
            value=float(n),
            n=n,
            detail="run again by a full rebuild, with the same outcome" if agree else "run again by a full rebuild",
        )


def _graph_order(space: FaultSpace, trials: pl.DataFrame, counts: Array) -> list[int]:
    """The trials that count an input, in the order of the graph."""
    place = {tensor.name: (tensor.depth, at) for at, tensor in enumerate(space.tensors)}
    names, bits = trials["tensor"].to_list(), trials["bit"].to_list()
    return sorted(np.flatnonzero(counts[:, 0]).tolist(), key=lambda at: (place[names[at]], bits[at], at))


def _groups(space: FaultSpace, places: Sequence[tuple[str, int]], *, whole: bool) -> dict[str, list[tuple[str, int]]]:
    """Condition to its strata (tensor, bit), in the order of the graph: those that were tried, or all where ``whole``.

    A stratum by itself is listed only where it was tried.
    """
    about = {tensor.name: tensor for tensor in space.tensors}
    tried = dict.fromkeys(places)
    groups: dict[str, list[tuple[str, int]]] = {}
    for name, bit in (stratum for stratum, _ in space.strata()) if whole else tried:
        for key in ({"tensor": name}, {"bit": bit, "format": about[name].format}, {"role": about[name].role}):
            groups.setdefault(condition(**key), []).append((name, bit))
    for name, bit in tried:
        groups[condition(tensor=name, bit=bit)] = [(name, bit)]
    return groups


def _plain(
    level: float,
    share: Mapping[str, Array],
    places: Sequence[tuple[str, int]],
    groups: Mapping[str, list[tuple[str, int]]],
) -> Iterator[Row]:
    """Rates of listed faults: each stands for itself."""
    for metric, column in (("sdc_rate", "n_changed"), ("due_rate", "n_due")):
        yield _row(metric, bounded_mean(share[column], 0.0, 1.0, level))
        for setting, strata in groups.items():
            members = set(strata)
            chosen = [at for at, place in enumerate(places) if place in members]
            yield _row(metric, bounded_mean(share[column][chosen], 0.0, 1.0, level), setting)


def _beside(case: Case, level: float, share: Mapping[str, Array]) -> Iterator[Row]:
    """SDC by margins, and the accuracy lost."""
    if not case.classifies:
        return
    for column, name in _MARGINS.items():
        yield _row("sdc_rate", bounded_mean(share[column], 0.0, 1.0, level), condition(margin=name))
    if case.data.labels is not None:
        lost = bounded_mean(share["n_lost"] - share["n_won"], -1.0, 1.0, level)
        yield row("faults", "accuracy_drop", lost, "ratio", detail="mean loss of top1 by one fault")


def _row(metric: str, figure: Estimate, setting: str = "{}") -> Row:
    said = "of single faults, over (fault, input) pairs" if setting == "{}" else ""
    return row("faults", metric, figure, "ratio", setting, said)
