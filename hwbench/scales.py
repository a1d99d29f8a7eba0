"""Static warnings about scales, for every machine: not finite, zero, saturated, or shared by tensors of unlike ranges."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, numpy_helper

from hwbench.backend import node_name
from hwbench.lint import Finding

Array = np.ndarray[Any, np.dtype[Any]]
_FLOATS = frozenset({TensorProto.FLOAT, TensorProto.FLOAT16, TensorProto.BFLOAT16, TensorProto.DOUBLE})
# 255 of these steps are beyond float32, or nearly so.
_HUGE = 1e30 / 255
# A step of 2 in the exponent is a factor of 7.
_COARSE = 2.0
_EXPONENTIALS = frozenset({"Softmax", "LogSoftmax", "Sigmoid", "Tanh"})
# Operators whose results lie in an interval of this width.
_WIDTHS: Mapping[str, float] = {
    **dict.fromkeys(("Sigmoid", "HardSigmoid", "Softmax"), 1.0),
    **dict.fromkeys(("Tanh", "Erf", "Sin", "Cos"), 2.0),
}
# An int8 range this many times a tensor's own leaves it at most eight of 255 levels.
_MIXED = 32.0
_COPIES = frozenset({"Transpose", "Reshape", "Squeeze", "Unsqueeze", "Flatten", "Identity", "Slice", "Split", "Gather"})
_IN_FLOAT = "keep the tensor in float, or clip the mask that sets its range to a small finite number"
_APART = "leave the Concat in float, or return its inputs as outputs of their own"


def lint_scales(model: onnx.ModelProto) -> list[Finding]:
    """Findings on the scales of a quantized graph, whatever machine it runs on.

    Args:
        model: The deployed graph, its scales among the initializers.
    """
    graph = _Scales(model)
    return [finding for rule in _RULES for finding in rule(graph)]


class _Scales:
    """A graph with its scales looked up."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.nodes = list(model.graph.node)
        self.stored = {tensor.name: tensor for tensor in model.graph.initializer}
        self.made_by = {name: node for node in self.nodes for name in node.output}
        self.read_by: dict[str, list[onnx.NodeProto]] = {}
        for node in self.nodes:
            for name in node.input:
                self.read_by.setdefault(name, []).append(node)

    def each(self) -> Iterator[tuple[onnx.NodeProto, Array]]:
        """Every stored scale once, with the first node that uses it."""
        seen = set()
        for node in self.nodes:
            for name in self._names(node):
                if name in self.stored and name not in seen and self.stored[name].data_type in _FLOATS:
                    seen.add(name)
                    yield node, numpy_helper.to_array(self.stored[name]).astype(np.float64)

    @staticmethod
    def _names(node: onnx.NodeProto) -> Sequence[str]:
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            return list(node.input[1:2])
        if node.op_type == "MatMulNBits":
            return list(node.input[2:3])
        return list(node.input) if node.op_type.startswith("QLinear") else []  # their only floats are scales

    def step(self, node: onnx.NodeProto | None) -> float | None:
        """The scale of a QuantizeLinear or DequantizeLinear of a whole tensor; None of anything else."""
        if node is None or node.op_type not in ("QuantizeLinear", "DequantizeLinear"):
            return None
        stored = self.stored.get(node.input[1])
        scale = numpy_helper.to_array(stored) if stored is not None else np.empty(0)
        return float(scale.reshape(-1)[0]) if scale.size == 1 else None

    def step_before(self, tensor: str) -> float | None:
        """The scale that last quantized a tensor, also across copying operators."""
        node = self.made_by.get(tensor)
        while node is not None and node.op_type in _COPIES:
            node = self.made_by.get(node.input[0])
        return self.step(node) if node is not None and node.op_type == "DequantizeLinear" else None

    def name_before(self, tensor: str) -> str:
        """The tensor before quantization and dequantization; the tensor itself if it was not quantized."""
        for kind in ("DequantizeLinear", "QuantizeLinear"):
            node = self.made_by.get(tensor)
            if node is None or node.op_type != kind:
                break
            tensor = node.input[0]
        return tensor

    def quantizer_after(self, tensor: str) -> onnx.NodeProto | None:
        """The QuantizeLinear that reads a tensor, also across copying operators."""
        for node in self.read_by.get(tensor, ()):
            if node.op_type == "QuantizeLinear" and node.input[0] == tensor:
                return node
            if node.op_type in _COPIES and node.input[0] == tensor:
                after = self.quantizer_after(node.output[0])
                if after is not None:
                    return after
        return None


def _numbers(graph: _Scales) -> Iterator[Finding]:
    for node, scale in graph.each():
        where = node_name(node)
        if not np.isfinite(scale).all():
            reason = "its scale is not finite, so every value becomes 0, infinite or NaN"
            yield Finding("scale_not_finite", where, reason, f"quantize again: {_IN_FLOAT}")
        elif (scale == 0).any():
            share = f"{np.mean(scale == 0):.0%} of its scales are" if scale.size > 1 else "its scale is"
            yield Finding("scale_zero", where, f"{share} zero, which makes every value 0", "quantize again")
        elif np.abs(scale).max() > _HUGE:
            reason = (
                f"its scale is {np.abs(scale).max():.3g}: one step of a mask's range, in which all other values vanish"
            )
            yield Finding("scale_saturated", where, reason, f"quantize again: {_IN_FLOAT}")


def _exponents(graph: _Scales) -> Iterator[Finding]:
    for node in graph.nodes:
        step = graph.step_before(node.input[0]) if node.op_type in _EXPONENTIALS else None
        if step is not None and _COARSE <= step <= _HUGE:
            reason = f"{node.op_type} reads numbers in steps of {step:.3g}; one step changes its result {_times(step)}"
            yield Finding("scale_saturated", node_name(node), reason, f"quantize again: {_IN_FLOAT}")


def _times(step: float) -> str:
    return f"{np.exp(step):.3g}-fold" if step < 100 else "completely"


def _concats(graph: _Scales) -> Iterator[Finding]:
    for node in graph.nodes:
        if node.op_type == "Concat":
            shared = graph.step(graph.quantizer_after(node.output[0]))
            own = {name: graph.step_before(name) for name in node.input}
        elif node.op_type == "QLinearConcat":
            steps = {name: graph.stored.get(name) for name in node.input[::3]}
            scales = {
                name: float(numpy_helper.to_array(one).reshape(-1)[0]) for name, one in steps.items() if one is not None
            }
            shared = scales.pop(node.input[0], None)
            own = {node.input[place]: scales.get(node.input[place + 1]) for place in range(2, len(node.input), 3)}
        else:
            continue
        yield from _mixing(
            node, shared, {graph.name_before(name): step for name, step in own.items() if step is not None}
        )


def _mixing(node: onnx.NodeProto, shared: float | None, own: Mapping[str, float]) -> Iterator[Finding]:
    lost = {name: step for name, step in own.items() if shared is not None and 0 < step * _MIXED <= shared}
    if shared is None or not lost:
        return
    worst = min(lost, key=lambda name: lost[name])
    steps = f"{min(own.values()):.3g} to {max(own.values()):.3g}"
    yield Finding(
        "mixed_ranges",
        node_name(node),
        f"it joins tensors of steps {steps} under one scale, {shared:.3g}, which leaves {worst!r} "
        f"{_levels(256 * lost[worst] / shared)} of 256 levels",
        _APART,
    )


def _bounded(graph: _Scales) -> Iterator[Finding]:
    """Results of a small range under a scale made for a larger one, by quantizers that share scales."""
    for node in graph.nodes:
        width = _WIDTHS.get(node.op_type)
        step = graph.step(graph.quantizer_after(node.output[0])) if width else None
        if width and step is not None and width * _MIXED / 256 <= step <= _HUGE:
            yield Finding(
                "mixed_ranges",
                node_name(node),
                f"{node.op_type} gives numbers in a range of {width:g}, quantized in steps of {step:.3g}, the scale of another "
                f"range: {_levels(width / step)} of 256 levels remain",
                _APART,
            )


def _levels(levels: float) -> str:
    return "fewer than 2" if levels < 1 else f"about {levels:.0f}"


_RULES: Sequence[Callable[[_Scales], Iterator[Finding]]] = (_numbers, _exponents, _concats, _bounded)
