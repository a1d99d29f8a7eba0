"""Models whose bytes or fields are damaged: every one ends in success or in a message that names it."""

from __future__ import annotations

import io

import numpy as np
from fuzz_client import check, examples
from hypothesis import given
from hypothesis import strategies as st
from models import mlp, small_cnn, static_int8, two_inputs
from mutations import changed_message, damaged


def zipped(**arrays):
    stream = io.BytesIO()
    np.savez(stream, **arrays)
    return stream.getvalue()


DATA = zipped(
    x=np.zeros((2, 1, 8, 8), np.float32),
    ids=np.zeros((2, 3), np.int64),
    mask=np.zeros((2, 3), np.float32),
)
FLAT = zipped(x=np.zeros((2, 64), np.float32))
SOUND = [(small_cnn(), DATA), (mlp(), FLAT), (two_inputs(), DATA), (static_int8(mlp()), FLAT)]


@examples(170)
@given(st.data())
def test_damaged_bytes(fuzzer, data):
    model, arrays = data.draw(st.sampled_from(SOUND))
    content = data.draw(damaged(model.SerializeToString()))
    check(fuzzer.run("model", {"model.onnx": content, "data.npz": arrays}), ["model.onnx", "data.npz"])


@examples(180)
@given(st.data())
def test_odd_fields(fuzzer, data):
    model, arrays = data.draw(st.sampled_from(SOUND))
    content = data.draw(changed_message(model))
    check(fuzzer.run("model", {"model.onnx": content, "data.npz": arrays}), ["model.onnx", "data.npz"])
