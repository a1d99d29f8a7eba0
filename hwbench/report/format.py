"""Figures as text: sensible digits, units, intervals; and foreign names made safe to print."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from hwbench.table import Row

GROUP = "\u202f"  # a narrow no-break space: commas already separate the bounds of an interval
_UNIT_SUFFIXES = {"": "", "ratio": "", "count": "", "1/s": "/s"}
_UNSAFE = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u200e\u200f\u202a-\u202e\u2066-\u2069\ud800-\udfff\ufffe\uffff]")

METRIC_TITLES = {
    "top1": "Top-1 accuracy",
    "top5": "Top-5 accuracy",
    "rmse": "RMSE",
    "mae": "MAE",
    "r2": "R²",
    "cosine": "Cosine similarity",
    "accuracy_drop": "Accuracy drop",
    "loss_change": "Loss change",
    "mcnemar_p": "McNemar p-value",
    "discordant": "Inputs that only one gets right",
    "max_abs_error": "Largest absolute error",
    "mean_abs_error": "Mean absolute error",
    "sqnr_db": "SQNR",
    "own_sqnr_db": "SQNR of the layer alone",
    "worst_slice_sqnr_db": "Worst slice, SQNR",
    "slice_sqnr_db": "SQNR of the slice",
    "distinct_values": "Distinct values",
    "reference_distinct_values": "Distinct values of the reference",
    "value_agreement": "Agreement of integers",
    "top1_agreement": "Top-1 agreement",
    "sqnr_loss_db": "Loss of SQNR",
    "portable": "Portable",
    "nodes_as_asked": "Nodes as asked",
    "p50_ms": "Latency p50",
    "p90_ms": "Latency p90",
    "p99_ms": "Latency p99",
    "p50_ratio": "Latency p50, ratio",
    "p99_ratio": "Latency p99, ratio",
    "load_ms": "Load time",
    "first_run_ms": "First run",
    "samples_per_s": "Throughput",
    "samples_per_s_ratio": "Throughput, ratio",
    "scaling_efficiency": "Scaling efficiency",
    "sustained_ratio": "Throughput kept",
    "frequency_mhz": "Processor frequency",
    "temperature_c": "Temperature",
    "gpu_frequency_mhz": "GPU frequency",
    "gpu_temperature_c": "GPU temperature",
    "peak_mib": "Peak memory",
    "least_mib": "Least memory",
    "model_bytes": "Model size",
    "findings": "Findings",
    "int16_saturation": "Int16 saturation",
    "not_symmetric": "Not symmetric",
    "int32_bias": "Int32 bias",
    "kept_in_float": "Kept in float",
    "scale_not_finite": "Scale not finite",
    "scale_zero": "Scale of zero",
    "scale_saturated": "Scale saturated",
    "mixed_ranges": "Mixed ranges",
    "tolerated_ber": "Tolerated bit error rate",
    "sdc_rate": "SDC rate",
    "due_rate": "DUE rate",
    "energy": "Relative energy",
    "storage_overhead": "Storage overhead",
    "corrected": "Corrected",
    "detected": "Detected",
    "miscorrected": "Miscorrected",
    "undetected": "Undetected",
    "drop_avoided": "Drop avoided",
    "flips_needed": "Flips needed",
    "golden_max_abs_diff": "Golden output, largest difference",
    "verified_trials": "Trials run again",
    "rebuilt_trials": "Trials by full rebuild",
    "untold_trials": "Trials that could not be told",
    "left_out_tensors": "Tensors left out",
    "covered_numbers": "Stored numbers covered",
}
_CONDITION_TITLES = {
    "ber": "bit error rate",
    "snr_db": "SNR (dB)",
    "impulse_rate": "impulse rate",
    "weight_sigma": "weight σ",
    "cap_mib": "cap (MiB)",
    "cpu_quota": "processor quota (cores)",
    "second": "second",
    "to": "relative to",
    "voltage": "V/Vmin",
    "temperature_c": "temperature (°C)",
    "fit": "FIT per Mbit",
    "flips": "targeted flips",
}


def plain(text: object) -> str:
    """Text without control and direction-changing characters, which could fool a terminal, a parser or a reader."""
    return _UNSAFE.sub("\ufffd", str(text))


def metric_title(metric: str) -> str:
    """A metric's name for a person; an unknown metric keeps its own."""
    return METRIC_TITLES.get(metric, metric)


def study_title(study: str) -> str:
    """A study's name for a person."""
    return study.replace("_", " ").capitalize()


def words(condition: Mapping[str, Any]) -> str:
    """A condition in words, e.g. ``"bit error rate 1e-4"``."""
    return ", ".join(f"{_CONDITION_TITLES.get(key, key)} {_setting(value)}" for key, value in condition.items())


def _setting(value: Any) -> str:
    return exact(value) if isinstance(value, float) else str(value)


def number(value: float, decimals: int | None = None) -> str:
    """A number with three significant digits, or with a given number of decimals.

    Whole numbers are written out; what is very small or large gets an exponent (``1e-4``).
    """
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "∞" if value > 0 else "−∞"
    if decimals is None:
        size = abs(value)
        if size and (size < 1e-3 or size >= 1e9):
            return _signed(_exponent(value))
        decimals = 0 if value == int(value) else max(0, 2 - math.floor(math.log10(size)))
    return _signed(f"{value:,.{decimals}f}".replace(",", GROUP))


def _exponent(value: float) -> str:
    mantissa, _, power = f"{value:.2e}".partition("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(power)}"


def _signed(text: str) -> str:
    if text.startswith("-"):
        return text[1:] if not text.strip("-0.") else "−" + text[1:]
    return text


def interval_decimals(low: float, high: float) -> int | None:
    """How many decimals an interval justifies: two digits of its width."""
    width = high - low
    if not math.isfinite(width) or width <= 0:
        return None
    return min(9, max(0, 1 - math.floor(math.log10(width))))


def exact(value: float) -> str:
    """A number that somebody chose, such as a limit: every digit it has and no more."""
    if not math.isfinite(value) or (value and abs(value) < 1e-3):
        return number(value)
    return _signed(f"{value:,.10g}".replace(",", GROUP))


def when(moment: object) -> str:
    """A time stamp without the machine's punctuation; what is not one stays as it is."""
    try:
        return datetime.fromisoformat(str(moment)).strftime("%Y-%m-%d %H:%M:%S %Z").strip()
    except ValueError:
        return str(moment)


def size(count: float) -> str:
    """A number of bytes, e.g. ``"1.21 MiB"``."""
    for unit, scale in (("GiB", 1 << 30), ("MiB", 1 << 20), ("KiB", 1 << 10)):
        if count >= scale:
            return f"{number(count / scale)} {unit}"
    return f"{number(count)} B"


def unit_suffix(unit: str) -> str:
    """A unit as it follows a number; nothing for ratios and counts."""
    return _UNIT_SUFFIXES.get(unit, f" {unit}")


def value_text(row: Row) -> str:
    """A row's figure without its interval, e.g. ``"0.981"`` or ``"0.213 ms"``; the reason's name if there is none."""
    if row.status != "ok":
        return row.status
    if row.value is None:
        return "see note" if row.detail else "no figure"
    if row.unit in {"bytes", "B"} or row.metric == "model_bytes":
        return size(row.value)
    text = number(row.value, _decimals(row.value, row.ci_low, row.ci_high))
    return text + ("" if math.isinf(row.value) else unit_suffix(row.unit))


def interval_text(low: float | None, high: float | None, value: float | None = None) -> str:
    """An interval, e.g. ``"[0.970, 0.988]"``; empty if there is none."""
    if low is None or high is None:
        return ""
    decimals = _decimals(value if value is not None else low, low, high)
    return f"[{number(low, decimals)}, {number(high, decimals)}]"


def figure_text(row: Row) -> str:
    """A row's figure with its interval, e.g. ``"0.981 [0.970, 0.988]"``."""
    shown = interval_text(row.ci_low, row.ci_high, row.value) if row.status == "ok" else ""
    return f"{value_text(row)} {shown}".strip()


def _decimals(value: float, low: float | None, high: float | None) -> int | None:
    if low is None or high is None:
        return None
    largest = max(abs(value), abs(low), abs(high))
    return None if largest < 1e-3 else interval_decimals(low, high)
