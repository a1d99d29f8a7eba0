"""Noise: accuracy under Gaussian and impulse noise on the inputs, and under noise on the stored weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

from pydantic import Field

from hwbench.bounds import DRAWS, INPUTS, POINTS
from hwbench.studies.base import GOLDEN, Analysis, Case, Settings, Study
from hwbench.studies.deployed import contents
from hwbench.studies.draws import NO_DRAWS, Level, Sampling, design_of
from hwbench.studies.outputs import row
from hwbench.studies.sweep import figure, finite_rows, loss
from hwbench.table import NO_LABELS, Row, condition
from hwbench.worker.protocol import Job, JobResult

_USUAL_DRAWS = 5
"""Draws over all inputs of a metric without bounds."""


class NoiseSettings(Settings):
    """Study settings."""

    snr_db: tuple[Annotated[float, Field(ge=-300, le=300, allow_inf_nan=False)], ...] = Field(
        (30, 20, 15, 10, 5, 0), max_length=POINTS, description="signal-to-noise ratios of Gaussian input noise"
    )
    impulse_rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.01, 0.05, 0.1), max_length=POINTS, description="shares of input elements set to the sample's extremes"
    )
    weight_sigmas: tuple[Annotated[float, Field(gt=0, le=1000, allow_inf_nan=False)], ...] = Field(
        (0.005, 0.01, 0.02, 0.05),
        max_length=POINTS,
        description="standard deviations of weight noise, relative to the stored range",
    )
    draws: int | None = Field(
        None,
        ge=2,
        le=DRAWS,
        description="draws of the noise at every setting; default: until half_width is reached, at most the cost of "
        f"{_USUAL_DRAWS} draws over all inputs",
    )
    inputs_per_draw: int | None = Field(
        None,
        ge=1,
        le=INPUTS,
        description="inputs that each draw runs on; default: chosen by a pilot, or all where draws is given",
    )
    half_width: float = Field(0.02, gt=0, description="wanted half-width of intervals")


# Kind of variant, the name of its setting in the variant, and in the table's condition.
_INPUT = (("gaussian_input", "snr_db", "snr_db"), ("impulse_input", "rate", "impulse_rate"))
_WEIGHT = ("weight_noise", "sigma", "weight_sigma")


class NoiseStudy(Study):
    """The same noise, draw for draw, on every build: settings and builds differ by what they do with it alone."""

    name = "noise"
    headline = "accuracy_drop"
    settings_type = NoiseSettings

    def plan(self, case: Case, settings: NoiseSettings) -> dict[str, Job]:
        """The golden outputs, and the first draws of noise on inputs and of noise on weights."""
        if case.data.labels is None:
            return {}
        jobs = {"golden": case.evaluation(GOLDEN)}
        for sampling in _samplings(case, settings):
            jobs |= sampling.wanted({})
        return jobs

    def extend(self, case: Case, settings: NoiseSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """More draws of the settings whose intervals are not narrow enough."""
        jobs: dict[str, Job] = {}
        if results and all(result.ok for result in results.values()):
            for sampling in _samplings(case, settings):
                jobs |= sampling.wanted(results)
        return jobs

    def conclude(self, case: Case, settings: NoiseSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Golden outputs of the sessions whose weights change, where they are not the build's."""
        found = [sampling.concluding(results) for sampling in _samplings(case, settings)]
        return {label: job for jobs in found for label, job in jobs.items()}

    def enough(self, case: Case, settings: NoiseSettings, results: Mapping[str, JobResult]) -> bool:
        """Draws at every setting."""
        return all(sampling.enough(results) for sampling in _samplings(case, settings))

    def analyse(self, case: Case, settings: NoiseSettings, results: Mapping[str, JobResult]) -> Analysis:
        """The primary metric and its loss at every setting."""
        if case.data.labels is None:
            return Analysis([self.missing("unavailable", NO_LABELS)])
        samplings = list(_samplings(case, settings))
        rows: list[Row] = []
        if (settings.snr_db or settings.impulse_rates) and not _has_floating_input(case):
            why = "no input of this model is a floating-point tensor; noise on inputs needs one"
            rows.append(self.missing("unavailable", why))
        if settings.weight_sigmas and not _has_weights(case):
            rows.append(self.missing("unavailable", "this build stores no weights, so weight noise has no effect"))
        for sampling in samplings:
            if not sampling.restored(results):
                why = "the golden output was not the same, bit for bit, after the noise was undone"
                return Analysis([self.missing("error", why)])
            rows.extend(self._rows(case, sampling, results))
            rows.extend(sampling.failure_rows(self.name, self.headline, results))
        return Analysis(rows or [self.missing("skipped", NO_DRAWS)])

    def _rows(self, case: Case, sampling: Sampling, results: Mapping[str, JobResult]) -> Iterator[Row]:
        metric, golden = case.primary, sampling.golden(results)
        for setting, sweep in sampling.sweeps(results, golden).items():
            yield row(self.name, metric.name, figure(case, sweep, golden), metric.unit, setting)
            detail = f"mean loss of {metric.name} against the same build without noise; {sampling.detail(sweep)}"
            yield row(self.name, "accuracy_drop", loss(case, sweep, golden), metric.unit, setting, detail)
            yield from finite_rows(self.name, case, sweep, golden, setting)


def _samplings(case: Case, settings: NoiseSettings) -> Iterator[Sampling]:
    """Noise on inputs, drawn input by input, and noise on weights."""
    inputs: list[Level] = []
    for (kind, key, name), strengths in zip(_INPUT, (settings.snr_db, settings.impulse_rates), strict=True):
        inputs += [_level(kind, key, name, strength) for strength in strengths]
    weights = [_level(*_WEIGHT, sigma) for sigma in settings.weight_sigmas] if _has_weights(case) else []
    for label, levels in (("inputs", inputs if _has_floating_input(case) else []), ("weights", weights)):
        design = design_of(
            case,
            usual=_USUAL_DRAWS,
            effort=_USUAL_DRAWS,
            limit=None,
            half_width=settings.half_width,
            draws=settings.draws,
            per_draw=settings.inputs_per_draw,
            shared=label == "weights",
        )
        if levels:
            yield Sampling(case, label, levels, design)


def _level(kind: str, key: str, name: str, strength: float) -> Level:
    setting = condition(**{name: strength})
    return Level(setting, {"kind": kind, key: strength}, setting)


def _has_weights(case: Case) -> bool:
    return contents(case.subject.build.model).has_weights


def _has_floating_input(case: Case) -> bool:
    return any(spec.dtype in ("float16", "bfloat16", "float32", "float64") for spec in case.model.inputs)
