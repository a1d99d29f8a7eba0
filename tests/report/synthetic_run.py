"""A synthetic run that has everything a report must cope with: several profiles, one unavailable, hostile names."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

from hwbench.table import Row, condition
from hwbench.verdict import Verdict

HOSTILE = "</script><script>alert(1)</script>"
HOSTILE_PROFILE = "<img src=x onerror=alert(2)>|*`evil`\x1b[31m"
BERS = (1e-7, 1e-6, 1e-5, 1e-4, 1e-3, 1e-2)
# name -> accuracy, p50 ms, peak MiB, bytes, SQNR, the bit error rate at which accuracy halves
BUILDS = {
    "cpu-fp32": (0.986, 0.412, 118.0, 812_345, math.inf, 3e-5),
    "cpu-int8": (0.983, 0.213, 104.0, 224_120, 36.4, 2e-3),
    "cpu-int4": (0.941, 0.305, 106.5, 151_002, 21.7, 1e-3),
    "openvino-int8": (0.979, 0.187, 171.0, 224_120, 31.2, 2e-3),
    "edge-int8-128m": (0.983, 0.398, 102.0, 224_120, 36.4, 2e-3),
    HOSTILE_PROFILE: (0.985, 0.402, 119.0, 409_700, 62.8, 8e-5),
}
UNAVAILABLE = "gpu-tensorrt-int8"
REASON = "no NVIDIA driver: libcuda.so.1 cannot be loaded"
HINT = "install the NVIDIA driver, then: pip install 'hwbench-ml[tensorrt]'"
N = 1000
TENSORS = {
    "cpu-fp32": (HOSTILE, "conv1.weight", "conv1.bias", "classifier.weight"),
    "cpu-int8": tuple(
        f"/features/features.{layer}/conv/conv.0/{name}"
        for layer in range(12)
        for name in ("weight_quantized", "weight_scale", "bias_quantized")
    ),
}
VOLTAGES = (0.75, 0.792, 0.833, 0.875, 0.917, 0.958, 1.0)


def _wilson(share: float, n: int = N) -> dict[str, Any]:
    centre, spread = (
        (share + 1.92 / n) / (1 + 3.84 / n),
        1.96 * math.sqrt(share * (1 - share) / n + 0.96 / n**2) / (1 + 3.84 / n),
    )
    return {
        "value": share,
        "ci_low": max(0.0, centre - spread),
        "ci_high": min(1.0, centre + spread),
        "ci_level": 0.95,
        "n": n,
        "unit": "ratio",
    }


def _around(value: float, share: float, n: int, unit: str) -> dict[str, Any]:
    return {
        "value": value,
        "ci_low": value * (1 - share),
        "ci_high": value * (1 + share),
        "ci_level": 0.95,
        "n": n,
        "unit": unit,
    }


def _accuracy(name: str, top1: float) -> list[Row]:
    rows = [Row("accuracy", "top1", **_wilson(top1)), Row("accuracy", "top5", **_wilson(min(1.0, top1 + 0.012)))]
    rows += [
        Row("accuracy", "top1", condition(**{"class": k}), **_wilson(top1 - 0.004 * k % 0.03, 100)) for k in range(10)
    ]
    if name != "reference":
        drop = 0.986 - top1
        rows.append(
            Row(
                "accuracy",
                "accuracy_drop",
                value=drop,
                ci_low=drop - 0.0042,
                ci_high=drop + 0.0051,
                ci_level=0.95,
                n=N,
                unit="ratio",
            )
        )
        rows.append(Row("accuracy", "mcnemar_p", value=0.37, n=N))
    return rows


def _fidelity(sqnr: float) -> list[Row]:
    exact = math.isinf(sqnr)
    rows = [
        Row("fidelity", "sqnr_db", value=sqnr, unit="dB", n=N, detail="identical outputs" if exact else ""),
        Row("fidelity", "max_abs_error", value=0.0 if exact else 1.37, n=N),
        Row("fidelity", "mean_abs_error", value=0.0 if exact else 0.0912, n=N),
        Row("fidelity", "top1_agreement", **_wilson(1.0 if exact else 0.994)),
    ]
    for layer in range(0 if exact else 4):
        at = condition(tensor=f"/blocks.{layer}/conv/Conv_output_0" if layer else HOSTILE)
        rows += [
            Row("fidelity", "own_sqnr_db", at, value=sqnr + 5 + 3 * layer % 4, unit="dB", n=256, detail="Conv"),
            Row("fidelity", "sqnr_db", at, value=sqnr + 3 * layer, unit="dB", n=256),
            Row("fidelity", "max_abs_error", at, value=0.7 / (layer + 1), n=256),
        ]
    for metric in () if exact else ("own_sqnr_db", "sqnr_db"):
        hidden = condition(tensor="residual")
        rows.append(Row("fidelity", metric, hidden, status="unavailable", detail="not observable without changing it"))
    return rows


def _speed(p50: float) -> list[Row]:
    rows = [
        Row("latency", f"p{q}_ms", condition(batch=1), **_around(p50 * factor, 0.03 * factor, 1200, "ms"))
        for q, factor in ((50, 1.0), (90, 1.12), (99, 1.6))
    ]
    rows += [
        Row("latency", "load_ms", value=38.2, unit="ms", n=1),
        Row("latency", "first_run_ms", value=1.9, unit="ms", n=1),
    ]
    for batch in (1, 8, 32):
        for threads in (1, 2):
            rate = 1000 / p50 * threads**0.8 * (2 - 1 / batch)
            rows.append(
                Row(
                    "throughput",
                    "samples_per_s",
                    condition(batch=batch, threads=threads),
                    **_around(rate, 0.05, 30, "1/s"),
                )
            )
    best = 1000 / p50 * 2**0.8 * (2 - 1 / 32)
    return [*rows, Row("throughput", "samples_per_s", detail="batch 32, 2 threads", **_around(best, 0.05, 30, "1/s"))]


def _memory(name: str, peak: float, size: int) -> list[Row]:
    rows = [
        Row("memory", "peak_mib", value=peak, unit="MiB", n=3),
        Row("memory", "peak_mib", condition(kind="anonymous"), value=peak * 0.55, unit="MiB", n=3),
        Row("memory", "peak_mib", condition(kind="file"), value=peak * 0.45, unit="MiB", n=3),
        Row("memory", "model_bytes", value=float(size), unit="bytes"),
    ]
    if name == "edge-int8-128m":
        rows.append(Row("memory", "peak_mib", condition(cap_mib=128), value=101.0, unit="MiB", n=1, detail="cgroup v1"))
    return rows


def _robustness(top1: float, half: float) -> list[Row]:
    rows = []
    for ber in BERS:
        kept = 0.1 + (top1 - 0.1) / (1 + (ber / half) ** 1.1)
        spread = 0.02 + 0.12 * math.exp(-((math.log10(ber / half)) ** 2))
        band = {"ci_low": max(0.0, kept - spread), "ci_high": min(top1, kept + spread), "ci_level": 0.95, "n": 20_000}
        rows += [
            Row("bit_flips", "top1", condition(ber=ber), value=kept, unit="ratio", **band),
            Row(
                "bit_flips",
                "top1",
                condition(ber=ber, draw="worst"),
                value=max(0.08, kept - 2 * spread),
                unit="ratio",
                n=N,
            ),
            Row("bit_flips", "accuracy_drop", condition(ber=ber), value=top1 - kept, unit="ratio", n=20_000),
            Row("bit_flips", "sdc_rate", condition(ber=ber), **_wilson(max(0.0, (top1 - kept) * 0.9), 20_000)),
            Row("bit_flips", "due_rate", condition(ber=ber), **_wilson(max(0.0, (top1 - kept) * 0.05), 20_000)),
        ]
    rows.append(Row("bit_flips", "tolerated_ber", value=10.0 ** math.floor(math.log10(half) - 1), n=20))
    for key, values in {
        "snr_db": (0, 5, 10, 15, 20, 30),
        "impulse_rate": (0.01, 0.05, 0.1, 0.2),
        "weight_sigma": (0.01, 0.02, 0.05, 0.1),
    }.items():
        for value in values:
            harm = 1 / (1 + math.exp((value - 6) / 3)) if key == "snr_db" else value * 2.5
            rows.append(
                Row("noise", "top1", condition(**{key: value}), **_wilson(0.1 + (top1 - 0.1) * max(0.0, 1 - harm)))
            )
    return rows


def _faults(name: str) -> list[Row]:
    tensors, exact = TENSORS.get(name, ()), name == "cpu-fp32"
    if not tensors:
        return []
    rows = [
        Row("faults", "sdc_rate", **_wilson(0.0123, 4000)),
        Row("faults", "due_rate", **_wilson(0.004 if exact else 0.0, 4000)),
        Row("faults", "accuracy_drop", **_around(0.0041, 0.3, 4000, "ratio")),
    ]
    rows += [
        Row("faults", "sdc_rate", condition(margin=margin), **_wilson(share, 4000))
        for margin, share in (("top5", 0.002), ("confidence_10", 0.009), ("confidence_20", 0.006))
    ]
    for place, role in enumerate(("weight", "scale", "bias")):
        rows.append(Row("faults", "sdc_rate", condition(role=role), **_wilson(0.01 * (1 + place), 1000)))
        rows.append(Row("faults", "due_rate", condition(role=role), **_wilson(0.0, 1000)))
    forms = {"float32": 32} if exact else {"int8": 8, "float32": 32}
    for form, width in forms.items():
        for bit in range(width):
            share = 0.4 * 2.0 ** (0.8 * (bit - width + 1))
            rows.append(Row("faults", "sdc_rate", condition(bit=bit, format=form), **_wilson(share, 500)))
            due = 0.3 if (form, bit) == ("float32", 30) else 0.0
            rows.append(Row("faults", "due_rate", condition(bit=bit, format=form), **_wilson(due, 500)))
    for place, tensor in enumerate(tensors):
        width = 8 if tensor.endswith("weight_quantized") else 32
        share = (0.02 if width == 8 else 0.12) / (1 + place)
        rows.append(
            Row("faults", "sdc_rate", condition(tensor=tensor), detail="Conv", **_wilson(share, 60 + 9 * place))
        )
        rows.append(Row("faults", "due_rate", condition(tensor=tensor), **_wilson(0.0, 60 + 9 * place)))
        for bit in range(width if place < 6 else 0):
            at, here = condition(tensor=tensor, bit=bit), min(1.0, 8 * share * 2.0 ** (0.7 * (bit - width + 1)))
            rows.append(Row("faults", "sdc_rate", at, **_wilson(here, 4 + place)))
    return rows


def _memory_errors(top1: float) -> list[Row]:
    rows = []
    for protection, factor in ((None, 1.0), ("secded_72_64", 0.1), ("parity_64+secded_39_32", 0.5)):
        by = {"protection": protection} if protection else {}
        if protection:
            rows.append(Row("memory_errors", "storage_overhead", condition(**by), value=0.125, unit="ratio"))
        settings = [({"voltage": v}, 0.8 * math.exp(-40 * (v - 0.75))) for v in VOLTAGES]
        for setting, harm in (*settings, ({"fit": 50_000, "hours": 8760}, 0.02)):
            at, kept = condition(**setting, **by), top1 - factor * harm
            rows.append(Row("memory_errors", "top1", at, **_around(kept, 0.02, 20_000, "ratio")))
            rows.append(Row("memory_errors", "accuracy_drop", at, **_around(top1 - kept, 0.1, 20_000, "ratio")))
            if "voltage" in setting:
                energy = setting["voltage"] ** 2 * (1.125 if protection else 1.0)
                rows.append(Row("memory_errors", "energy", at, value=energy, unit="ratio"))
            for metric, count in (("corrected", 812.5), ("detected", 31.2), ("miscorrected", 1.4)) if by else ():
                rows.append(Row("memory_errors", metric, at, value=count * harm, unit="count", n=20))
    return rows


def _worst_case(top1: float, flips: int) -> list[Row]:
    needed = {"greedy": flips, "data_free": 3 * flips}
    said = "until chance: top1 <= 0.1"
    return [
        Row("worst_case", "flips_needed", value=float(flips), unit="count", detail=said),
        *(
            Row("worst_case", "flips_needed", condition(search=name), float(count), "count", detail=said)
            for name, count in needed.items()
        ),
        *(
            Row("worst_case", "top1", condition(flips=k, search=name), **_wilson(max(0.1, top1 * 0.8**k)))
            for name, count in needed.items()
            for k in range(count + 1)
        ),
    ]


def _coverage(name: str) -> list[Row]:
    astray = [HOSTILE, "/classifier/MatMul"] if name == "cpu-int4" else []
    rows = [Row("coverage", "nodes_as_asked", value=1 - len(astray) / 15, unit="ratio", n=15)]
    rows += [
        Row(
            "coverage",
            "nodes_as_asked",
            condition(node=node),
            value=0.0,
            n=1,
            detail="asked int4 on CPU, ran fp32 on CPU",
        )
        for node in astray
    ]
    return rows


def make_rows() -> list[Row]:
    rows = [replace(row, profile="reference") for row in _accuracy("reference", 0.986)]
    for name, (top1, p50, peak, size, sqnr, half) in BUILDS.items():
        mine = [
            *_accuracy(name, top1),
            *_fidelity(sqnr),
            *_coverage(name),
            *_speed(p50),
            *_memory(name, peak, size),
            *_robustness(top1, half),
            *_faults(name),
            *(_memory_errors(top1) if name == "cpu-int8" else ()),
            *(_worst_case(top1, 4 if name == "cpu-fp32" else 12) if name in TENSORS else ()),
        ]
        rows += [replace(row, profile=name, build=f"{abs(hash(size)):012x}") for row in mine]
    for study, metric in (
        ("accuracy", "top1"),
        ("fidelity", "sqnr_db"),
        ("latency", "p50_ms"),
        ("memory", "peak_mib"),
        ("bit_flips", "top1"),
        ("faults", "sdc_rate"),
    ):
        rows.append(Row(study, metric, status="unavailable", detail=REASON, profile=UNAVAILABLE))
    rows.append(
        Row(
            "radiation",
            "upsets",
            condition(hours=24),
            value=3.0,
            ci_low=1.0,
            ci_high=7.0,
            ci_level=0.95,
            n=24,
            profile="cpu-int8",
        )
    )
    rows.append(
        Row(
            "noise", "top1", condition(snr_db=40), status="timeout", detail="no answer within 600 s", profile="cpu-int4"
        )
    )
    return [replace(row, model=HOSTILE) for row in rows]


def _profile(name: str) -> dict[str, Any]:
    low = "int8" if "int8" in name else "int4" if "int4" in name else "fp32"
    runtime = "OpenVINO" if "openvino" in name else "TensorRT" if "tensorrt" in name else "ONNX Runtime"
    about: dict[str, Any] = {
        "summary": f"{low} on {runtime}",
        "backend": "onnxruntime",
        "status": "ok",
        "detail": "",
        "hint": "",
        "build": "5f0c1d2e3a4b",
        "shares_build_with": ["edge-int8-128m"] if name == "cpu-int8" else [],
        "asked": {"format": low, "activations": "u8", "weights": "s8", "per_channel": True, "device": "CPU"},
        "ran": {"device": "CPU", "precision": {low: 12, "fp32": 3}},
        "target": {"kind": "local"},
        "seconds": 12.4,
    }
    if name == "edge-int8-128m":
        about["target"] = {"kind": "local", "memory_mib": 128, "cpu_quota": 1.0, "mechanism": "cgroup v1"}
    if name == UNAVAILABLE:
        about |= {
            "status": "unavailable",
            "detail": REASON,
            "hint": HINT,
            "ran": {},
            "backend": "tensorrt",
            "build": "",
        }
    return about


def make_run() -> dict[str, Any]:
    return {
        "schema_version": 1,
        "hwbench": "0.1.0",
        "name": "synthetic",
        "created": "2026-11-22T14:36:05+00:00",
        "finished": "2026-11-22T14:37:12+00:00",
        "state": "complete",
        "spec": {},
        "seed": 7,
        "task": "classification",
        "primary": "top1",
        "host": {
            "cpu_model": "Intel(R) Xeon(R) Processor",
            "isa": ["avx2", "avx512f", "avx512_vnni", "amx_int8"],
            "cores_physical": 2,
            "cores_logical": 2,
            "memory_mib": 7963,
            "kernel": "6.18.44",
            "os": "Debian GNU/Linux 12",
            "python": "3.11.7",
            "machine": "x86_64",
            "sandbox": "Landlock ABI 7 (files, TCP, signals), seccomp (sockets)",
        },
        "packages": {"onnxruntime": "1.32.0", "openvino": "2026.4.1", "numpy": "2.4.6", "onnx": "1.23.2"},
        "model": {
            "name": HOSTILE,
            "file": "digits.onnx",
            "sha256": "9f" * 32,
            "bytes": 812_345,
            "nodes": 31,
            "parameters": 201_226,
            "inputs": [{"name": "x", "dtype": "float32", "shape": [None, 1, 28, 28]}],
            "outputs": [{"name": "y", "dtype": "float32", "shape": [None, 10]}],
        },
        "data": {
            "source": "digits.npz",
            "n": N,
            "labels": True,
            "classes": 10,
            "calibration": {"source": "digits.npz", "n": 256, "note": "from the evaluation inputs, without labels"},
        },
        "profiles": {name: _profile(name) for name in (*BUILDS, UNAVAILABLE)},
    }


def make_verdicts() -> list[Verdict]:
    found = []
    for name, (top1, p50, *_) in BUILDS.items():
        drop = 0.986 - top1
        low, high = drop - 0.0042, drop + 0.0051
        outcome = "pass" if high <= 0.01 else "fail" if low > 0.01 else "inconclusive"
        found.append(
            Verdict(
                name,
                "max_accuracy_drop",
                outcome,
                0.01,
                "accuracy",
                "accuracy_drop",
                "{}",
                drop,
                low,
                high,
                "ratio",
                f"the drop is {outcome}",
            )
        )
        found.append(
            Verdict(
                name,
                "max_p99_ms",
                "pass",
                50.0,
                "latency",
                "p99_ms",
                condition(batch=1),
                p50 * 1.6,
                p50 * 1.5,
                p50 * 1.7,
                "ms",
            )
        )
    found.append(
        Verdict(
            "edge-int8-128m",
            "max_peak_mib",
            "pass",
            128.0,
            "memory",
            "peak_mib",
            condition(cap_mib=128),
            101.0,
            unit="MiB",
        )
    )
    found.append(Verdict("cpu-int8", "min_tolerated_ber", "pass", 1e-5, "bit_flips", "tolerated_ber", "{}", 1e-4))
    found += [
        Verdict(UNAVAILABLE, rule, "unavailable", limit, "", "", detail=REASON)
        for rule, limit in (("max_accuracy_drop", 0.01), ("max_p99_ms", 50.0))
    ]
    return found
