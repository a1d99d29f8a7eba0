"""Accuracy over repeated draws of some disturbance, each over some of the inputs: what they did, and figures of it."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwbench.metrics import Metric
from hwbench.npy import content_hash, rows
from hwbench.pairing import Figures, two_way_figure, two_way_loss
from hwbench.stats import Estimate
from hwbench.stats.estimate import enclosing
from hwbench.stats.unseen import Sample, Sampled, sampled_mean
from hwbench.studies.base import GOLDEN, LEVEL, Case
from hwbench.studies.outputs import row
from hwbench.table import Row, condition
from hwbench.topk import best_classes
from hwbench.worker.inputs import chosen_inputs
from hwbench.worker.protocol import Job, JobResult

Array = np.ndarray[Any, np.dtype[Any]]
_HALF = (1 - LEVEL) / 2


@dataclass(frozen=True)
class Drawn:
    """One draw at one setting.

    Attributes:
        number: The draw.
        result: The evaluation that ran it.
        variant: Its name there.
        inputs: How many inputs it ran on; None for all.
    """

    number: int
    result: JobResult
    variant: str
    inputs: int | None


@dataclass(frozen=True)
class Golden:
    """A build's outputs without a disturbance.

    Attributes:
        outputs: For every input, its output, or its best classes where that is all that is kept.
        values: The primary metric's value of every input, float64 ``[n]``; None without labels.
    """

    outputs: Array
    values: Array | None

    @classmethod
    def of(cls, case: Case, result: JobResult) -> Golden:
        """The golden outputs of an evaluation with a golden variant."""
        whole = rows(_file(result, "golden"), 0, case.data.n)
        outputs = best_classes(whole) if case.classifies else whole
        labels = None if case.data.labels is None else case.data.labels_array()
        return cls(outputs, None if labels is None else _values(case, outputs, labels))


@dataclass(frozen=True)
class Sweep:
    """The effect of every draw at one setting on the inputs it ran on: one element per (draw, input) pair.

    Attributes:
        draws: Number of the draw, int64 ``[pairs]``.
        inputs: Index of the input, int64 ``[pairs]``.
        values: The primary metric's value, float64 ``[pairs]``; None without labels.
        losses: How much worse that is than without the disturbance, float64 ``[pairs]``; None without labels.
        changed: Whether the output is finite and its best class is not the golden one, bool ``[pairs]``; None where the
            task is not classification.
        due: Whether the output is not finite, or the faulty build could not be loaded or run, bool ``[pairs]``.
        numbers: The draws, ascending.
        n_faults: Faults per draw; None where the worker died and took the count with it.
        tails: Error probabilities that the bounds of intervals may use up.
        shared: Whether a draw does the same to all inputs.
        certain: Whether nothing can be disturbed, so that unseen draws are like those seen.
        reports: What the memory reported of each draw that lived to do so, under memory errors.
    """

    draws: NDArray[np.int64]
    inputs: NDArray[np.int64]
    values: Array | None
    losses: Array | None
    changed: Array | None
    due: Array
    numbers: Sequence[int]
    n_faults: Sequence[int | None]
    tails: tuple[float, float] = (_HALF, _HALF)
    shared: bool = True
    certain: bool = False
    reports: Sequence[Mapping[str, int]] = ()

    def of_draw(self, pairs: Array) -> list[Array]:
        """Pairs' values, draw by draw."""
        return np.split(pairs, self._starts[1:])

    @cached_property
    def sizes(self) -> list[int]:
        """Number of inputs that each draw ran on."""
        return [len(part) for part in self.of_draw(self.draws)]

    @cached_property
    def _starts(self) -> Array:
        return np.searchsorted(self.draws, self.numbers)

    def matrix(self, pairs: Array) -> Array:
        """Pairs' values ``[draws, inputs]``, where every draw ran on as many inputs."""
        return pairs.reshape(len(self.numbers), -1)


def own_golden(case: Case, results: Mapping[str, JobResult], sweep: str, batch: int | None = None) -> dict[str, Job]:
    """The golden run of a sweep's own session, where that session does not give the build's golden output.

    A runtime whose weights can be refitted may choose other kernels for that, or for another batch; most compile the build
    itself, so that the golden outputs which all studies share are those of the sweep too.

    Args:
        case: The build and its data.
        results: ``"golden"`` and the sweep; and this job, once it is done.
        sweep: Label of the sweep's job.
        batch: Its batch; default: that of the golden outputs.
    """
    label, result = f"{sweep}-golden", results[sweep]
    if label in results or not result.ok or not results["golden"].ok or "first" not in result.data:
        return {}
    first = rows(_file(results["golden"], "golden"), 0, min(batch or case.batch, case.data.n))
    if content_hash(first) == result.data["first"][0]:
        return {}
    job = case.evaluation(GOLDEN, batch=batch)
    return {label: replace(job, params={**job.params, "mutable": True})}


def gather(
    case: Case,
    drawn: Sequence[Drawn],
    golden: Golden,
    tails: tuple[float, float] = (_HALF, _HALF),
    *,
    shared: bool = True,
    certain: bool = False,
) -> Sweep:
    """Collect the draws at one setting.

    Args:
        case: The build and its data.
        drawn: The draws, by ascending number.
        golden: The golden outputs in full.
        tails: Error probabilities that the bounds of intervals may use up.
        shared: Whether a draw does the same to all inputs.
        certain: Whether nothing can be disturbed.
    """
    indices = [chosen_inputs(case.seed, one.number, case.data.n, one.inputs) for one in drawn]
    inputs = np.concatenate(indices)
    outputs = [_output(case, one, golden, some) for one, some in zip(drawn, indices, strict=True)]
    output, expected = np.concatenate(outputs), golden.outputs[inputs]
    due = output[:, 0] == -1 if case.classifies else ~np.isfinite(output.reshape(len(output), -1)).all(axis=1)
    values = losses = None
    if golden.values is not None:
        values = _values(case, output, case.data.labels_array()[inputs])
        with np.errstate(invalid="ignore"):
            losses = golden.values[inputs] - values
        losses = losses if case.primary.higher_is_better else -losses
    records = [one.result.data["variants"].get(one.variant, {}) for one in drawn]
    return Sweep(
        draws=np.repeat([one.number for one in drawn], [len(some) for some in indices]),
        inputs=inputs,
        values=values,
        losses=losses,
        changed=(output[:, 0] != expected[:, 0]) & ~due if case.classifies else None,
        due=due,
        numbers=[one.number for one in drawn],
        n_faults=[record.get("n_faults") for record in records],
        tails=tails,
        shared=shared,
        certain=certain,
        reports=[record["memory"] for record in records if "memory" in record],
    )


def _output(case: Case, drawn: Drawn, golden: Golden, inputs: Array) -> Array:
    """A draw's outputs for the inputs it ran on; placeholders if the build could not be run."""
    record = drawn.result.data["variants"].get(drawn.variant)
    if record is not None and record.get("golden"):
        return golden.outputs[inputs]
    if record is not None and "failed" not in record:
        return rows(_file(drawn.result, drawn.variant), 0, len(inputs))
    like = golden.outputs[inputs]
    if case.classifies:
        return np.full_like(like, -1)
    return np.full(like.shape, np.nan, like.dtype if np.issubdtype(like.dtype, np.inexact) else np.float64)


def _values(case: Case, outputs: Array, labels: Array) -> Array:
    return case.primary.from_topk(outputs, labels) if case.classifies else case.primary.per_sample(outputs, labels)


def bounds(metric: Metric) -> tuple[float, float] | None:
    """The least and the largest value of a metric for an input; None for a metric without bounds."""
    if metric.proportion:
        return 0.0, 1.0
    return (-1.0, 1.0) if metric.name == "cosine" else None


def mean_loss(case: Case, sweep: Sweep) -> Sampled:
    """The mean loss of a bounded metric."""
    low, high = bounds(case.primary) or (-np.inf, np.inf)
    if sweep.losses is None:
        raise ValueError("accuracy needs labels")
    return sampled(case, sweep, sweep.losses, (low - high, high - low))


def figure(case: Case, sweep: Sweep, golden: Golden) -> Estimate:
    """The primary metric under the disturbance.

    Of a bounded metric: that of all inputs without the disturbance, less the mean loss. It is nearer to the truth than the mean
    over the pairs, because which inputs a draw ran on does not matter to the first part.
    """
    limits = bounds(case.primary)
    if limits is None:
        return _figures(case, sweep).whole
    if golden.values is None:
        raise ValueError("accuracy needs labels")
    lost, sign = mean_loss(case, sweep), -1 if case.primary.higher_is_better else 1
    whole, width = float(golden.values.mean()), limits[1] - limits[0]
    met = np.maximum(1, np.bincount(sweep.inputs, minlength=case.data.n))
    losses = np.bincount(sweep.inputs, weights=sweep.losses, minlength=case.data.n) / met
    one = lost.mirrored() if sign < 0 else lost
    draws = None if sweep.certain or one.draws is None else replace(one.draws, values=one.draws.values + whole)
    inputs = Sample.of(golden.values + sign * losses)
    found = replace(one, draws=draws, inputs=inputs, lower=whole - width, upper=whole + width)
    value = whole + sign * lost.value
    low, high = value - (found.value - found.estimate.low), value + (found.estimate.high - found.value)
    value = min(
        max(value, limits[0]), limits[1]
    )  # what all draws lost of their inputs may be more than all inputs have
    return enclosing(value, max(limits[0], low), min(limits[1], high), LEVEL, lost.n)


def loss(case: Case, sweep: Sweep, golden: Golden) -> Estimate:
    """The loss against the same build without the disturbance, on the same inputs.

    Of a bounded metric the interval covers unseen draws and inputs (`hwbench.stats.unseen`); of others it is a bootstrap over
    draws and inputs, in which a draw of a kind that was not seen is missing.
    """
    if bounds(case.primary) is None:
        return _losses(case, sweep, golden).whole
    return mean_loss(case, sweep).estimate


def finite_rows(study: str, case: Case, sweep: Sweep, golden: Golden, setting: str) -> Iterator[Row]:
    """`figure` and `loss` over the finite outputs alone, where some outputs make the ones over all infinite."""
    metric, at = case.primary, condition(**json.loads(setting), outputs="finite")
    if bounds(metric) is not None:
        return
    for name, found in ((metric.name, _figures(case, sweep)), ("accuracy_drop", _losses(case, sweep, golden))):
        if found.finite is not None:
            detail = f"without the {found.left_out} of {found.whole.n} outputs that are not finite: see due_rate"
            yield row(study, name, found.finite, metric.unit, at, detail)


def _figures(case: Case, sweep: Sweep) -> Figures:
    if sweep.values is None:
        raise ValueError("accuracy needs labels")
    spread = case.primary.spread(case.data.labels_array())
    return two_way_figure(case.primary, sweep.matrix(sweep.values), spread, LEVEL, case.seed)


def _losses(case: Case, sweep: Sweep, golden: Golden) -> Figures:
    if sweep.values is None or golden.values is None:
        raise ValueError("accuracy needs labels")
    spread = case.primary.spread(case.data.labels_array())
    return two_way_loss(case.primary, golden.values, sweep.matrix(sweep.values), spread, LEVEL, case.seed)


def share(case: Case, sweep: Sweep, flags: Array) -> Sampled:
    """Share of (draw, input) pairs that hold."""
    return sampled(case, sweep, flags.astype(np.float64), (0.0, 1.0))


def rate(case: Case, sweep: Sweep, flags: Array) -> Estimate:
    """Share of (draw, input) pairs that hold, with an interval for unseen draws and inputs."""
    return share(case, sweep, flags).estimate


def per_draw(case: Case, sweep: Sweep) -> list[float]:
    """The primary metric of each draw, over the inputs it ran on; empty without labels."""
    if sweep.values is None:
        return []
    labels = case.data.labels_array()[sweep.inputs]
    pairs = zip(sweep.of_draw(sweep.values), sweep.of_draw(labels), strict=True)
    return [case.primary.aggregate(values, of_inputs) for values, of_inputs in pairs]


def sampled(case: Case, sweep: Sweep, values: Array, limits: tuple[float, float]) -> Sampled:
    """The mean of values in [low, high], one per (draw, input) pair."""
    if sweep.certain:
        limits = float(values.min()), float(values.max())
    return sampled_mean(
        values, sweep.draws, sweep.inputs, limits, sweep.tails, LEVEL, available=case.data.n, shared=sweep.shared
    )


def _file(result: JobResult, name: str) -> Path:
    return result.folder / f"{result.data['variants'][name]['arrays'][0]}.npy"
