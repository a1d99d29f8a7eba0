"""Does the exported file compute what the source framework does? Runs it on ONNX Runtime and compares the outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from hwbench.errors import ModelError, UnavailableError
from hwbench.export.inputs import Array
from hwbench.telemetry import silence_telemetry


def run_onnx(path: Path, batches: Sequence[Mapping[str, Array]]) -> list[list[Array]]:
    """The outputs of an ONNX file on ONNX Runtime's CPU provider, for every batch.

    Raises:
        ModelError: The runtime refuses the file or a batch.
        UnavailableError: ONNX Runtime is not installed.
    """
    silence_telemetry()
    try:
        import onnxruntime as ort
        from onnxruntime.capi import onnxruntime_pybind11_state as state
    except ImportError as error:
        raise UnavailableError(
            "the parity check needs ONNX Runtime, which is not installed", "pip install 'hwbench-ml[onnxruntime]'"
        ) from error
    refusals = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
    try:
        session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
        return [list(session.run(None, dict(feeds))) for feeds in batches]
    except refusals as error:
        raise ModelError(f"ONNX Runtime cannot run the exported model: {error}") from error


def max_difference(expected: Sequence[Array], got: Sequence[Array], atol: float, rtol: float) -> float:
    """The largest absolute difference between two sets of outputs; NaN matches NaN, infinity itself.

    Args:
        expected: The source framework's outputs.
        got: ONNX Runtime's, in the same order.
        atol: Absolute tolerance.
        rtol: Tolerance relative to the expected magnitude: ``|got - expected| <= atol + rtol * |expected|``.

    Raises:
        ModelError: The outputs differ in number, in shape, or by more than the tolerance.
    """
    if len(expected) != len(got):
        raise ModelError(f"the source model has {len(expected)} outputs, the exported one {len(got)}")
    worst = 0.0
    for i, (left, right) in enumerate(zip(expected, got, strict=True)):
        if left.shape != right.shape:
            raise ModelError(f"output {i} has shape {left.shape} in the source framework, {right.shape} when exported")
        a, b = left.astype(np.float64), right.astype(np.float64)
        same = (a == b) | (np.isnan(a) & np.isnan(b))
        difference = np.abs(np.subtract(a, b, where=~same, out=np.zeros_like(a)))
        if difference.size:
            worst = max(worst, float(difference.max()))
        if not np.isclose(b, a, rtol=rtol, atol=atol, equal_nan=True).all():
            raise ModelError(
                f"the exported model does not compute what the source does: output {i} differs by up to "
                f"{float(difference.max()):.3g}, the tolerance is {atol:g} + {rtol:g} of the value; nothing was written"
            )
    return worst
