"""Backends on a real NVIDIA GPU: run by themselves where one is found, skipped with the reason elsewhere."""

import json
import os
import subprocess
import sys

import numpy as np
import onnx
import pytest
from hwbench_onnxruntime import OnnxRuntimeBackend
from hwbench_tensorrt import TensorRtBackend
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static

ROWS = 16


def probe(backend):
    """What a backend finds here, asked in a child process as a missing driver may crash it."""
    code = (
        "import dataclasses, importlib, json, sys\n"
        "backend = getattr(importlib.import_module(sys.argv[1]), sys.argv[2])()\n"
        "print(json.dumps(dataclasses.asdict(backend.probe())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, backend.__module__, backend.__name__],
        env=os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        capture_output=True,
        text=True,
        check=False,
    )
    return json.loads(done.stdout) if done.returncode == 0 else {"available": False, "reason": done.stderr, "hint": ""}


@pytest.fixture(scope="session")
def tensorrt():
    """The TensorRT backend, on a machine where it works."""
    found = probe(TensorRtBackend)
    if not found["available"]:
        pytest.skip(f"TensorRT: {found['reason']} ({found['hint']})")
    return TensorRtBackend()


@pytest.fixture(scope="session")
def onnxruntime_cuda():
    """ONNX Runtime's backend, on a machine where its CUDA provider works."""
    found = probe(OnnxRuntimeBackend)
    device = OnnxRuntimeBackend().device({"provider": "cuda"})
    if device not in found["devices"]:
        hint = found.get("hints", {}).get(device, "")
        pytest.skip(f"ONNX Runtime: {device} does not work here, only {found['devices']} ({hint})")
    return OnnxRuntimeBackend()


@pytest.fixture(scope="session")
def inputs():
    """Rows of images, 3×12×12."""
    return np.random.default_rng(7).normal(size=(ROWS, 3, 12, 12)).astype(np.float32)


@pytest.fixture(scope="session")
def fp32_model(tmp_path_factory):
    """A convolution, a pooling and a matrix product with a bias; its first dimension is dynamic."""
    return save_cnn(tmp_path_factory.mktemp("models") / "fp32.onnx", np.float32)


@pytest.fixture(scope="session")
def fp16_model(tmp_path_factory):
    """The same in float16, inputs and outputs included."""
    return save_cnn(tmp_path_factory.mktemp("models") / "fp16.onnx", np.float16)


@pytest.fixture(scope="session")
def int8_model(tmp_path_factory, fp32_model, inputs):
    """The same quantized to explicit, symmetric, signed int8, per channel."""
    path = tmp_path_factory.mktemp("models") / "int8.onnx"
    quantize_static(
        fp32_model,
        path,
        Samples(inputs),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    return path


@pytest.fixture(scope="session")
def reference(fp32_model, inputs):
    """What ONNX Runtime's CPU provider makes of the fp32 model."""
    with OnnxRuntimeBackend().compile(fp32_model, {}) as session:
        return session.run({"x": inputs})["y"]


class Samples(CalibrationDataReader):
    """One row after the other."""

    def __init__(self, inputs):
        self._feeds = ({"x": row[None]} for row in inputs)

    def get_next(self):
        return next(self._feeds, None)


def save_cnn(path, dtype):
    generator = np.random.default_rng(3)
    shapes = {"conv.weight": (16, 3, 3, 3), "conv.bias": (16,), "fc.weight": (16, 8), "fc.bias": (8,)}
    weights = {name: (generator.normal(size=shape) / 4).astype(dtype) for name, shape in shapes.items()}
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        [
            helper.make_node("Conv", ["x", "conv.weight", "conv.bias"], ["c"], name="conv", pads=[1, 1, 1, 1]),
            helper.make_node("Relu", ["c"], ["r"], name="relu"),
            helper.make_node("GlobalAveragePool", ["r"], ["p"], name="pool"),
            helper.make_node("Flatten", ["p"], ["f"], name="flatten"),
            helper.make_node("Gemm", ["f", "fc.weight", "fc.bias"], ["y"], name="fc"),
        ],
        "cnn",
        [helper.make_tensor_value_info("x", kind, ["batch", 3, 12, 12])],
        [helper.make_tensor_value_info("y", kind, ["batch", 8])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), path)
    return path


@pytest.fixture(scope="session")
def unsupported_model(tmp_path_factory):
    """A node no runtime here knows, between two that every one takes."""
    graph = helper.make_graph(
        [
            helper.make_node("Relu", ["x"], ["a"], name="before"),
            helper.make_node("Unknowable", ["a"], ["b"], name="odd", domain="org.example"),
            helper.make_node("Relu", ["b"], ["y"], name="after"),
        ],
        "odd",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    opsets = [helper.make_opsetid("", 21), helper.make_opsetid("org.example", 1)]
    path = tmp_path_factory.mktemp("models") / "odd.onnx"
    onnx.save(helper.make_model(graph, opset_imports=opsets, ir_version=10), path)
    return path
