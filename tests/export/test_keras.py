"""Keras models: without Keras the install command; with it (and torch as its backend) the real export."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest

from hwbench.errors import UnavailableError
from hwbench.export.keras import KerasExporter

MODELS = """
import keras
from hwbench.export import export_model, parse_input
from pathlib import Path

def image_classifier():
    layers = [keras.Input((12, 12, 3)), keras.layers.Conv2D(4, 3), keras.layers.BatchNormalization(),
              keras.layers.Dropout(0.5), keras.layers.Flatten(), keras.layers.Dense(5, activation="softmax")]
    return keras.Sequential(layers)

def two_in_two_out():
    a, b = keras.Input((8,), name="a"), keras.Input((8,), name="b")
    both = keras.layers.Concatenate()([a, b])
    return keras.Model([a, b], [keras.layers.Dense(4)(both), keras.layers.Dense(2)(both)])

print(export_model(image_classifier, [parse_input("1x12x12x3")], Path("image.onnx")))
print(export_model(two_in_two_out, [parse_input("a=1x8"), parse_input("b=1x8")], Path("two.onnx")))
"""


def test_missing_keras_names_the_install_command(monkeypatch):
    monkeypatch.setitem(sys.modules, "keras", None)
    with pytest.raises(UnavailableError, match=r"pip install 'hwbench-ml\[keras,torch\]'"):
        KerasExporter().reference(object(), {"x": np.zeros((1, 2), np.float32)})


@pytest.mark.slow
@pytest.mark.skipif(find_spec("keras") is None or find_spec("torch") is None, reason="keras or torch is not installed")
def test_keras_on_torch(tmp_path):
    """In a process of its own: Keras fixes its backend when imported."""
    done = subprocess.run(
        [sys.executable, "-c", MODELS],
        capture_output=True,
        text=True,
        check=False,
        cwd=tmp_path,
        env={**os.environ, "KERAS_BACKEND": "torch"},
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("parity with keras on batches 1 and 3") == 2
