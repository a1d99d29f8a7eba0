"""Accuracy: each metric with its interval, and paired with the reference on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hwbench import stats
from hwbench.metrics import Metric
from hwbench.pairing import Figures
from hwbench.per_input import FOLDER, PerInput
from hwbench.studies.base import GOLDEN, LEVEL, Analysis, Case, Study
from hwbench.studies.outputs import drop, figures, per_input, row
from hwbench.table import NO_LABELS, Row, condition
from hwbench.worker.protocol import Job, JobResult


class AccuracyStudy(Study):
    """What the build gets right, and what it loses against the reference."""

    name = "accuracy"
    headline = "accuracy"

    def plan(self, case: Case, settings: Any) -> dict[str, Job]:
        """The build's golden outputs, and the reference's."""
        return {"golden": case.evaluation(GOLDEN), "reference": case.evaluation(GOLDEN, subject=case.reference)}

    def analyse(self, case: Case, settings: Any, results: Mapping[str, JobResult]) -> Analysis:
        """Metrics, paired differences, class-wise accuracy; and the results of every input."""
        found = per_input(case, results["golden"], "golden")
        parts = {FOLDER: found.to_frame()}
        if case.data.labels is None:
            return Analysis([self.missing("unavailable", NO_LABELS)], parts)
        rows = [row for metric in case.metrics for row in self._metric(case, metric, found)]
        if not case.is_reference:
            rows.extend(self._against_reference(case, found, per_input(case, results["reference"], "golden")))
        if case.classifies and case.primary.proportion:
            rows.extend(self._by_class(case, found.values[case.primary.name]))
        return Analysis(rows, parts)

    def _metric(self, case: Case, metric: Metric, found: PerInput) -> Iterator[Row]:
        over = figures(case, metric, found.values[metric.name])
        yield from _rows(self.name, metric.name, over, metric.unit, "")
        if metric is case.primary and over.left_out:
            lost = stats.proportion(over.left_out, found.n, LEVEL)
            yield row(self.name, "due_rate", lost, "ratio", detail="share of the inputs whose output is not finite")

    def _against_reference(self, case: Case, found: PerInput, reference: PerInput) -> Iterator[Row]:
        metric = case.primary
        values, wanted = found.values[metric.name], reference.values[metric.name]
        same = found.computes_as(reference)
        detail = f"loss of {metric.name} against the reference"
        if same:
            detail += f"; exact: all {found.n} outputs are bit for bit the reference's"
        yield from _rows(self.name, "accuracy_drop", drop(case, metric, wanted, values, same=same), metric.unit, detail)
        if metric.is_proportion(values, wanted):
            p_value = stats.mcnemar_exact(wanted > 0, values > 0)
            yield Row(self.name, "mcnemar_p", value=p_value, unit="ratio", n=found.n)
            lost = metric.worsening(wanted, values)
            for right, count in (("reference", np.count_nonzero(lost > 0)), ("build", np.count_nonzero(lost < 0))):
                yield Row(self.name, "discordant", condition(right=right), float(count), "count", n=found.n)

    def _by_class(self, case: Case, values: np.ndarray[Any, Any]) -> Iterator[Row]:
        labels = case.data.labels_array().reshape(-1)
        for label in np.unique(labels):
            chosen = values[labels == label]
            figure = stats.proportion(int(chosen.sum()), len(chosen), LEVEL)
            yield row(self.name, case.primary.name, figure, "ratio", condition(**{"class": int(label)}))


def _rows(study: str, metric: str, over: Figures, unit: str, detail: str) -> Iterator[Row]:
    """The figure over all inputs and, where some outputs are not finite, the one over the others."""
    if not over.left_out:
        yield row(study, metric, over.whole, unit, detail=detail)
        return
    count = f"{over.left_out} of {over.whole.n} outputs are not finite"
    yield row(study, metric, over.whole, unit, detail="; ".join(part for part in (detail, count) if part))
    if over.finite is not None:
        yield row(study, metric, over.finite, unit, condition(outputs="finite"), f"over the finite outputs: {count}")
