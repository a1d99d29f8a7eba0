"""The TensorRT backend as far as it goes without a GPU: real bindings and probe, int8 rules, keys, inspector output."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import onnx
import pytest
from hwbench_tensorrt import TensorRtBackend
from hwbench_tensorrt.cache import EngineCache, cache_key
from hwbench_tensorrt.driver import Device
from hwbench_tensorrt.explicit_int8 import check_explicit_int8, explicit_int8_problems
from hwbench_tensorrt.layers import executed_nodes
from hwbench_tensorrt.options import TensorRtOptions
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.quantization import CalibrationDataReader, QuantFormat, QuantType, quantize_static
from pydantic import TypeAdapter, ValidationError

ROOT = Path(__file__).parents[2]
SOURCES = sorted((ROOT / "backends" / "hwbench_tensorrt").glob("*.py"))
NAMES = Path(__file__).with_name("tensorrt_names.py")
# What the bindings look up while they are imported; none of it is called by the import.
EXPORTS = (
    "createInferBuilder_INTERNAL", "createInferRefitter_INTERNAL", "createInferRuntime_INTERNAL",
    "createNvOnnxParserRefitter_INTERNAL", "createNvOnnxParser_INTERNAL", "getBuilderPluginRegistry",
    "getNvOnnxParserVersion", "getPluginRegistry", "initLibNvInferPlugins",
)  # fmt: skip
GPU = Device(0, "NVIDIA H100", (9, 0))


# The library's interface


@pytest.fixture(scope="module")
def library_path(tmp_path_factory):
    """A folder of empty libraries under the names the real bindings are linked to, so that they can be imported."""
    if find_spec("tensorrt_bindings") is None or find_spec("cuda.bindings") is None:
        pytest.fail(
            "the bindings are missing: make install, or pip install --no-deps tensorrt-cu13-bindings cuda-bindings"
        )
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler (cc) to make the empty libraries with which TensorRT's bindings can be imported")
    folder = tmp_path_factory.mktemp("libraries")
    source = folder / "empty.c"
    source.write_text("".join(f"void *{name}(void) {{ return 0; }}\n" for name in EXPORTS))
    library = folder / "libnvonnxparser.so.11"
    subprocess.run([compiler, "-shared", "-fPIC", "-o", library, source], check=True)
    for name in ("libnvinfer.so.11", "libnvinfer_plugin.so.11"):
        shutil.copy(library, folder / name)
    return folder


def check_names(library_path, *files):
    done = subprocess.run(
        [sys.executable, NAMES, *files],
        env=os.environ | {"LD_LIBRARY_PATH": str(library_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_every_name_used_exists_in_the_real_bindings(library_path):
    result = check_names(library_path, *SOURCES)
    assert result["version"].startswith("11.")
    assert result["problems"] == []
    assert result["uses"] > 100  # the check sees the code: it would be far less if annotations were lost


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("trt.BuilderFlag.FP16", "trt.BuilderFlag.FP16 does not exist"),
        ("cudart.cudaMallocSometimes(1)", "cudart.cudaMallocSometimes does not exist"),
        ("builder: trt.Builder = trt.Builder(0)\nbuilder.build_cuda_engine(1)", "Builder has no build_cuda_engine"),
        ("def f(config: trt.IBuilderConfig):\n    config.int8_calibrator = 1", "IBuilderConfig has no int8_calibrator"),
        (
            "class A:\n    def f(self):\n        self._e: trt.ICudaEngine = 0\n        self._e.num_bindings",
            "has no num_bind",
        ),
        ("builder: trt.Builder = 0\nbuilder.create_network().add_input_twice()", "INetworkDefinition has no add_input"),
        ("builder = trt.Builder(0)", "annotate what holds this Builder"),
        ("builder: trt.Builder = 0\nnetwork = builder.create_network()", "annotate what holds this INetworkDefinition"),
    ],
)
def test_a_name_that_does_not_exist_is_found(library_path, tmp_path, code, problem):
    path = tmp_path / "made_up.py"
    path.write_text(code)
    (found,) = check_names(library_path, path)["problems"]
    assert problem in found


# Availability


def probe_in_child(**environment):
    code = (
        "import json, dataclasses; from hwbench_tensorrt import TensorRtBackend\n"
        "print(json.dumps(dataclasses.asdict(TensorRtBackend().probe())))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "backends")])} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_probe_without_a_gpu_gives_the_reason_and_the_step_that_helps():
    found = probe_in_child(CUDA_VISIBLE_DEVICES="-1")
    assert found["available"] is False
    assert found["devices"] == []
    assert "NVIDIA driver" in found["reason"]
    assert found["hint"]
    if find_spec("tensorrt") is None:
        assert "not installed either: tensorrt" in found["reason"]
        assert found["hint"].endswith(TensorRtBackend.install)


def test_backend_and_options_need_no_runtime():
    code = (
        "import sys; import hwbench_tensorrt, hwbench_tensorrt.options\n"
        "print([name for name in ('tensorrt', 'cuda', 'onnx', 'pydantic') if name in sys.modules])"
    )
    path = os.pathsep.join([str(ROOT), str(ROOT / "backends")])
    done = subprocess.run(
        [sys.executable, "-c", code], env=os.environ | {"PYTHONPATH": path}, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_device_is_named_as_the_probe_names_it():
    assert TensorRtBackend().device({"device_id": 2}) == Device(2, "", (9, 0)).label


# Options


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"max_batch": 0}, "min_batch"),
        ({"min_batch": 4}, "min_batch"),
        ({"device_id": -1}, "device_id"),
        ({"workspace_mib": 0}, "workspace_mib"),
        ({"optimization_level": 6}, "optimization_level"),
        ({"fp16": True}, "fp16"),
    ],
)
def test_options_out_of_range_are_refused(options, words):
    with pytest.raises(ValidationError, match=words):
        TypeAdapter(TensorRtOptions).validate_python(options)


def test_options_have_usable_defaults():
    assert TypeAdapter(TensorRtOptions).validate_python({}) == TensorRtOptions()


# The cache


def test_engine_key_depends_on_what_is_built_and_on_nothing_else():
    options = TensorRtOptions()
    key = cache_key(b"model", options, False, "11.4.0", GPU)
    assert len(key) == 64
    same = TensorRtOptions(device_id=1, cuda_graph=True, cache="elsewhere")
    assert cache_key(b"model", same, False, "11.4.0", Device(1, GPU.name, GPU.capability)) == key
    others = {
        cache_key(b"model2", options, False, "11.4.0", GPU),
        cache_key(b"model", TensorRtOptions(max_batch=8), False, "11.4.0", GPU),
        cache_key(b"model", TensorRtOptions(tf32=True), False, "11.4.0", GPU),
        cache_key(b"model", options, True, "11.4.0", GPU),
        cache_key(b"model", options, False, "11.5.0", GPU),
        cache_key(b"model", options, False, "11.4.0", Device(0, "NVIDIA H200", (9, 0))),
        cache_key(b"model", options, False, "11.4.0", Device(0, GPU.name, (8, 0))),
    }
    assert len(others | {key}) == 8


def test_cache_gives_back_what_it_stored_and_leaves_no_other_file(tmp_path):
    folder = tmp_path / "engines"
    cache = EngineCache(str(folder), "11.4.0", GPU)
    assert cache.engine("k") == b""
    assert cache.timings() == b""
    cache.store_engine("k", b"old")
    cache.store_engine("k", b"engine")
    cache.store_timings(b"timings")
    assert cache.engine("k") == b"engine"
    assert EngineCache(str(folder), "11.4.0", GPU).timings() == b"timings"
    assert EngineCache(str(folder), "11.5.0", GPU).timings() == b""
    assert len(list(folder.iterdir())) == 2


@pytest.mark.parametrize("content", [b"", b"short", bytes(32) + b"engine", "flipped", "truncated"])
def test_a_damaged_engine_is_taken_as_missing(tmp_path, content):
    cache = EngineCache(str(tmp_path), "11.4.0", GPU)
    cache.store_engine("k", b"a long engine")
    stored = bytearray((tmp_path / "k.engine").read_bytes())
    stored[-1] ^= 1
    damaged = {"flipped": bytes(stored), "truncated": (tmp_path / "k.engine").read_bytes()[:-2]}.get(content, content)
    (tmp_path / "k.engine").write_bytes(damaged)
    assert cache.engine("k") == b""


def test_no_cache_folder_stores_nothing():
    cache = EngineCache(None, "11.4.0", GPU)
    cache.store_engine("k", b"engine")
    assert cache.engine("k") == b""


# Explicit int8


def quantized(zero_point, stored=None, operator=None):
    """Quantize and dequantize an activation, then dequantize a weight, with this zero point."""
    zero_point = np.asarray(zero_point)
    weight = np.ones(4, zero_point.dtype if stored is None else stored)
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "scale", "zero"], ["q"], name="quantize"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["d"], name="dequantize"),
        helper.make_node("DequantizeLinear", ["weight", "scale"], ["w"], name="weights"),
        helper.make_node("Mul", ["d", "w"], ["y"], name="mul"),
    ]
    if operator is not None:
        nodes.append(helper.make_node(operator, ["x"], ["z"], name="integer"))
    graph = helper.make_graph(
        nodes,
        "quantized",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [4])],
        [
            numpy_helper.from_array(np.float32(0.1), "scale"),
            numpy_helper.from_array(zero_point, "zero"),
            numpy_helper.from_array(weight, "weight"),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_symmetric_signed_quantization_is_taken():
    model = quantized(np.int8(0))
    check_explicit_int8(model)
    assert explicit_int8_problems(model) == {}


@pytest.mark.parametrize(
    ("model", "words"),
    [
        (
            quantized(np.uint8(0)),
            r"'quantize' \(QuantizeLinear\) holds uint8 activations.*activations = \"s8\"\ \(2 more",
        ),
        (quantized(np.int8(3)), r"'quantize'.*zero point other than 0.*activations = \"s8\""),
        (quantized(np.int8(0), stored=np.uint8), r"'weights'.*uint8 weights.*weights = \"s8\""),
        (quantized(np.int8(0), stored=np.int32), r"'weights'.*int32 bias.*floating point"),
        (quantized(np.int8(0), operator="DynamicQuantizeLinear"), r"'integer'.*integer operator.*QDQ"),
    ],
    ids=["unsigned activations", "zero point", "unsigned weights", "int32 bias", "integer operator"],
)
def test_other_quantization_is_refused_with_what_to_change(model, words):
    from hwbench.errors import UnsupportedError

    with pytest.raises(UnsupportedError, match=words):
        check_explicit_int8(model)


def test_zero_point_left_out_means_uint8_unless_the_node_says_otherwise():
    model = quantized(np.int8(0))
    node = model.graph.node[0]
    del node.input[2:]
    assert "uint8" in explicit_int8_problems(model)[0]
    node.attribute.append(helper.make_attribute("output_dtype", TensorProto.INT8))
    assert explicit_int8_problems(model) == {}


def test_zero_point_in_a_constant_node_is_read():
    model = quantized(np.int8(0))
    constant = helper.make_node("Constant", [], ["zero"], value=numpy_helper.from_array(np.int8(5), "five"))
    del model.graph.initializer[1]
    model.graph.node.insert(0, constant)
    assert set(explicit_int8_problems(model)) == {1, 2}


class Samples(CalibrationDataReader):
    def __init__(self):
        generator = np.random.default_rng(0)
        self._feeds = iter([{"x": generator.normal(size=(2, 8)).astype(np.float32)} for _ in range(4)])

    def get_next(self):
        return next(self._feeds, None)


@pytest.mark.parametrize(("bias", "taken"), [(False, True), (True, False)])
def test_onnxruntime_quantizer_output(tmp_path, bias, taken):
    """ONNX Runtime's static quantizer, symmetric and signed, is taken if it leaves biases alone."""
    generator = np.random.default_rng(1)
    weights = {"w": generator.normal(size=(8, 4)).astype(np.float32), "b": generator.normal(size=4).astype(np.float32)}
    graph = helper.make_graph(
        [helper.make_node("Gemm", ["x", "w", "b"], ["y"], name="gemm")],
        "gemm",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 4])],
        [numpy_helper.from_array(value, name) for name, value in weights.items()],
    )
    source, target = tmp_path / "fp32.onnx", tmp_path / "int8.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10), source)
    quantize_static(
        source,
        target,
        Samples(),
        quant_format=QuantFormat.QDQ,
        activation_type=QuantType.QInt8,
        weight_type=QuantType.QInt8,
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": bias},
    )
    assert (explicit_int8_problems(onnx.load(target)) == {}) is taken


# What ran


def layer(**fields):
    return {"Name": "fused", "LayerType": "CaskConvolution", **fields}


@pytest.mark.parametrize(
    ("tensor", "precision"),
    [
        ({"Format/Datatype": "Thirty-two wide channel vectorized row major Int8 format."}, "int8"),
        ({"Format/Datatype": "Channel major FP16 format where channel % 4 == 0"}, "fp16"),
        ({"Format": "Row major linear FP32 format (kLINEAR)", "DataType": "Half"}, "fp16"),
        ({"Format": "Row major linear FP32 format (kLINEAR)"}, "fp32"),
        ({"DataType": "Float"}, "fp32"),
        ({"DataType": "BFloat16"}, "bf16"),
        ({"DataType": "FP8"}, "fp8"),
        ({"DataType": "UInt8"}, "uint8"),
        ({"DataType": "Int32"}, "int32"),
        ({"Format/Datatype": "N/A due to dynamic shapes"}, ""),
    ],
)
def test_precision_is_what_a_layer_reads(tensor, precision):
    information = json.dumps({"Layers": [layer(Inputs=[tensor], Outputs=[])]})
    (node,) = executed_nodes(information, "cuda:0")
    assert node.precision == precision


def test_inspector_layer_names_kernel_and_onnx_nodes():
    fields = layer(
        Inputs=[{"DataType": "Int8"}],
        Outputs=[{"DataType": "Float"}],
        TacticName="sm90_xmma_fprop_i8",
        Metadata="[ONNX Layer: /conv/Conv]\x1e[ONNX Layer: /relu/Relu[0]]",
    )
    raw = json.dumps({"Layers": [fields]}).replace("\\u001e", "\x1e")  # the library writes the separator as it is
    (node,) = executed_nodes(raw, "cuda:0")
    assert (node.name, node.op_type, node.device) == ("fused", "CaskConvolution", "cuda:0")
    assert (node.precision, node.kernel) == ("int8", "sm90_xmma_fprop_i8")
    assert node.onnx_nodes == ("/conv/Conv", "/relu/Relu[0]")
