"""benchmark.json: timings in pytest-benchmark's format, so that ``pytest-benchmark compare`` reads them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.errors import InputError

FORMAT_VERSION = "5.1.0"  # the release whose file format this is
Timings = Mapping[str, np.ndarray[Any, np.dtype[Any]]]


def write_pytest_benchmark(run: Mapping[str, Any], timings: Timings, path: Path) -> Path:
    """Write timings as pytest-benchmark JSON.

    Args:
        run: The content of ``run.json``.
        timings: Name to seconds per call, ``[calls]``. A name like ``latency[cpu-int8]`` groups by what stands before
            the bracket.
        path: Where to write it.

    Returns:
        ``path``.

    Raises:
        InputError: A series is empty or holds something else than finite times.
    """
    benchmarks = [_benchmark(name, _checked(name, seconds)) for name, seconds in timings.items()]
    content = {
        "machine_info": _machine(run),
        "commit_info": {
            "id": "unversioned",
            "time": None,
            "author_time": None,
            "dirty": False,
            "project": run.get("name"),
            "branch": "(unknown)",
        },
        "benchmarks": benchmarks,
        "datetime": run.get("finished") or run.get("created"),
        "version": FORMAT_VERSION,
    }
    path.write_text(json.dumps(content, indent=1, allow_nan=False), encoding="utf-8")
    return path


def statistics(seconds: np.ndarray[Any, np.dtype[Any]]) -> dict[str, Any]:
    """The statistics pytest-benchmark keeps of a series.

    Quartiles are its own: medians of the halves for an even number of values, interpolated ("method 3") for an odd one.

    Args:
        seconds: ``[calls]``, at least one.
    """
    data = np.sort(seconds.astype(np.float64))
    low, high = _quartiles(data)
    spread = high - low
    mean, deviation = float(data.mean()), float(data.std(ddof=1)) if data.size > 1 else 0.0
    inside = data[(data >= low - 1.5 * spread) & (data <= high + 1.5 * spread)]
    far = int(np.count_nonzero((data < mean - deviation) | (data > mean + deviation)))
    outside, total = int(data.size - inside.size), float(data.sum())
    return {
        "min": float(data[0]), "max": float(data[-1]), "mean": mean, "stddev": deviation, "rounds": int(data.size),
        "median": float(np.median(data)), "iqr": spread, "q1": low, "q3": high,
        "iqr_outliers": outside, "stddev_outliers": far, "outliers": f"{far};{outside}",
        "ld15iqr": float(inside[0]), "hd15iqr": float(inside[-1]), "ops": data.size / total if total else 0.0,
        "total": total,
    }  # fmt: skip


def _quartiles(data: np.ndarray[Any, np.dtype[Any]]) -> tuple[float, float]:
    count = data.size
    if count == 1:
        return float(data[0]), float(data[0])
    if count % 2 == 0:
        return float(np.median(data[: count // 2])), float(np.median(data[count // 2 :]))
    whole, rest = divmod(count, 4)
    if rest == 1:
        return float(0.25 * data[whole - 1] + 0.75 * data[whole]), float(
            0.75 * data[3 * whole] + 0.25 * data[3 * whole + 1]
        )
    return float(0.75 * data[whole] + 0.25 * data[whole + 1]), float(
        0.25 * data[3 * whole + 1] + 0.75 * data[3 * whole + 2]
    )


def _checked(name: str, seconds: np.ndarray[Any, np.dtype[Any]]) -> np.ndarray[Any, np.dtype[Any]]:
    flat = np.asarray(seconds).reshape(-1)
    if flat.size == 0 or not np.isfinite(flat).all():
        raise InputError(f"timings {name!r}: needs at least one value and finite ones only, in seconds")
    return flat


def _benchmark(name: str, seconds: np.ndarray[Any, np.dtype[Any]]) -> dict[str, Any]:
    group, bracket, rest = name.partition("[")
    profile = rest.removesuffix("]") if bracket else None
    return {
        "group": group,
        "name": name,
        "fullname": f"hwbench::{name}",
        "params": {"profile": profile} if profile is not None else None,
        "param": profile,
        "extra_info": {},
        "options": {"disable_gc": True, "timer": "perf_counter", "warmup": True},
        "stats": {**statistics(seconds), "data": [float(value) for value in seconds], "iterations": 1},
    }


def _machine(run: Mapping[str, Any]) -> dict[str, Any]:
    host = run.get("host")
    known = host if isinstance(host, Mapping) else {}
    return {
        "node": "", "processor": "", "machine": known.get("machine", ""), "python_implementation": "CPython",
        "python_version": known.get("python", ""), "release": known.get("kernel", ""), "system": known.get("os", ""),
        "cpu": {"brand_raw": known.get("cpu_model", ""), "count": known.get("cores_logical")},
    }  # fmt: skip
