"""Reading what an evaluation stored, and figures with intervals from it: shared by the studies that measure accuracy."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np

from hwbench import stats
from hwbench.metrics import Metric
from hwbench.npy import rows
from hwbench.stats import Estimate
from hwbench.studies.base import LEVEL, Case
from hwbench.table import Row
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
    """A metric over all inputs: Wilson's interval for proportions, else a bootstrap over inputs."""
    if metric.proportion:
        return stats.proportion(int(values.sum()), len(values), LEVEL)
    if metric.is_mean:
        return stats.mean_interval(values, LEVEL, case.seed)
    return stats.bootstrap_statistic(metric.aggregate, [values, case.data.labels_array()], LEVEL, case.seed)


def drop(case: Case, metric: Metric, reference: Array, values: Array) -> Estimate:
    """How much worse the build is than the reference on the same inputs, in the metric's unit.

    Tango's score interval for proportions; else a bootstrap over inputs, both builds resampled together.
    """
    if metric.proportion:
        return stats.paired_difference(reference > 0, values > 0, LEVEL)
    if metric.is_mean:
        lost = reference - values if metric.higher_is_better else values - reference
        return stats.mean_interval(lost, LEVEL, case.seed)
    labels = case.data.labels_array()

    def worsening(a: Array, b: Array, y: Array) -> float:
        return metric.worsening(metric.aggregate(a, y), metric.aggregate(b, y))

    return stats.bootstrap_statistic(worsening, [reference, values, labels], LEVEL, case.seed)


def row(study: str, metric: str, figure: Estimate, unit: str, condition: str = "{}", detail: str = "") -> Row:
    """A row of an estimate."""
    return Row(
        study, metric, condition, figure.value, unit, figure.low, figure.high, figure.level, figure.n, detail=detail
    )
