"""Accuracy: each metric with its interval, and paired with the reference on the same inputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from hwbench import stats
from hwbench.studies.base import GOLDEN, LEVEL, Analysis, Case, Study
from hwbench.studies.outputs import drop, estimate, per_sample, row
from hwbench.table import Row, condition
from hwbench.worker.protocol import Job, JobResult


class AccuracyStudy(Study):
    """What the build gets right, and what it loses against the reference."""

    name = "accuracy"
    headline = "accuracy"

    def plan(self, case: Case, settings: Any) -> dict[str, Job]:
        """The build's golden outputs, and the reference's."""
        return {"golden": case.evaluation(GOLDEN), "reference": case.evaluation(GOLDEN, subject=case.reference)}

    def analyse(self, case: Case, settings: Any, results: Mapping[str, JobResult]) -> Analysis:
        """Metrics, paired differences, class-wise accuracy."""
        if case.data.labels is None:
            return Analysis(
                [
                    Row(self.name, metric.name, status="unavailable", detail="the data have no labels")
                    for metric in case.metrics
                ]
            )
        rows = []
        for metric in case.metrics:
            values = per_sample(case, metric, results["golden"], "golden")
            rows.append(row(self.name, metric.name, estimate(case, metric, values), metric.unit))
            if metric is case.primary:
                if not case.is_reference:
                    rows.extend(self._against_reference(case, values, results["reference"]))
                if case.classifies and metric.proportion:
                    rows.extend(self._by_class(case, values))
        return Analysis(rows)

    def _against_reference(self, case: Case, values: np.ndarray[Any, Any], result: JobResult) -> Iterator[Row]:
        metric = case.primary
        reference = per_sample(case, metric, result, "golden")
        yield row(
            self.name,
            "accuracy_drop",
            drop(case, metric, reference, values),
            metric.unit,
            detail=f"loss of {metric.name} against the reference",
        )
        if metric.proportion:
            p_value = stats.mcnemar_exact(reference > 0, values > 0)
            yield Row(self.name, "mcnemar_p", value=p_value, unit="ratio", n=len(values))

    def _by_class(self, case: Case, values: np.ndarray[Any, Any]) -> Iterator[Row]:
        labels = case.data.labels_array().reshape(-1)
        for label in np.unique(labels):
            chosen = values[labels == label]
            figure = stats.proportion(int(chosen.sum()), len(chosen), LEVEL)
            yield row(self.name, case.primary.name, figure, "ratio", condition(**{"class": int(label)}))
