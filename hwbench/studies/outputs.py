"""Reading what an evaluation stored, and figures with intervals from it: shared by the studies that measure accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hwbench.metrics import Metric
from hwbench.npy import rows
from hwbench.pairing import Figures, input_figure, input_loss
from hwbench.per_input import PerInput, digests, telling
from hwbench.stats import Estimate
from hwbench.studies.base import LEVEL, Case
from hwbench.table import Row
from hwbench.topk import topk
from hwbench.worker.protocol import JobResult

Array = np.ndarray[Any, np.dtype[Any]]
_CHUNK, _CHUNK_ELEMENTS = 1024, 1 << 20


def stored(result: JobResult, variant: str, output: int = 0) -> Array:
    """A variant's stored outputs, mapped and not read."""
    name = result.data["variants"][variant]["arrays"][output]
    values: Array = np.load(result.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
    return values


def chunks(result: JobResult, variant: str, n: int, output: int = 0) -> Iterator[tuple[int, Array]]:
    """A variant's stored outputs, some rows at a time, with the first row's index; a row's size decides how many."""
    name = result.data["variants"][variant]["arrays"][output]
    wide = int(np.prod(stored(result, variant, output).shape[1:], dtype=np.int64))
    step = max(1, min(_CHUNK, _CHUNK_ELEMENTS // max(1, wide)))
    for start in range(0, n, step):
        yield start, rows(result.folder / f"{name}.npy", start, min(start + step, n))


def per_sample(case: Case, metric: Metric, result: JobResult, variant: str, *, top: bool = False) -> Array:
    """A metric's value for every input, float64 ``[n]``. Needs labels."""
    if case.data.labels is None:
        raise ValueError("per-sample values need labels")
    values = np.empty(case.data.n)
    for start, block in chunks(result, variant, case.data.n):
        labels = case.data.labels.rows(start, start + len(block))
        values[start : start + len(block)] = (
            metric.from_topk(block, labels) if top else metric.per_sample(block, labels)
        )
    return values


def estimate(case: Case, metric: Metric, values: Array) -> Estimate:
    """A metric over all inputs, as `hwbench.pairing.input_figure` gives it."""
    return figures(case, metric, values).whole


def figures(case: Case, metric: Metric, values: Array) -> Figures:
    """A metric over all inputs and over those with finite values. Needs labels."""
    return input_figure(metric, values, metric.spread(case.data.labels_array()), LEVEL, case.seed)


def drop(case: Case, metric: Metric, reference: Array, values: Array, *, same: bool = False) -> Figures:
    """How much worse the build is than the reference on the same inputs, as `hwbench.pairing.input_loss` gives it."""
    return input_loss(metric, reference, values, metric.spread(case.data.labels_array()), LEVEL, case.seed, same=same)


def per_input(case: Case, result: JobResult, variant: str) -> PerInput:
    """A variant's results, input by input."""
    labelled = case.data.labels is not None
    best = [topk(part, 1)[:, 0] for _, part in chunks(result, variant, case.data.n)] if case.classifies else []
    spreads = [metric.spread(case.data.labels_array()) for metric in case.metrics] if labelled else []
    return PerInput(
        n=case.data.n,
        values={metric.name: per_sample(case, metric, result, variant) for metric in case.metrics if labelled},
        outputs=output_digests(case, result, variant),
        predicted=np.concatenate(best) if best else None,
        spread=next((spread for spread in spreads if spread is not None), None),
    )


def output_digests(case: Case, result: JobResult, variant: str) -> Array | None:
    """Digests of a variant's outputs; None where equal ones would not show equal computations."""
    parts = [(digests(part), part.dtype) for _, part in chunks(result, variant, case.data.n)]
    return telling(np.concatenate([hashes for hashes, _ in parts]), parts[0][1])


def row(study: str, metric: str, figure: Estimate, unit: str, condition: str = "{}", detail: str = "") -> Row:
    """A row of an estimate."""
    return Row(
        study, metric, condition, figure.value, unit, figure.low, figure.high, figure.level, figure.n, detail=detail
    )
