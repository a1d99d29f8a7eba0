"""What is particular to OpenVINO: its pinned precision, its devices, its errors."""

import json
import os
import subprocess
import sys
from textwrap import dedent

import numpy as np
import pytest
from hwbench_openvino import OpenVinoBackend
from hwbench_openvino.session import core
from onnx import TensorProto, helper

from hwbench.errors import UnavailableError, UnsupportedError
from tests import models

pytestmark = pytest.mark.isa


@pytest.fixture
def backend():
    return OpenVinoBackend()


def precisions(session):
    return {name: node.precision for node in session.executed() for name in node.onnx_nodes}


@pytest.mark.parametrize(("asked", "ran"), [("f32", "fp32"), ("bf16", "bf16"), ("f16", "fp16")])
def test_the_precision_asked_for_is_pinned_and_what_ran_is_told(backend, asked, ran):
    if ran.upper() not in core().get_property("CPU", "OPTIMIZATION_CAPABILITIES"):
        pytest.skip(f"this CPU has no {ran}")
    model = models.small_cnn()
    feeds = models.feeds(model)
    with backend.compile(model.SerializeToString(), {}) as session:
        exact = session.run(feeds)["y"]
    with backend.compile(model.SerializeToString(), {"inference_precision": asked}) as session:
        got, told = session.run(feeds)["y"], precisions(session)
    assert {told[name] for name in ("conv1", "conv2", "classifier")} == {ran}
    error = float(np.abs(got - exact).max())
    assert (error == 0.0) == (asked == "f32")
    assert error < 0.05 * float(np.abs(exact).max())


def test_bf16_on_a_cpu_without_it_is_refused_or_told(tmp_path):
    path = models.saved(models.small_cnn(), tmp_path / "model.onnx")
    program = f"""
        import json
        from hwbench.errors import UnsupportedError
        from hwbench_openvino import OpenVinoBackend
        from pathlib import Path
        from tests import models
        model = models.small_cnn()
        try:
            with OpenVinoBackend().compile(Path({str(path)!r}), {{"inference_precision": "bf16"}}) as session:
                session.run(models.feeds(model))
                kernels = {{node.kernel: node.precision for node in session.executed() if "conv1" in node.onnx_nodes}}
        except UnsupportedError as error:
            kernels = {{"refused": str(error)}}
        print(json.dumps(kernels))
    """
    environment = os.environ | {"ONEDNN_MAX_CPU_ISA": "AVX2", "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run(
        [sys.executable, "-c", dedent(program)], capture_output=True, text=True, env=environment, timeout=120
    )
    assert done.returncode == 0, done.stderr
    ((kernel, told),) = json.loads(done.stdout).items()
    assert kernel == "refused" or told == ("bf16" if kernel.endswith("bf16") else "fp32")


def test_4_bit_weights_and_widened_inputs_are_told_apart(backend):
    with backend.compile(models.int4(models.mlp()).SerializeToString(), {}) as session:
        told = precisions(session)
    assert (told["gemm"], told["bias"]) == ("fp32", "int4")
    with backend.compile(models.static_int8(models.small_cnn()).SerializeToString(), {}) as session:
        addition = next(node for node in session.executed() if "r2" in node.onnx_nodes)
    assert (addition.precision, addition.kernel.rpartition("_")[2]) == ("fp32", "f32")  # it reads int8, adds floats


def test_options_reach_the_runtime(backend, tmp_path):
    options = {
        "performance_hint": "throughput",
        "inference_num_threads": 2,
        "num_streams": 2,
        "cache_dir": str(tmp_path / "cache"),
        "config": {"ENABLE_CPU_PINNING": "NO"},
    }
    with backend.compile(models.mlp().SerializeToString(), options) as session:
        told = session._compiled.get_property
        assert told("INFERENCE_NUM_THREADS") == 2
        assert told("NUM_STREAMS") == 2
        assert "THROUGHPUT" in str(told("PERFORMANCE_HINT"))
        assert told("ENABLE_CPU_PINNING") is False
    assert list((tmp_path / "cache").iterdir())
    with backend.compile(models.mlp().SerializeToString(), {}) as session:
        assert session._compiled.get_property("NUM_STREAMS") == 1


def test_a_bound_call_computes_the_outputs(backend):
    model = models.small_cnn()
    feeds = models.feeds(model, batch=32)
    with backend.compile(model.SerializeToString(), {}) as session:
        expected = session.run(feeds)["y"]
        call = session.bind({"x": feeds["x"].copy()})
        noise = [models.feeds(model, batch=32, seed=seed) for seed in range(50)]  # takes the memory the copy has left
        call()
        np.testing.assert_array_equal(call.func.__self__.get_output_tensor(0).data, expected)
    assert len(noise) == 50


def test_outputs_that_name_one_tensor_keep_their_names(backend):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("Identity", ["a"], ["first"], "same"),
        helper.make_node("Identity", ["a"], ["second"], "again"),
        helper.make_node("Neg", ["a"], ["third"], "negative"),
    ]
    shape = (TensorProto.FLOAT, ["N", 2])
    model = models.make_model(nodes, {"x": shape}, dict.fromkeys(("third", "second", "first"), shape))
    with backend.compile(model.SerializeToString(), {}) as session:
        got = session.run({"x": np.ones((1, 2), np.float32)})
    assert list(got) == ["third", "second", "first"]
    assert (got["third"] == -1).all()
    assert (got["first"] == 1).all()


@pytest.mark.parametrize("device", ["GPU", "NPU", "TOASTER"])
def test_a_device_that_is_missing_is_named_with_what_would_help(backend, device, tmp_path):
    if device in core().available_devices:
        pytest.skip(f"{device} works here")
    model = models.saved(models.mlp(), tmp_path / "model.onnx")
    for call in (backend.compile, backend.coverage):
        with pytest.raises(UnavailableError, match=device) as caught:
            call(model, {"device": device})
        assert caught.value.hint == backend.probe().hints.get(device, "")


def test_a_property_the_device_lacks_is_named(backend):
    with pytest.raises(UnsupportedError, match="NO_SUCH_PROPERTY"):
        backend.compile(models.mlp().SerializeToString(), {"config": {"NO_SUCH_PROPERTY": "1"}})


def test_a_node_that_cannot_be_converted_is_named(backend, tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"], "relu"),
        helper.make_node("Conv", ["a", "a"], ["y"], "odd", auto_pad="NO_SUCH_PADDING"),
    ]
    model = models.make_model(nodes, {"x": (1, [1, 1, 4, 4])}, {"y": (1, ["A", "B", "C", "D"])})
    path = models.saved(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match="NO_SUCH_PADDING"):
        backend.compile(path, {})
    relu, odd = backend.coverage(path, {}).nodes
    assert (relu.supported, odd.supported) == (True, False)
    assert "NO_SUCH_PADDING" in odd.reason


def test_messages_are_one_line_without_source_places(backend):
    with pytest.raises(UnsupportedError) as caught:
        backend.compile(models.unknown_operator().SerializeToString(), {})
    assert str(caught.value) == (
        "OpenVINO cannot run the model: No conversion rule found for operations: tests.example.Strange"
    )
