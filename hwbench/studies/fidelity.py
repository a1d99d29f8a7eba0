"""Fidelity: how far the build's outputs, and its layers' activations, are from the reference's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import replace

from pydantic import Field

from hwbench import stats
from hwbench.graph import Layer, matching_layers
from hwbench.metrics import Fidelity, FidelityResult
from hwbench.studies.base import GOLDEN, LEVEL, Analysis, Case, Settings, Study, Subject
from hwbench.studies.outputs import chunks, row
from hwbench.table import Row, condition
from hwbench.worker.protocol import Job, JobResult


class FidelitySettings(Settings):
    """What the study can be told."""

    layers: int = Field(10, ge=0, description="how many of the worst layers to report")
    layer_inputs: int = Field(32, gt=0, description="inputs the layers are compared on")


class FidelityStudy(Study):
    """Errors of the model's output over all inputs, and of the worst layers over some.

    A layer's error is fed by the build's own, already erroneous, inputs: it is what has built up there, not what the layer
    alone adds.
    """

    name = "fidelity"
    headline = "sqnr_db"
    settings_type = FidelitySettings

    def plan(self, case: Case, settings: FidelitySettings) -> dict[str, Job]:
        """Golden outputs of both; and of copies of both that return their layers too."""
        jobs = {"golden": case.evaluation(GOLDEN), "reference": case.evaluation(GOLDEN, subject=case.reference)}
        layers = matching_layers(case.subject.build.model, case.reference.build.model) if settings.layers else []
        if layers:
            n = min(settings.layer_inputs, case.data.n)
            for label, subject, names in (
                ("layers", case.subject, [layer.built for layer in layers]),
                ("reference_layers", case.reference, [layer.name for layer in layers]),
            ):
                jobs[label] = self._layers_job(case, subject, names, n)
        return jobs

    def tolerated(self) -> frozenset[str]:
        """A runtime may refuse a graph that returns its inner tensors; the outputs' figures stand without."""
        return frozenset({"layers", "reference_layers"})

    def analyse(self, case: Case, settings: FidelitySettings, results: Mapping[str, JobResult]) -> Analysis:
        """Rows for the output, then for the worst layers."""
        fidelity = Fidelity()
        pairs = zip(
            chunks(results["reference"], "golden", case.data.n),
            chunks(results["golden"], "golden", case.data.n),
            strict=True,
        )
        for (_, reference), (_, output) in pairs:
            fidelity.add(reference, output)
        rows = list(_rows(fidelity.result(), "{}"))
        if "layers" in results:
            rows.extend(self._layer_rows(case, settings, results))
        return Analysis(rows)

    def _layers_job(self, case: Case, subject: Subject, names: list[str], n: int) -> Job:
        job = case.evaluation(GOLDEN, subject=subject)
        params = {**job.params, "outputs": names, "expose": True, "n": n}
        return replace(job, params=params)

    def _layer_rows(self, case: Case, settings: FidelitySettings, results: Mapping[str, JobResult]) -> Iterator[Row]:
        built, reference = results["layers"], results["reference_layers"]
        if not (built.ok and reference.ok):
            bad = built if not built.ok else reference
            yield Row(
                self.name,
                "sqnr_db",
                condition(tensor="*"),
                status=bad.status,
                detail=f"layers cannot be compared: {bad.detail}",
            )
            return
        layers = matching_layers(case.subject.build.model, case.reference.build.model)
        n = min(settings.layer_inputs, case.data.n)
        found = [(self._layer(layer, index, n, built, reference), layer) for index, layer in enumerate(layers)]
        found.sort(key=lambda pair: (pair[0].sqnr_db if not math.isnan(pair[0].sqnr_db) else -math.inf, pair[1].name))
        for result, layer in found[: settings.layers]:
            yield from _rows(result, condition(tensor=layer.name), detail=layer.op_type)

    def _layer(self, layer: Layer, index: int, n: int, built: JobResult, reference: JobResult) -> FidelityResult:
        fidelity = Fidelity()
        for (_, wanted), (_, got) in zip(
            chunks(reference, "golden", n, index), chunks(built, "golden", n, index), strict=True
        ):
            fidelity.add(wanted, layer.real(got))
        return replace(fidelity.result(), top1_agreement=None)


def _rows(result: FidelityResult, setting: str, detail: str = "") -> Iterator[Row]:
    n = result.samples
    broken = f"{result.non_finite} values are not finite and left out" if result.non_finite else detail
    yield Row("fidelity", "max_abs_error", setting, result.max_abs_error, n=n, detail=broken)
    yield Row("fidelity", "mean_abs_error", setting, result.mean_abs_error, n=n, detail=broken)
    yield Row("fidelity", "sqnr_db", setting, result.sqnr_db, "dB", n=n, detail=broken)
    yield Row("fidelity", "cosine", setting, result.cosine, "ratio", n=n, detail=broken)
    if result.top1_agreement is not None:
        yield row("fidelity", "top1_agreement", stats.proportion(result.top1_agreement, n, LEVEL), "ratio", setting)
