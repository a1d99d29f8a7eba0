"""Accuracy over repeated draws of some disturbance: shared by the bit-flip and noise studies."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from hwbench import stats
from hwbench.npy import content_hash, rows
from hwbench.pairing import Figures, two_way_figure, two_way_loss
from hwbench.stats import Estimate
from hwbench.studies.base import GOLDEN, LEVEL, Case
from hwbench.studies.outputs import row
from hwbench.table import Row, condition
from hwbench.topk import best_classes
from hwbench.worker.protocol import Job, JobResult

Array = np.ndarray[Any, np.dtype[Any]]


@dataclass(frozen=True)
class Sweep:
    """What every draw at one setting did to every input.

    Attributes:
        values: The primary metric's value per draw and input, float64 ``[draws, n]``; None without labels.
        changed: Whether the output is finite and its best class is not the golden one, bool ``[draws, n]``; None where the
            task is not classification.
        due: Whether the output is not finite, or the faulty build could not be loaded or run, bool ``[draws, n]``.
        n_faults: Faults per draw; None where the worker died and took the count with it.
    """

    values: Array | None
    changed: Array | None
    due: Array
    n_faults: list[int | None]


def own_golden(case: Case, results: Mapping[str, JobResult], sweep: str) -> dict[str, Job]:
    """The golden run of a sweep's own session, where that session does not give the build's golden output.

    A runtime whose weights can be refitted may choose other kernels for that; most compile the build itself, so that the golden
    outputs which all studies share are those of the sweep too.

    Args:
        case: The build and its data.
        results: ``"golden"`` and the sweep; and this job, once it is done.
        sweep: Label of the sweep's job.
    """
    label, result = f"{sweep}-golden", results[sweep]
    if label in results or not result.ok or not results["golden"].ok or "first" not in result.data:
        return {}
    first = rows(_file(results["golden"], "golden"), 0, min(case.batch, case.data.n))
    if content_hash(first) == result.data["first"][0]:
        return {}
    job = case.evaluation(GOLDEN)
    return {label: replace(job, params={**job.params, "mutable": True})}


def golden_of(results: Mapping[str, JobResult], sweep: str) -> JobResult:
    """The golden outputs that a sweep compares with: its own, where `own_golden` asked for them, or the build's."""
    return results.get(f"{sweep}-golden", results["golden"])


def gather(case: Case, result: JobResult, names: Sequence[str], golden: JobResult | None = None) -> Sweep:
    """Collect the variants of a sweep.

    Args:
        case: The build and its data.
        result: The sweep.
        names: Its variants, one a draw.
        golden: The golden outputs in full; default: the sweep has a golden variant.
    """
    n, top = case.data.n, case.classifies
    whole = _stored(golden or result, "golden", n)
    golden_output = best_classes(whole) if golden is not None and top else whole
    values = np.zeros((len(names), n)) if case.data.labels is not None else None
    changed = np.zeros((len(names), n), dtype=bool) if top else None
    due = np.zeros((len(names), n), dtype=bool)
    faults: list[int | None] = []
    for draw, name in enumerate(names):
        record = result.data["variants"].get(name)
        faults.append(record["n_faults"] if record else None)
        if record is None or "failed" in record:  # the worker died of it, or the runtime refused the faulty build
            due[draw] = True
            if values is not None:
                values[draw] = _without_output(case, golden_output)
            continue
        output = golden_output if record.get("golden") else _stored(result, name, n)
        due[draw] = (output[:, 0] == -1) if top else ~np.isfinite(output.reshape(n, -1)).all(axis=1)
        if changed is not None:
            changed[draw] = (output[:, 0] != golden_output[:, 0]) & ~due[draw]
        if values is not None:
            labels = case.data.labels_array()
            values[draw] = case.primary.from_topk(output, labels) if top else case.primary.per_sample(output, labels)
    return Sweep(values, changed, due, faults)


def _without_output(case: Case, golden: Array) -> Array:
    """The primary metric's values where nothing came out: those of outputs that are not numbers."""
    labels = case.data.labels_array()
    if case.classifies:
        return case.primary.from_topk(np.full_like(golden, -1), labels)
    if np.issubdtype(golden.dtype, np.integer):
        return np.full(len(golden), np.nan)
    return case.primary.per_sample(np.full_like(golden, np.nan), labels)


def figure(case: Case, sweep: Sweep) -> Estimate:
    """The primary metric over draws and inputs, with the interval of a bootstrap over both."""
    return _figures(case, sweep).whole


def loss(case: Case, sweep: Sweep, golden: Array) -> Estimate:
    """How much worse than the same build without faults, paired by input, with a bootstrap over draws and inputs."""
    return _losses(case, sweep, golden).whole


def finite_rows(study: str, case: Case, sweep: Sweep, golden: Array, setting: str) -> Iterator[Row]:
    """`figure` and `loss` over the finite outputs alone, where some outputs make the ones over all infinite."""
    metric, at = case.primary, condition(**json.loads(setting), outputs="finite")
    for name, found in ((metric.name, _figures(case, sweep)), ("accuracy_drop", _losses(case, sweep, golden))):
        if found.finite is not None:
            detail = f"without the {found.left_out} of {found.whole.n} outputs that are not finite: see due_rate"
            yield row(study, name, found.finite, metric.unit, at, detail)


def _figures(case: Case, sweep: Sweep) -> Figures:
    if sweep.values is None:
        raise ValueError("accuracy needs labels")
    spread = case.primary.spread(case.data.labels_array())
    return two_way_figure(case.primary, sweep.values, spread, LEVEL, case.seed)


def _losses(case: Case, sweep: Sweep, golden: Array) -> Figures:
    if sweep.values is None:
        raise ValueError("accuracy needs labels")
    spread = case.primary.spread(case.data.labels_array())
    return two_way_loss(case.primary, golden, sweep.values, spread, LEVEL, case.seed)


def rate(case: Case, flags: Array) -> Estimate:
    """Share of (draw, input) pairs that hold, with the interval of a bootstrap over both."""
    return stats.two_way_bootstrap(flags, LEVEL, case.seed)


def _stored(result: JobResult, name: str, n: int) -> Array:
    return rows(_file(result, name), 0, n)


def _file(result: JobResult, name: str) -> Path:
    return result.folder / f"{result.data['variants'][name]['arrays'][0]}.npy"
