"""Static warnings: what in a deployed graph another processor or runtime will compute differently, slowly or not at all.

Nothing is run. What is said of int16 saturation was found, and is tested, by running single layers on emulated processors:

    ONNX Runtime    on AVX2, and AVX-512 without VNNI, sums two products of an 8-bit activation with an int8 weight in a
                    saturating int16 (``vpmaddubsw``). SSE4 and Arm do not; depthwise convolutions, transposed convolutions
                    (float) and weights stored as uint8 have other kernels
    OpenVINO        does so on every x86-64 processor without VNNI, SSE4 included; also in transposed convolutions of signed
                    activations, not in convolutions with one input channel per group

Signed activations are run as unsigned ones, 128 higher, so that they saturate too, and sooner.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from hwbench.backend import node_name
from hwbench.model import MAX_IR_VERSION, MAX_OPSET

Array = np.ndarray[Any, np.dtype[Any]]

INT16_MAX = 32767
U8_MAX = 255
_VNNI = frozenset({"avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8"})
_BF16 = frozenset({"avx512_bf16", "amx_bf16", "bf16"})
_FP16 = frozenset({"avx512_fp16", "amx_fp16", "asimdhp"})
_INT8_DOT = _VNNI | {"asimddp", "i8mm"}
_LAYERS = frozenset({"Conv", "ConvTranspose", "Gemm", "MatMul"})
# Of ONNX-TensorRT's list of operators without a converter, those that quantizers write.
_NOT_IN_TENSORRT = frozenset({"ConvInteger", "MatMulInteger", "QLinearConv", "QLinearMatMul", "DynamicQuantizeLinear"})
_STANDARD = frozenset({"", "ai.onnx", "ai.onnx.ml"})


@dataclass(frozen=True)
class LintTarget:
    """A kind of machine that a build may meet.

    Attributes:
        name: What it is called in the table.
        arch: ``"x86_64"``, ``"aarch64"``, or ``"gpu"`` for TensorRT.
        flags: Its numeric extensions, as `hwbench.cpu.cpu_flags` spells them.
    """

    name: str
    arch: str
    flags: frozenset[str] = frozenset()


_AVX2 = frozenset({"sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2"})
TARGETS: Mapping[str, LintTarget] = {
    target.name: target
    for target in (
        LintTarget("x86-64 SSE4", "x86_64", frozenset({"sse4_1", "sse4_2"})),
        LintTarget("x86-64 AVX2", "x86_64", _AVX2),
        LintTarget("x86-64 VNNI", "x86_64", _AVX2 | {"avx512f", "avx512bw", "avx512_vnni"}),
        LintTarget("Armv8.0", "aarch64", frozenset({"asimd"})),
        LintTarget("Armv8.2 dot product", "aarch64", frozenset({"asimd", "asimddp", "asimdhp"})),
        LintTarget("TensorRT", "gpu"),
    )
}


@dataclass(frozen=True)
class Finding:
    """One warning.

    Attributes:
        rule: What kind of warning.
        layer: The node; empty if it is about the whole file.
        reason: What will happen, and why.
        cure: The change that cures it.
        share: For saturation, the share of the layer's pairs of neighbouring weights that can saturate; else None.
    """

    rule: str
    layer: str
    reason: str
    cure: str
    share: float | None = None


def lint(model: onnx.ModelProto, backend: str, options: Mapping[str, Any], target: LintTarget) -> list[Finding]:
    """What to expect of a deployed graph on a kind of machine.

    Args:
        model: The deployed graph, its weights among the initializers.
        backend: The backend that would run it there; on ``"TensorRT"``, whatever it is, TensorRT.
        options: The backend's options.
        target: The machine.
    """
    build = _Build(model, "tensorrt" if target.arch == "gpu" else backend, options, target)
    return [finding for rule in _RULES for finding in rule(build)]


class _Build:
    """A deployed graph, with its quantized layers looked up, and what it would run on."""

    def __init__(self, model: onnx.ModelProto, backend: str, options: Mapping[str, Any], target: LintTarget) -> None:
        self.model, self.backend, self.options, self.target = model, backend, options, target
        self.nodes = list(model.graph.node)
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self.made_by = {name: node for node in self.nodes for name in node.output}

    def dequantized(self, name: str) -> onnx.NodeProto | None:
        """The DequantizeLinear that makes a tensor."""
        node = self.made_by.get(name)
        return node if node is not None and node.op_type == "DequantizeLinear" else None

    def int8_layers(self) -> Iterator[tuple[onnx.NodeProto, Array, bool]]:
        """Layers with 8-bit activations and int8 weights: the node, the weights, whether the activations are signed."""
        for node in self.nodes:
            signed, name = False, ""
            if node.op_type in _LAYERS:
                activation, weight = self.dequantized(node.input[0]), self.dequantized(node.input[1])
                if activation is not None and weight is not None and activation.input[0] not in self.stored:
                    point = self.stored.get(activation.input[2]) if len(activation.input) > 2 else None
                    signed, name = point is not None and point.data_type == TensorProto.INT8, weight.input[0]
            elif node.op_type in ("ConvInteger", "MatMulInteger"):
                name = node.input[1]
            stored = self.stored.get(name)
            if stored is not None and stored.data_type == TensorProto.INT8:
                yield node, numpy_helper.to_array(stored), signed


def _saturation(build: _Build) -> Iterator[Finding]:
    if not _saturates(build):
        return
    for node, weights, signed in build.int8_layers():
        pairs = _pairs(node, weights, signed, build.backend)
        if pairs is None:
            continue
        sums = _worst_sums(pairs)
        share = float(np.mean(sums > INT16_MAX))
        if share:
            yield Finding(
                "int16_saturation",
                node_name(node),
                f"two products summed in int16 reach {sums.max() / INT16_MAX:.2f} times its range in the worst case, where "
                f"{build.target.name} has no int8 dot product; {share:.1%} of the pairs of weights can do so",
                "precision.reduce_range = true (7-bit weights) or precision.weights = 'u8'"
                + ("; or options.x64_precision = true (exact, slower)" if build.backend == "onnxruntime" else ""),
                share,
            )


def _saturates(build: _Build) -> bool:
    """Whether a runtime sums int8 products in a saturating int16 there."""
    flags = build.target.flags
    if build.target.arch != "x86_64" or flags & _VNNI:
        return False
    if build.backend == "onnxruntime":
        return bool(flags & {"avx2", "avx512bw"}) and not build.options.get("x64_precision", False)
    return build.backend == "openvino"


def _pairs(node: onnx.NodeProto, weights: Array, signed: bool, backend: str) -> Array | None:
    """Neighbouring weights along the sum as the runtime lays them out, ``[pairs, 2]``; None if its kernel pairs none."""
    group = next((attribute.i for attribute in node.attribute if attribute.name == "group"), 1)
    if node.op_type in ("Conv", "ConvInteger"):
        depthwise = weights.shape[1] == 1 and group > 1
        if depthwise or (backend == "openvino" and weights.shape[1] == 1):
            return None
        rows = np.moveaxis(weights, 1, -1).reshape(
            len(weights), -1
        )  # channels last: neighbours share a place in the window
    elif node.op_type == "ConvTranspose":
        if backend != "openvino" or not signed:
            return None
        rows = np.moveaxis(weights, 0, -1).reshape(-1, len(weights))
    else:
        transposed = next((attribute.i for attribute in node.attribute if attribute.name == "transB"), 0)
        rows = (weights if transposed else np.swapaxes(weights, -1, -2)).reshape(
            -1, weights.shape[-1 if transposed else -2]
        )
    even = rows.shape[1] // 2 * 2
    return rows[:, :even].reshape(-1, 2)


def _worst_sums(pairs: Array) -> Array:
    """The largest magnitude that 8-bit activations can give each pair's sum of two products."""
    wide = pairs.astype(np.int32)
    above, below = np.maximum(wide, 0).sum(axis=1), -np.minimum(wide, 0).sum(axis=1)
    largest: Array = U8_MAX * np.maximum(above, below)
    return largest


def _symmetry(build: _Build) -> Iterator[Finding]:
    if build.backend != "tensorrt":
        return
    cure = "precision.activations = 's8' and precision.weights = 's8'"
    for node in build.nodes:
        if node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            continue
        kind, point = _quantized_as(build, node)
        if kind == TensorProto.INT32:
            yield Finding(
                "int32_bias", node_name(node), "TensorRT takes no DequantizeLinear on int32 biases",
                "precision.quantize_bias = false",
            )  # fmt: skip
        elif kind in (TensorProto.UINT8, TensorProto.UINT4):
            yield Finding(
                "not_symmetric", node_name(node), "TensorRT's quantized numbers are signed, these are not", cure
            )
        elif point is not None and numpy_helper.to_array(point).any():
            yield Finding("not_symmetric", node_name(node), "TensorRT takes zero points of 0 only", cure)


def _quantized_as(build: _Build, node: onnx.NodeProto) -> tuple[int, onnx.TensorProto | None]:
    """The type of a QuantizeLinear's output or a DequantizeLinear's input, and the zero point; 0 where only its maker knows."""
    point = build.stored.get(node.input[2]) if len(node.input) > 2 and node.input[2] else None
    stored = build.stored.get(node.input[0])
    if point is not None:
        return point.data_type, point
    if node.op_type == "DequantizeLinear":
        return stored.data_type if stored is not None else TensorProto.UNDEFINED, None
    return next((one.i for one in node.attribute if one.name == "output_dtype" and one.i), TensorProto.UINT8), None


def _operators(build: _Build) -> Iterator[Finding]:
    for node in build.nodes:
        if build.backend == "tensorrt" and node.op_type in _NOT_IN_TENSORRT:
            yield Finding(
                "operator", node_name(node), f"TensorRT has no {node.op_type}",
                "a static QDQ build: precision.dynamic = false",
            )  # fmt: skip
        elif build.backend != "onnxruntime" and node.domain not in _STANDARD:
            yield Finding(
                "operator", node_name(node), f"{node.op_type} of {node.domain} is ONNX Runtime's own",
                "backend = 'onnxruntime', or another precision.format",
            )  # fmt: skip


def _versions(build: _Build) -> Iterator[Finding]:
    opset = max((entry.version for entry in build.model.opset_import if entry.domain in ("", "ai.onnx")), default=0)
    for what, version, limit in (("opset", opset, MAX_OPSET), ("IR version", build.model.ir_version, MAX_IR_VERSION)):
        if version > limit:
            yield Finding(
                "version", "", f"the file is of {what} {version}; runtimes already deployed may read up to {limit} only",
                f"export the model with {what} {limit} or lower",
            )  # fmt: skip


def _formats(build: _Build) -> Iterator[Finding]:
    """Formats that the processor has no arithmetic for."""
    if build.target.arch == "gpu":
        return
    kinds = {tensor.data_type for tensor in build.model.graph.initializer}
    asked = build.options.get("inference_precision", "")
    if (TensorProto.BFLOAT16 in kinds or asked == "bf16") and not build.target.flags & _BF16:
        yield Finding(
            "bf16", "", f"{build.target.name} has no bfloat16 arithmetic: the runtime computes in float32",
            "precision.format = 'fp32'",
        )  # fmt: skip
    if (TensorProto.FLOAT16 in kinds or asked == "f16") and not build.target.flags & _FP16:
        yield Finding(
            "fp16", "", f"{build.target.name} has no float16 arithmetic: numbers are widened to float32 before every operator",
            "precision.format = 'fp32' or 'int8'",
        )  # fmt: skip
    for node in build.nodes:
        weight = build.dequantized(node.input[1]) if node.op_type in _LAYERS and len(node.input) > 1 else None
        stored = build.stored.get(weight.input[0]) if weight is not None else None
        packed = stored is not None and stored.data_type in (TensorProto.INT4, TensorProto.UINT4)
        if (packed or node.op_type == "MatMulNBits") and not build.target.flags & (_INT8_DOT | {"avx2"}):
            yield Finding(
                "int4",
                node_name(node),
                f"{build.target.name} has no fast kernel for 4-bit weights, which are unpacked at every run",
                "precision.format = 'int8'",
            )


Rule = Callable[[_Build], Iterator[Finding]]
_RULES: Sequence[Rule] = (_saturation, _symmetry, _operators, _versions, _formats)
