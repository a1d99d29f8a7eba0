"""Metrics and data of the user's own that do not work: exit 2, the line at fault, no traceback."""

from __future__ import annotations

import re
import sys

import pytest

METRICS = """
import sys
import numpy as np

def raises(outputs, labels):
    return 1 / 0

def leaves(outputs, labels):
    sys.exit(0)

def text(outputs, labels):
    return ["a"] * len(outputs)

def scalar(outputs, labels):
    return 0.5

def short(outputs, labels):
    return np.zeros(len(outputs) - 1)

def ragged(outputs, labels):
    return [[1], [1, 2]]

def complex_(outputs, labels):
    return np.zeros(len(outputs), complex)

def nothing(outputs, labels):
    return None

def nan(outputs, labels):
    return np.full(len(outputs), np.nan)

class Odd:
    @property
    def higher_is_better(self):
        raise KeyError("k")
    def __call__(self, outputs, labels):
        return np.zeros(len(outputs))

odd = Odd()

def good(outputs, labels):
    return np.zeros(len(outputs))

def data():
    yield np.zeros((2, 1, 8, 8), np.float32), np.zeros(2, int)
    raise OSError("disk")

def no_data():
    raise LookupError("x")

def odd_data():
    return {"x": object()}
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "hwbench_test_metrics.py").write_text(METRICS)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "hwbench_test_metrics", raising=False)


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "raises",
            r"metric '\w+:raises' failed: ZeroDivisionError: division by zero \(hwbench_test_metrics.py, line 6\)",
        ),
        ("leaves", "SystemExit: 0"),
        ("text", "must return one number a sample"),
        ("scalar", "must return one number a sample"),
        ("short", r"shape \[11\]; it must return one number a sample, shape \[12\]"),
        ("ragged", "ValueError"),
        ("complex_", "must return one number a sample"),
        ("nothing", "must return one number a sample"),
        ("nan", "is NaN for input 0 of the reference"),
        ("odd", "reading higher_is_better of 'hwbench_test_metrics:odd' failed: KeyError"),
        ("absent", "cannot be loaded"),
    ],
)
def test_metrics(hw, model, data, folder, tmp_path, name, message):
    ended = hw(
        "run", model, "--data", data, "--profiles", "cpu-fp32", "--studies", "accuracy",
        "--metric", f"hwbench_test_metrics:{name}", "--out", tmp_path / "out",
    )  # fmt: skip
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert re.search(message, ended.err), ended.err
    assert ended.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "message"), [("data", "OSError: disk"), ("no_data", "LookupError: x"), ("odd_data", "not numbers")]
)
def test_data(hw, model, folder, tmp_path, name, message):
    ended = hw(
        "run", model, "--data", f"hwbench_test_metrics:{name}", "--profiles", "cpu-fp32", "--out", tmp_path / "out"
    )
    assert ended.code == 2
    assert message in ended.err
    assert ended.err.count("\n") == 1
