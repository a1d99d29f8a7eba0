"""Noise: accuracy under Gaussian and impulse noise on the inputs, and under noise on the stored weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated, Any

from pydantic import Field

from hwbench.studies.base import GOLDEN, Analysis, Case, Settings, Study
from hwbench.studies.outputs import per_sample, row
from hwbench.studies.sweep import figure, finite_rows, gather, golden_of, loss, own_golden
from hwbench.table import NO_LABELS, Row, condition
from hwbench.worker.protocol import Job, JobResult


class NoiseSettings(Settings):
    """What the study can be told."""

    snr_db: tuple[Annotated[float, Field(ge=-300, allow_inf_nan=False)], ...] = Field(
        (30, 20, 15, 10, 5, 0), description="signal-to-noise ratios of Gaussian input noise"
    )
    impulse_rates: tuple[Annotated[float, Field(gt=0, le=1)], ...] = Field(
        (0.01, 0.05, 0.1), description="share of input elements set to the sample's extremes"
    )
    weight_sigmas: tuple[Annotated[float, Field(gt=0, allow_inf_nan=False)], ...] = Field(
        (0.005, 0.01, 0.02, 0.05), description="of weight noise, relative to the stored range"
    )
    draws: int = Field(5, ge=2, description="independent draws of the noise")


# Kind of variant, the name of its setting in the variant, and in the table's condition.
_INPUT = (("gaussian_input", "snr_db", "snr_db"), ("impulse_input", "rate", "impulse_rate"))
_WEIGHT = ("weight_noise", "sigma", "weight_sigma")


class NoiseStudy(Study):
    """The same noise, draw for draw, on every build: settings and builds differ by what they do with it alone."""

    name = "noise"
    headline = "accuracy_drop"
    settings_type = NoiseSettings

    def plan(self, case: Case, settings: NoiseSettings) -> dict[str, Job]:
        """The golden outputs, one job for noise on inputs and one for noise on weights."""
        if case.data.labels is None:
            return {}
        weights = _variants(case, settings, (_WEIGHT,), settings.weight_sigmas)
        jobs = {"golden": case.evaluation(GOLDEN)}
        if weights:
            jobs["weights"] = case.evaluation(weights, top=case.classifies)
        inputs: dict[str, dict[str, Any]] = {}
        for kind, levels in zip(_INPUT, (settings.snr_db, settings.impulse_rates), strict=True):
            inputs |= _variants(case, settings, (kind,), levels)
        if inputs and _has_floating_input(case):
            jobs["inputs"] = case.evaluation(inputs, top=case.classifies)
        return jobs

    def extend(self, case: Case, settings: NoiseSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Golden outputs of the session whose weights change, where they are not the build's."""
        return own_golden(case, results, "weights") if "weights" in results else {}

    def analyse(self, case: Case, settings: NoiseSettings, results: Mapping[str, JobResult]) -> Analysis:
        """The primary metric and its loss at every setting."""
        if case.data.labels is None:
            return Analysis([self.missing("unavailable", NO_LABELS)])
        rows: list[Row] = []
        if "inputs" in results:
            for (kind, _, name), levels in zip(_INPUT, (settings.snr_db, settings.impulse_rates), strict=True):
                rows.extend(self._rows(case, settings, results, "inputs", kind, name, levels))
        elif settings.snr_db or settings.impulse_rates:
            rows.append(
                self.missing(
                    "unavailable", "no input of this model is a floating-point tensor, so there is none to add noise to"
                )
            )
        if "weights" in results:
            if not results["weights"].data.get("restored", True):
                return Analysis(
                    [
                        self.missing(
                            "error", "the golden output was not the same, bit for bit, after the noise was undone"
                        )
                    ]
                )
            rows.extend(self._rows(case, settings, results, "weights", _WEIGHT[0], _WEIGHT[2], settings.weight_sigmas))
        return Analysis(rows)

    def _rows(
        self,
        case: Case,
        settings: NoiseSettings,
        results: Mapping[str, JobResult],
        label: str,
        kind: str,
        name: str,
        levels: tuple[float, ...],
    ) -> Iterator[Row]:
        metric, result, whole = case.primary, results[label], golden_of(results, label)
        golden = per_sample(case, metric, whole, "golden")
        for level in levels:
            sweep = gather(case, result, [f"{kind}-{level!r}-draw{draw}" for draw in range(settings.draws)], whole)
            setting = condition(**{name: level})
            yield row(self.name, metric.name, figure(case, sweep), metric.unit, setting)
            lost = loss(case, sweep, golden)
            yield row(
                self.name,
                "accuracy_drop",
                lost,
                metric.unit,
                setting,
                f"mean loss of {metric.name} against the same build without noise",
            )
            yield from finite_rows(self.name, case, sweep, golden, setting)


def _variants(
    case: Case, settings: NoiseSettings, kinds: tuple[tuple[str, str, str], ...], levels: tuple[float, ...]
) -> dict[str, dict[str, Any]]:
    return {
        f"{kind}-{level!r}-draw{draw}": {"kind": kind, "seed": case.seed, "draw": draw, key: level}
        for kind, key, _ in kinds
        for draw in range(settings.draws)
        for level in levels
    }


def _has_floating_input(case: Case) -> bool:
    return any(spec.dtype in ("float16", "bfloat16", "float32", "float64") for spec in case.model.inputs)
