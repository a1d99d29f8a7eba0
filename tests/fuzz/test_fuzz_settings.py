"""Profiles and specifications with odd keys and values, or damaged bytes."""

from __future__ import annotations

from fuzz_client import check, examples
from hypothesis import given
from hypothesis import strategies as st
from mutations import changed_tree, damaged, toml
from sound_files import CSV, NPZ, model_bytes

PROFILE = {
    "extend": "edge-int8-128m",
    "summary": "s",
    "backend": "onnxruntime",
    "precision": {"format": "int8", "activations": "u8", "calibration": {"method": "percentile", "percentile": 99.9}},
    "options": {"intra_op_threads": 1, "config": {}},
    "target": {"kind": "local", "memory_mib": 96, "cpu_quota": 0.5, "processors": [0]},
    "accept": {"max_accuracy_drop": 0.01, "max_p99_ms": 20.0},
}
SPEC = {
    "model": "model.onnx",
    "profiles": ["cpu-fp32", "profile.toml"],
    "studies": ["accuracy", "noise"],
    "task": "classification",
    "split_calibration": 0.5,
    "batch": 2,
    "seed": 1,
    "timeout_s": 60.0,
    "budget": "15m",
    "data": {"source": "data.npz", "label": "y", "inputs": {"x": "x"}, "preprocess": {"scale": 1.0, "mean": [0.5]}},
    "settings": {
        "noise": {"snr_db": [10], "draws": 2},
        "bit_flips": {"rates": [1e-6], "max_drop": 0.01},
        "latency": {"launches": 3, "windows": 1},
        "throughput": {"batches": [1, 8]},
        "faults": {"trials": 10, "kind": "flip", "bits": [0, 7]},
    },
}
BESIDE = {"model.onnx": model_bytes(), "data.npz": NPZ, "data.csv": CSV}
NAMES = (
    "case-",
    "profile",
    "spec.toml",
    "model.onnx",
    "data.npz",
    "settings",
    "is not",
    "no such",
    "source",
    "unknown",
)


def test_sound_settings_are_read(fuzzer):
    assert fuzzer.run("profile", {"profile.toml": toml(PROFILE).encode()}).code == 0
    files = {**BESIDE, "spec.toml": toml(SPEC).encode(), "profile.toml": toml({"extend": "cpu-fp32"}).encode()}
    assert fuzzer.run("data", files).code == 0


@examples(80)
@given(st.data())
def test_profiles_with_odd_settings(fuzzer, data):
    text = toml(data.draw(changed_tree(PROFILE))).encode("utf-8", "surrogatepass")
    check(fuzzer.run("profile", {"profile.toml": text}), ["profile"])


@examples(50)
@given(damaged(toml(PROFILE).encode()))
def test_damaged_profiles(fuzzer, content):
    check(fuzzer.run("profile", {"profile.toml": content}), ["profile"])


@examples(80)
@given(st.data())
def test_specifications_with_odd_settings(fuzzer, data):
    text = toml(data.draw(changed_tree(SPEC))).encode("utf-8", "surrogatepass")
    files = {**BESIDE, "spec.toml": text, "profile.toml": toml({"extend": "cpu-fp32"}).encode()}
    check(fuzzer.run("data", files), NAMES)
