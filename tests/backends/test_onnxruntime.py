"""What is particular to ONNX Runtime: fallbacks, what its optimizer did, its errors."""

import json
import platform
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hwbench_onnxruntime import OnnxRuntimeBackend
from hwbench_onnxruntime.session import PROVIDERS
from onnx import TensorProto, helper

from hwbench.errors import InputError, UnavailableError, UnsupportedError
from tests import models

pytestmark = pytest.mark.isa
BUILDS = {
    "fp32": lambda: models.small_cnn(),
    "u8": lambda: models.static_int8(models.small_cnn()),
    "s8": lambda: models.static_int8(models.small_cnn(), activations="s8", symmetric=True),
    "dynamic": lambda: models.dynamic_int8(models.mlp()),
    "int4": lambda: models.int4(models.mlp()),
}


@pytest.fixture
def backend():
    return OnnxRuntimeBackend()


def one_node(operation, inputs, outputs, weights=None, **attributes):
    node = helper.make_node(operation, [*inputs, *(weights or {})], list(outputs), "only", **attributes)
    return models.make_model([node], inputs, outputs, weights).SerializeToString()


def profiled(model, folder):
    """The (operator, provider) of every kernel the runtime's own profiler saw."""
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.enable_profiling = True
    settings.profile_file_prefix = str(folder / "profile")
    session = ort.InferenceSession(model.SerializeToString(), settings, providers=["CPUExecutionProvider"])
    session.run(None, models.feeds(model))
    events = json.loads(Path(session.end_profiling()).read_text())
    kernels = [event for event in events if event["name"].endswith("_kernel_time")]
    return [(event["args"]["op_name"], event["args"]["provider"]) for event in kernels]


@pytest.mark.parametrize("make", BUILDS.values(), ids=BUILDS)
def test_executed_nodes_are_those_the_profiler_sees(backend, tmp_path, make):
    model = make()
    nodes = backend.compile(model.SerializeToString(), {}).executed()
    assert Counter((node.op_type, PROVIDERS[node.device]) for node in nodes) == Counter(profiled(model, tmp_path))


@pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="ARM has kernels for signed activations")
def test_a_quantized_convolution_left_in_float_is_told(backend):
    # On x86 a signed tensor read twice (the residual) is not turned into an unsigned one, so its consumer stays float.
    nodes = backend.compile(BUILDS["s8"]().SerializeToString(), {}).executed()
    ran = {name: node for node in nodes for name in node.onnx_nodes}
    assert (ran["conv2"].op_type, ran["conv2"].precision) == ("Conv", "fp32")
    assert (ran["classifier"].op_type, ran["classifier"].precision) == ("QLinearMatMul", "int8")


def test_fused_nodes_are_traced_to_all_they_stand_for(backend):
    ran = {
        name: node
        for node in backend.compile(models.mlp().SerializeToString(), {}).executed()
        for name in node.onnx_nodes
    }
    assert ran["gemm"] is ran["relu"]
    assert ran["matmul"] is ran["bias"]
    dynamic = models.dynamic_int8(models.mlp())
    nodes = backend.compile(dynamic.SerializeToString(), {}).executed()
    products = [node for node in nodes if node.precision == "int8"]
    assert [node.op_type for node in products] == ["DynamicQuantizeMatMul"] * 2
    assert sorted(name for node in nodes for name in node.onnx_nodes) == sorted(
        node.name for node in dynamic.graph.node
    )


def test_half_precision_that_the_cpu_widens_is_told(backend):
    fp16 = {"x": (TensorProto.FLOAT16, ["N", 4])}
    model = one_node("Softplus", fp16, {"y": (TensorProto.FLOAT16, ["N", 4])})
    precisions = {node.op_type: node.precision for node in backend.compile(model, {}).executed()}
    assert precisions["Softplus"] == "fp32"


@pytest.mark.parametrize("level", ["disable", "basic", "extended", "all"])
def test_optimization_levels_are_honoured(backend, level):
    model = models.small_cnn()
    session = backend.compile(model.SerializeToString(), {"optimization": level})
    operators = [node.op_type for node in session.executed()]
    assert (len(operators) == len(model.graph.node)) == (level in ("disable", "basic"))
    assert any(node.kernel.startswith("com.microsoft.nchwc") for node in session.executed()) == (level == "all")


def test_options_reach_the_runtime(backend):
    session = backend.compile(
        models.mlp().SerializeToString(),
        {
            "intra_op_threads": 2,
            "inter_op_threads": 2,
            "x64_precision": True,
            "allow_spinning": False,
            "config": {"session.set_denormal_as_zero": "1"},
        },
    )
    settings = session._session.get_session_options()
    assert (settings.intra_op_num_threads, settings.inter_op_num_threads) == (2, 2)
    assert settings.execution_mode == ort.ExecutionMode.ORT_PARALLEL
    assert settings.get_session_config_entry("session.x64quantprecision") == "1"
    assert settings.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert settings.get_session_config_entry("session.set_denormal_as_zero") == "1"


def test_a_bound_call_computes_the_outputs(backend):
    model = models.small_cnn()
    feeds = models.feeds(model)
    session = backend.compile(model.SerializeToString(), {})
    call = session.bind(feeds)
    call()
    np.testing.assert_array_equal(call.args[0].copy_outputs_to_cpu()[0], session.run(feeds)["y"])


@pytest.mark.parametrize("provider", ["cuda", "tensorrt", "openvino"])
def test_a_provider_that_is_missing_is_never_replaced(backend, provider, tmp_path):
    if provider in backend.probe().devices:
        pytest.skip(f"{provider} works here")
    model = models.saved(models.mlp(), tmp_path / "model.onnx")
    for options in ({"provider": provider}, {"provider": provider, "allow_fallback": True}):
        with pytest.raises(UnavailableError) as caught:
            backend.compile(model, options)
        assert PROVIDERS[provider] in caught.value.reason
        assert caught.value.hint == backend.probe().hints[provider]
        with pytest.raises(UnavailableError):
            backend.coverage(model, options)


def test_a_kernel_that_is_missing_is_named(backend, tmp_path):
    nodes = [
        helper.make_node("Relu", ["x"], ["a"]),
        helper.make_node("Cast", ["a"], ["y"], "widen", to=TensorProto.FLOAT),
    ]
    model = models.make_model(nodes, {"x": (TensorProto.BFLOAT16, [2])}, {"y": (TensorProto.FLOAT, [2])})
    first, second = backend.coverage(models.saved(model, tmp_path / "model.onnx"), {}).nodes
    assert (first.node, first.supported, second.supported) == ("a", False, True)
    assert "Could not find an implementation for Relu" in first.reason


def test_an_opset_from_the_future_is_refused_as_a_whole(backend, tmp_path):
    model = models.mlp()
    model.opset_import[0].version = 999
    path = models.saved(model, tmp_path / "model.onnx")
    with pytest.raises(UnsupportedError, match="Opset 999 is under development"):
        backend.compile(path, {})
    coverage = backend.coverage(path, {})
    assert not any(node.supported for node in coverage.nodes)
    assert all("Opset 999" in node.reason for node in coverage.nodes)


def test_inputs_the_model_cannot_take_are_an_input_error(backend):
    table = {"table": (TensorProto.FLOAT, [4, 2]), "index": (TensorProto.INT64, ["N"])}
    session = backend.compile(one_node("Gather", table, {"y": (TensorProto.FLOAT, ["N", 2])}), {})
    feeds = {"table": np.zeros((4, 2), np.float32), "index": np.array([9])}
    with pytest.raises(InputError, match=r"on these inputs: .*idx=9"):
        session.run(feeds)


def test_memory_that_cannot_be_had_is_a_memory_error(backend):
    inputs = {"x": (TensorProto.FLOAT, [1]), "shape": (TensorProto.INT64, [3])}
    session = backend.compile(one_node("Expand", inputs, {"y": (TensorProto.FLOAT, ["A", "B", "C"])}), {})
    with pytest.raises(MemoryError, match="Failed to allocate memory"):
        session.run({"x": np.zeros(1, np.float32), "shape": np.array([10**6, 10**6, 10**3])})


def test_nodes_without_a_name_go_by_their_first_output(backend, tmp_path):
    model = models.small_cnn()
    assert "" in {node.name for node in model.graph.node}
    path = models.saved(model, tmp_path / "model.onnx")
    assert "sum" in {node.node for node in backend.coverage(path, {}).nodes}
    assert "sum" in {name for node in backend.compile(path, {}).executed() for name in node.onnx_nodes}
    assert onnx.load(path) == model  # naming them happened in a copy
