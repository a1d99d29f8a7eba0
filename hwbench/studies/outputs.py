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
_CHUNK = 1024


def chunks(result: JobResult, variant: str, n: int, output: int = 0) -> Iterator[tuple[int, Array]]:
    """A variant's stored outputs, some rows at a time, with the first row's index."""
    name = result.data["variants"][variant]["arrays"][output]
    for start in range(0, n, _CHUNK):
        yield start, rows(result.folder / f"{name}.npy", start, min(start + _CHUNK, n))


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
    hashes, classes, dtype = [], [], np.dtype(np.float32)
    for _, part in chunks(result, variant, case.data.n):
        hashes.append(digests(part))
        classes += [topk(part, 1)[:, 0]] if case.classifies else []
        dtype = part.dtype
        labelled = case.data.labels is not None
    spreads = [metric.spread(case.data.labels_array()) for metric in case.metrics] if labelled else []
    return PerInput(
        n=case.data.n,
        values={metric.name: per_sample(case, metric, result, variant) for metric in case.metrics if labelled},
        outputs=telling(np.concatenate(hashes), dtype),
        predicted=np.concatenate(classes) if classes else None,
        spread=next((spread for spread in spreads if spread is not None), None),
    )


def row(study: str, metric: str, figure: Estimate, unit: str, condition: str = "{}", detail: str = "") -> Row:
    """A row of an estimate."""
    return Row(
        study, metric, condition, figure.value, unit, figure.low, figure.high, figure.level, figure.n, detail=detail
    )
