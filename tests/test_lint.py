"""Static warnings, held against what emulated processors really compute."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper

from hwbench.lint import TARGETS, lint
from tests import models

pytestmark = pytest.mark.isa
AVX2, SSE4, VNNI, ARM, TENSORRT = (
    TARGETS[name] for name in ("x86-64 AVX2", "x86-64 SSE4", "x86-64 VNNI", "Armv8.0", "TensorRT")
)
# Operator, input shape, weight shape, groups.
LAYERS = {
    "conv3x3": ("Conv", (2, 3, 10, 10), (16, 3, 3, 3), 1),
    "conv-one-channel": ("Conv", (2, 1, 10, 10), (16, 1, 3, 3), 1),
    "conv1x1": ("Conv", (2, 8, 10, 10), (16, 8, 1, 1), 1),
    "grouped": ("Conv", (2, 16, 10, 10), (16, 4, 3, 3), 4),
    "depthwise": ("Conv", (2, 16, 10, 10), (16, 1, 3, 3), 16),
    "transposed": ("ConvTranspose", (2, 8, 10, 10), (8, 16, 3, 3), 1),
    "gemm": ("Gemm", (4, 32), (32, 16), None),
    "matmul": ("MatMul", (4, 32), (32, 16), None),
}
# Activation type, weight type, largest weight: the four int8 variants; 64 is what reduce_range leaves.
VARIANTS = {
    "u8s8": (np.uint8, np.int8, 127),
    "s8s8": (np.int8, np.int8, 127),
    "u8s8-reduced": (np.uint8, np.int8, 64),
    "u8u8": (np.uint8, np.uint8, 127),
}


def layer(kind: str, variant: str) -> tuple[onnx.ModelProto, np.ndarray]:
    """One quantized layer, half of its weights as large as they may be, and inputs that fill the range."""
    op, x_shape, w_shape, group = LAYERS[kind]
    act, wt, largest = VARIANTS[variant]
    rng = np.random.default_rng(0)
    weights = rng.integers(-largest, largest + 1, w_shape)
    weights = np.where(rng.random(w_shape) < 0.5, np.sign(weights) * largest, weights)
    w_zero, x_zero, y_zero = (
        (128 if wt is np.uint8 else 0),
        (100 if act is np.uint8 else 0),
        (128 if act is np.uint8 else 0),
    )
    y_scale = np.float32(1 if kind in ("depthwise", "conv-one-channel") else 3)
    stored = {
        "w": (weights + w_zero).astype(wt), "w_zero": wt(w_zero), "w_scale": np.float32(0.01), "x_scale": np.float32(0.05),
        "x_zero": act(x_zero), "y_scale": y_scale, "y_zero": act(y_zero),
    }  # fmt: skip
    attributes = {} if group is None else {"group": group, "kernel_shape": list(w_shape[2:])}
    nodes = [
        helper.make_node("QuantizeLinear", ["x", "x_scale", "x_zero"], ["xq"], "quantize"),
        helper.make_node("DequantizeLinear", ["xq", "x_scale", "x_zero"], ["xd"]),
        helper.make_node("DequantizeLinear", ["w", "w_scale", "w_zero"], ["wd"]),
        helper.make_node(op, ["xd", "wd"], ["y"], "layer", **attributes),
        helper.make_node("QuantizeLinear", ["y", "y_scale", "y_zero"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "y_scale", "y_zero"], ["out"]),
    ]
    values = [helper.make_tensor_value_info("x", TensorProto.FLOAT, x_shape)]
    outputs = [helper.make_tensor_value_info("out", TensorProto.FLOAT, None)]
    tensors = [numpy_helper.from_array(np.asarray(value), name) for name, value in stored.items()]
    graph = helper.make_graph(nodes, kind, values, outputs, tensors)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return model, rng.uniform(-6, 7, x_shape).astype(np.float32)


def saturating(model: onnx.ModelProto, backend: str, target=AVX2, **options) -> list[str]:
    return [one.layer for one in lint(model, backend, options, target) if one.rule == "int16_saturation"]


RUN = """
import sys, os, numpy as np
folder, backend = sys.argv[1:]
os.environ["ORT_DISABLE_TELEMETRY"] = "1"
sys.modules["openvino_telemetry"] = None
if backend == "onnxruntime":
    import onnxruntime as ort
    def run(path, x):
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        return ort.InferenceSession(path, options, providers=["CPUExecutionProvider"]).run(None, {"x": x})[0]
else:
    import openvino
    core = openvino.Core()
    def run(path, x):
        return core.compile_model(path, "CPU", {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1})([x])[0]
made = {}
for name in sorted(os.listdir(folder)):
    if name.endswith(".onnx"):
        made[name[:-5]] = run(os.path.join(folder, name), np.load(os.path.join(folder, name[:-5] + ".npy")))
np.savez(sys.stdout.buffer, **made)
"""


def outputs(folder: Path, backend: str, *before: str) -> dict[str, np.ndarray]:
    """What every layer gives, run by this Python behind the command ``before``."""
    into = folder / f"{'-'.join([backend, *before[-1:]])}.npz"
    with into.open("wb") as stream:
        command = [*before, sys.executable, "-c", RUN, str(folder), backend]
        # What chooses kernels for this machine's processor may not run on the emulated one.
        chosen = {name: value for name, value in os.environ.items() if not name.startswith("OPENBLAS_")}
        subprocess.run(command, stdout=stream, stderr=subprocess.DEVNULL, check=True, timeout=280, env=chosen)
    return dict(np.load(into))


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("qemu-x86_64-static") is None, reason="QEMU's user mode is not installed")
@pytest.mark.parametrize(
    ("backend", "cpu"), [("onnxruntime", "Haswell"), ("onnxruntime", "Nehalem"), ("openvino", "Haswell")]
)
def test_what_is_said_of_saturation_is_what_an_emulated_processor_does(tmp_path, backend, cpu):
    from hwbench.cpu import cpu_flags

    if not {"avx512_vnni", "avx_vnni"} & set(cpu_flags()):
        pytest.skip("this machine saturates too: it has no VNNI to compare with")
    said = {}
    for kind in LAYERS:
        for variant in VARIANTS:
            model, x = layer(kind, variant)
            name = f"{kind} {variant}"
            onnx.save(model, tmp_path / f"{name}.onnx")
            np.save(tmp_path / f"{name}.npy", x)
            said[name] = bool(saturating(model, backend, AVX2 if cpu == "Haswell" else SSE4))
    here, there = outputs(tmp_path, backend), outputs(tmp_path, backend, "qemu-x86_64-static", "-cpu", cpu)
    # One step of the output's quantization is rounding; saturation costs many.
    step = {name: 3.0 if name.split()[0] not in ("depthwise", "conv-one-channel") else 1.0 for name in said}
    differs = {name: bool(np.abs(here[name] - there[name]).max() > step[name]) for name in said}
    assert differs == said
    assert (cpu == "Haswell") == any(said.values())


def test_weights_of_seven_bits_are_safe_and_the_cure_is_named():
    model, _ = layer("conv3x3", "u8s8")
    (finding,) = lint(model, "onnxruntime", {}, AVX2)
    assert finding.layer == "layer"
    assert 0 < finding.share < 1
    assert "1.98 times" in finding.reason
    assert "reduce_range" in finding.cure
    assert "x64_precision" in finding.cure
    assert saturating(layer("conv3x3", "u8s8-reduced")[0], "onnxruntime") == []
    assert saturating(model, "onnxruntime", x64_precision=True) == []
    assert saturating(model, "openvino", SSE4) == ["layer"]
    assert saturating(model, "onnxruntime", VNNI) == saturating(model, "onnxruntime", ARM) == []


def test_the_share_counts_pairs_that_can_leave_int16():
    model, _ = layer("matmul", "u8s8")
    (weights,) = [tensor for tensor in model.graph.initializer if tensor.name == "w"]
    value = np.zeros((32, 16), np.int8)
    value[:2] = 100  # neighbours along the sum: 255 * 200 > 32767
    value[3] = 127  # alone, with a zero beside it: 255 * 127 fits
    value[4:6] = [[127], [-127]]  # they cancel at most: 255 * 127 fits
    weights.CopyFrom(numpy_helper.from_array(value, "w"))
    (finding,) = lint(model, "onnxruntime", {}, AVX2)
    assert finding.share == 1 / 16


def weights_without_zero_points(kind: int) -> onnx.ModelProto:
    """A MatMul by 4-bit weights in blocks."""
    stored = [
        helper.make_tensor("w", kind, (32, 4), [1] * 128),
        helper.make_tensor("s", TensorProto.FLOAT, (1, 4), [1.0] * 4),
    ]
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s"], ["wd"], "dequantize", axis=0, block_size=32),
        helper.make_node("MatMul", ["x", "wd"], ["y"], "matmul"),
    ]
    ends = [
        helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in (("x", [1, 32]), ("y", [1, 4]))
    ]
    graph = helper.make_graph(nodes, "blocks", ends[:1], ends[1:], stored)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 21)], ir_version=10)


def test_tensorrt_takes_symmetric_numbers_only(tmp_path):
    rules = {one.rule for one in lint(layer("conv3x3", "u8s8")[0], "onnxruntime", {}, TENSORRT)}
    assert rules == {"not_symmetric"}
    assert lint(layer("conv3x3", "s8s8")[0], "onnxruntime", {}, TENSORRT) == []
    static = models.static_int8(models.small_cnn(), activations="s8", symmetric=True)
    assert {one.rule for one in lint(static, "onnxruntime", {}, TENSORRT)} == {"int32_bias"}
    assert {one.rule for one in lint(models.int4(models.mlp()), "onnxruntime", {}, TENSORRT)} == {"operator"}
    for kind, rules in ((TensorProto.INT4, set()), (TensorProto.UINT4, {"not_symmetric"})):
        assert {one.rule for one in lint(weights_without_zero_points(kind), "onnxruntime", {}, TENSORRT)} == rules
    dynamic = models.dynamic_int8(models.small_cnn())
    assert "operator" in {one.rule for one in lint(dynamic, "onnxruntime", {}, TENSORRT)}


def test_formats_without_arithmetic_and_files_too_new():
    half = models.small_cnn()
    for tensor in half.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), tensor.name))
    assert {one.rule for one in lint(half, "onnxruntime", {}, ARM)} == {"fp16"}
    assert lint(half, "onnxruntime", {}, TARGETS["Armv8.2 dot product"]) == []
    assert {one.rule for one in lint(models.small_cnn(), "openvino", {"inference_precision": "bf16"}, AVX2)} == {"bf16"}
    assert {one.rule for one in lint(models.int4(models.mlp()), "onnxruntime", {}, ARM)} == {"int4"}
    assert {one.rule for one in lint(models.int4(models.mlp()), "openvino", {}, VNNI)} <= {"operator"}
    new = models.small_cnn()
    new.opset_import[0].version = 99
    assert {one.rule for one in lint(new, "onnxruntime", {}, VNNI)} == {"version"}


def test_the_study_lists_every_finding_and_counts_them(tmp_path):
    import hwbench
    from hwbench import demo

    run = hwbench.run(
        demo.MODEL,
        data={"source": str(demo.DATA)},
        profiles=["cpu-int8", "cpu-int8-safe"],
        studies=["lint"],
        out=tmp_path / "run",
    )
    rows = [row for row in run.rows if row.study == "lint"]
    counts = {(row.profile, json.loads(row.condition)["isa"]): row.value for row in rows if row.metric == "findings"}
    assert {isa for _, isa in counts} == {"any", *TARGETS}
    assert counts["cpu-int8", "any"] == 0
    for (profile, isa), count in counts.items():
        listed = [row for row in rows if row.profile == profile and json.loads(row.condition).get("isa") == isa]
        assert len(listed) - 1 == count
    assert counts["cpu-int8", "x86-64 AVX2"] > 0
    assert counts["cpu-int8-safe", "x86-64 AVX2"] == counts["cpu-int8", "x86-64 VNNI"] == 0
    assert "Static warnings" in (Path(run.path) / "report.html").read_text()
