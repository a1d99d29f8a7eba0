"""Replaces the first convolution after a layer by a rank-one update, for faults that change one channel of the layer.

A convolution W of kernel 1 × 1 is linear: where only channel c of its input x changes, its output y becomes
y + W[:, c] (x'_c − x_c), which takes one multiplication a number instead of one for every channel. Up to the rounding of a sum
this is what the convolution gives, so it is for graphs of 32-bit floats, whose segments agree with the whole no better; rounded
activations would turn such a difference into a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import onnx
from onnx import TensorProto, helper

from hwbench.faults.cuts import GraphCutter, Layer, attribute

# Input channels from which on a convolution takes longer than the update's passes through memory.
WORTH = 128


@dataclass(frozen=True)
class Update:
    """The convolution that is replaced.

    Attributes:
        y: Its output.
        weight: Its weights, ``[channels of y, channels of x, 1, 1]``.
    """

    y: str
    weight: str

    @property
    def inputs(self) -> dict[str, str]:
        """The inputs that `segment` adds: golden output ``[b, C, ...]``, change ``[b, 1, ...]``, column ``[b, C, 1, ...]``."""
        return {name: f"{self.y}/{name}" for name in ("golden", "change", "column")}


def update_after(cutter: GraphCutter, layer: Layer) -> Update | None:
    """The convolution of kernel 1 × 1 that reads a layer's output, or its sum with a tensor made before."""
    if cutter.quantizes or layer.axis != 1:
        return None
    cut = cutter.cut_after(layer.position)
    for node in cutter.users(layer.out):
        if update := _update(cutter, node, layer.out):
            return update
        others = [name for name in node.input if name != layer.out]
        if node.op_type == "Add" and len(others) == 1 and others[0] in cut:
            for behind in cutter.users(node.output[0]):
                if update := _update(cutter, behind, node.output[0]):
                    return update
    return None


def segment(
    cutter: GraphCutter,
    update: Update,
    cut: Sequence[str],
    outputs: Sequence[str],
    constants: Mapping[str, onnx.TensorProto],
) -> onnx.ModelProto:
    """What makes ``outputs`` of the tensors of a cut and the three inputs of an update."""
    model = cutter.segment([*cut, update.y], outputs, constants)
    golden, change, column = update.inputs.values()
    y = next(value for value in model.graph.input if value.name == update.y)
    y.name = golden
    for name, changed in ((change, (1,)), (column, range(2, len(y.type.tensor_type.shape.dim)))):
        value = model.graph.input.add()
        value.CopyFrom(y)
        value.name = name
        for axis in changed:
            value.type.tensor_type.shape.dim[axis].Clear()
            value.type.tensor_type.shape.dim[axis].dim_value = 1
    product = f"{update.y}/product"
    made = [
        helper.make_node("Mul", [change, column], [product], product),
        helper.make_node("Add", [golden, product], [update.y], f"{update.y}/sum"),
    ]
    nodes = [*made, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    return model


def _update(cutter: GraphCutter, node: onnx.NodeProto, x: str) -> Update | None:
    """The update that stands for a node; None if it is no plain convolution of kernel 1 × 1, its weights stored as they are."""
    if node.op_type != "Conv" or node.input[0] != x or attribute(node, "group", 1) != 1:
        return None
    weight, y = cutter.constants.get(node.input[1]), cutter.types.get(node.output[0])
    if weight is None or y is None or {weight.data_type, y.type.tensor_type.elem_type} != {TensorProto.FLOAT}:
        return None
    moves = {one.name: set(one.ints) for one in node.attribute if one.name in ("strides", "pads")}
    if weight.dims[1] < WORTH:
        return None
    plain = set(weight.dims[2:]) == {1} and moves.get("strides", {1}) == {1} and moves.get("pads", {0}) == {0}
    return Update(node.output[0], node.input[1]) if plain and node.output[0] not in cutter.outputs else None
