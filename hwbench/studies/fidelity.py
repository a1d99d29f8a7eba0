"""Fidelity: how far the build's outputs, and its layers' activations, are from the reference's."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from pydantic import Field

from hwbench import stats
from hwbench.bounds import INPUTS, REPEATS
from hwbench.graph import Layer
from hwbench.metrics import Fidelity, FidelityResult
from hwbench.studies.base import GOLDEN, LEVEL, Analysis, Case, Settings, Study
from hwbench.studies.layers import comparing, few, layers_of, looked_with, looking, reason, record, seen
from hwbench.studies.outputs import chunks, output_digests, row
from hwbench.studies.parts import evaluation, other_outputs, slice_rows
from hwbench.table import Row, condition
from hwbench.worker.protocol import STOPPED, Job, JobResult

# A layer computed alone may differ from the layer in the build by the rounding of float32, or by this much less than it
# differs from the reference: its own error is then right to 1 dB.
_FLOAT_DB = 100.0
_CLEAR_DB = 20.0


class FidelitySettings(Settings):
    """Study settings."""

    layers: int = Field(10, ge=0, le=REPEATS, description="how many of the worst layers to report")
    layer_inputs: int = Field(
        32,
        gt=0,
        le=INPUTS,
        description="inputs the layers are compared on; fewer where their tensors would take over 256 MiB",
    )
    outputs: int = Field(
        16, ge=0, le=REPEATS, description="how many outputs to compare besides the one that accuracy is measured on"
    )


class FidelityStudy(Study):
    """Errors of the model's output over all inputs, of its parts and of other outputs, and of the worst layers over some.

    A layer has two errors: the accumulated one of the build's tensor, whose inputs are the build's own and already erroneous,
    and the layer's own, where it is fed by the reference's tensors. Layers come in the order of their own error. All are
    looked at in graphs that are shown to compute what the uncut graph computes (`hwbench.worker.tasks.layers`).
    """

    name = "fidelity"
    headline = "sqnr_db"
    settings_type = FidelitySettings

    def plan(self, case: Case, settings: FidelitySettings) -> dict[str, Job]:
        """Golden outputs of both, their other outputs, and the reference's layers, which are stored once for all builds."""
        jobs = {"golden": case.evaluation(GOLDEN), "reference": case.evaluation(GOLDEN, subject=case.reference)}
        names, _ = other_outputs(case, settings.outputs)
        if names:
            jobs["others"] = evaluation(case, names)
            jobs["reference_others"] = evaluation(case, names, case.reference)
        if settings.layers and layers_of(case):
            jobs["reference_layers"] = looking(case, few(case, settings.layer_inputs), reference=True)
        return jobs

    def extend(self, case: Case, settings: FidelitySettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """The build's layers, as it computes them and alone, compared with the reference's where they are computed."""
        if "layers" in results or "reference_layers" not in results or not results["reference_layers"].ok:
            return {}
        job = comparing(case, results["reference_layers"])
        return {"layers": job} if job else {}

    def enough(self, case: Case, settings: FidelitySettings, results: Mapping[str, JobResult]) -> bool:
        """The outputs of both; layers that were not looked at are named."""
        return {"golden", "reference"} <= results.keys()

    def tolerated(self) -> frozenset[str]:
        """A runtime may refuse a graph that returns its inner tensors or all outputs; the output's figures need neither."""
        return frozenset({"layers", "reference_layers", "others", "reference_others"})

    def analyse(self, case: Case, settings: FidelitySettings, results: Mapping[str, JobResult]) -> Analysis:
        """Rows for the output, for the slices of all outputs, then for the worst layers."""
        fidelity = Fidelity()
        blocks = zip(
            chunks(results["reference"], "golden", case.data.n),
            chunks(results["golden"], "golden", case.data.n),
            strict=True,
        )
        for (_, reference), (_, output) in blocks:
            fidelity.add(reference, output)
        rows = list(_rows(fidelity.result(), "{}"))
        if (rows[-1].metric, rows[-1].value) == ("top1_agreement", 1) and _computes_as_reference(case, results):
            detail = f"exact: all {case.data.n} outputs are bit for bit the reference's"
            rows[-1] = replace(rows[-1], ci_low=1.0, ci_high=1.0, detail=detail)
        rows.extend(slice_rows(case, results, settings.outputs))
        if settings.layers and layers_of(case):
            rows.extend(self._layer_rows(case, settings, results))
        return Analysis(rows)

    def _layer_rows(self, case: Case, settings: FidelitySettings, results: Mapping[str, JobResult]) -> Iterator[Row]:
        """The layers with the largest error of their own, then those for which it is not known."""
        unlooked = [results.get(label) for label in ("reference_layers", "layers")]
        bad = next((one for one in unlooked if one is not None and not one.ok), None)
        if bad is not None or results.get("reference_layers") is None:
            why = STOPPED if bad is None else f"layers cannot be compared: {bad.detail}"
            status = "unavailable" if bad is None else bad.status
            yield Row(self.name, "sqnr_db", condition(tensor="*"), status=status, detail=why)
            return
        found = [_looked_at(layer, results) for layer in layers_of(case)]
        known = sorted((one for one in found if one.own is not None), key=lambda one: (_worst(one.own), one.layer.name))
        for one in [*known[: settings.layers], *(one for one in found if one.own is None)]:
            yield from one.rows()


def _computes_as_reference(case: Case, results: Mapping[str, JobResult]) -> bool:
    """True if the outputs show that the build computes what the reference does; see `hwbench.per_input`."""
    ours, theirs = (output_digests(case, results[label], "golden") for label in ("golden", "reference"))
    return ours is not None and theirs is not None and np.array_equal(ours, theirs)


@dataclass(frozen=True)
class _LookedAt:
    """One layer's errors.

    Attributes:
        layer: The layer.
        accumulated: The error of the build's tensor; None where it could not be looked at.
        own: The layer's own SQNR, in dB; None where it could not be computed.
        detail: A remark on the layer's own error, or the reason it is missing.
        reason: The reason that there are no figures at all.
    """

    layer: Layer
    accumulated: FidelityResult | None = None
    own: float | None = None
    detail: str = ""
    reason: str = ""

    def rows(self) -> Iterator[Row]:
        at = condition(tensor=self.layer.name)
        if self.accumulated is None:
            for metric in ("own_sqnr_db", "sqnr_db"):
                yield Row("fidelity", metric, at, status="unavailable", detail=self.reason)
            return
        n = self.accumulated.samples
        if self.own is None:
            yield Row("fidelity", "own_sqnr_db", at, status="unavailable", detail=self.detail)
        else:
            remark = "; ".join(part for part in (self.layer.op_type, self.detail) if part)
            yield Row("fidelity", "own_sqnr_db", at, self.own, "dB", n=n, detail=remark)
        yield from _rows(self.accumulated, at, detail=self.layer.op_type)


def _looked_at(layer: Layer, results: Mapping[str, JobResult]) -> _LookedAt:
    reference, built = results["reference_layers"], results.get("layers")
    if not seen(reference, layer):
        return _LookedAt(layer, reason=f"in the reference: {reason(reference, layer)}")
    if built is None:
        return _LookedAt(layer, reason=STOPPED)
    if not seen(built, layer, "accumulated"):
        return _LookedAt(layer, reason=f"in the build: {reason(built, layer)}")
    found = record(built, layer)
    accumulated = Fidelity.restored(found["accumulated"]).result()
    errors = replace(accumulated, samples=looked_with(reference), top1_agreement=None)
    if "own" not in found:
        return _LookedAt(layer, errors, detail=reason(built, layer, "own_reason"))
    own_db, agreement = Fidelity.restored(found["own"]).result().sqnr_db, found["agreement_db"]
    if agreement < min(_FLOAT_DB, own_db + _CLEAR_DB):
        why = f"computed alone, the layer differs from the same layer in the build (SQNR {agreement:.3g} dB)"
        return _LookedAt(layer, errors, detail=why)
    remark = "" if math.isinf(agreement) else f"computed alone, it matches the build to {agreement:.3g} dB (SQNR)"
    return _LookedAt(layer, errors, own_db, remark)


def _worst(sqnr_db: float | None) -> float:
    return -math.inf if sqnr_db is None or math.isnan(sqnr_db) else sqnr_db


def _rows(result: FidelityResult, setting: str, detail: str = "") -> Iterator[Row]:
    n = result.samples
    broken = f"{result.non_finite} values that are not finite are left out" if result.non_finite else detail
    yield Row("fidelity", "max_abs_error", setting, result.max_abs_error, n=n, detail=broken)
    yield Row("fidelity", "mean_abs_error", setting, result.mean_abs_error, n=n, detail=broken)
    yield Row("fidelity", "sqnr_db", setting, result.sqnr_db, "dB", n=n, detail=broken)
    yield Row("fidelity", "cosine", setting, result.cosine, "ratio", n=n, detail=broken)
    if result.top1_agreement is not None:
        yield row("fidelity", "top1_agreement", stats.proportion(result.top1_agreement, n, LEVEL), "ratio", setting)
