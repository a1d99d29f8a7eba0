"""ONNX Runtime's CUDA provider on a real GPU."""

import numpy as np
import pytest

pytestmark = pytest.mark.gpu
OPTIONS = {"provider": "cuda"}


def test_fp32_agrees_with_the_cpu(onnxruntime_cuda, fp32_model, inputs, reference):
    with onnxruntime_cuda.compile(fp32_model, OPTIONS) as session:
        output = session.run({"x": inputs})["y"]
    np.testing.assert_allclose(output, reference, atol=5e-3)  # CUDA convolutions may use TF32


def test_fp16_agrees_to_its_precision(onnxruntime_cuda, fp16_model, inputs, reference):
    with onnxruntime_cuda.compile(fp16_model, OPTIONS) as session:
        output = session.run({"x": inputs.astype(np.float16)})["y"]
    np.testing.assert_allclose(output.astype(np.float32), reference, atol=2e-2)


def test_nothing_runs_on_the_cpu(onnxruntime_cuda, fp32_model):
    coverage = onnxruntime_cuda.coverage(fp32_model, OPTIONS)
    assert coverage.supported
    with onnxruntime_cuda.compile(fp32_model, OPTIONS) as session:
        assert not any("cpu" in node.device.lower() for node in session.executed())


def test_bound_call_runs(onnxruntime_cuda, fp32_model, inputs, reference):
    with onnxruntime_cuda.compile(fp32_model, OPTIONS) as session:
        session.bind({"x": inputs[:1]})()
        np.testing.assert_allclose(session.run({"x": inputs})["y"], reference, atol=5e-3)
