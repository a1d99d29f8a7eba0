"""Types and shapes of the tensors between a graph's operators, and nodes as parts of a graph need them."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterator

import onnx
from onnx import helper, shape_inference

# Shapes are computed from numbers that are stored in small tensors; larger ones need only their type and shape.
_SMALL = 1024


def tensor_types(model: onnx.ModelProto, batch: int | None = None) -> dict[str, onnx.ValueInfoProto]:
    """What is known of every tensor's type and shape.

    Args:
        model: The model.
        batch: The size that the first axis of every input is set to; None leaves it as it is.
    """
    graph, stored = model.graph, {tensor.name for tensor in model.graph.initializer}
    inputs = [_batched(value, batch) for value in graph.input if value.name not in stored]
    large = {tensor.name: tensor for tensor in graph.initializer if math.prod(tensor.dims) > _SMALL}
    known = [] if batch else graph.value_info
    outputs = [_batched(value, batch, first=None) for value in graph.output]
    light = helper.make_graph(
        [_inferable(node) for node in graph.node],
        "types",
        [*inputs, *(helper.make_tensor_value_info(name, one.data_type, one.dims) for name, one in large.items())],
        outputs,
        [tensor for tensor in graph.initializer if tensor.name not in large],
        value_info=known,
    )
    light.input.extend(_kernels(model))
    opsets = model.opset_import
    alone = helper.make_model(light, opset_imports=opsets, ir_version=model.ir_version, functions=model.functions)
    found = shape_inference.infer_shapes(alone, data_prop=True).graph
    return {value.name: value for value in (*inputs, *found.value_info, *found.output)}


def sample_shapes(model: onnx.ModelProto) -> dict[str, tuple[int, ...]]:
    """The shape that one input has of every tensor whose first axis counts inputs; others are left out.

    Whether an axis counts inputs is told by two batch sizes, unless the graph is fixed to one.
    """
    stored = {tensor.name for tensor in model.graph.initializer}
    batches = [value.type.tensor_type.shape.dim[:1] for value in model.graph.input if value.name not in stored]
    fixed = next((axes[0].dim_value for axes in batches if axes and axes[0].dim_value), None)
    sizes = (fixed,) if fixed else (2, 3)
    shapes = [{name: _shape(value) for name, value in tensor_types(model, size).items()} for size in sizes]
    found = {}
    for name, shape in shapes[0].items():
        others = [each.get(name) for each in shapes]
        is_known = bool(shape) and None not in shape
        if is_known and all(other == (size, *shape[1:]) for size, other in zip(sizes, others, strict=True)):
            found[name] = tuple(axis or 0 for axis in shape[1:])
    return found


def without(node: onnx.NodeProto, given: Collection[str]) -> onnx.NodeProto:
    """A node that makes several tensors, some of which are given already: those it makes under another name."""
    if not any(name in given for name in node.output):
        return node
    copy = onnx.NodeProto()
    copy.CopyFrom(node)
    copy.output[:] = [f"{name}:unused" if name in given else name for name in node.output]
    return copy


def _batched(value: onnx.ValueInfoProto, batch: int | None, first: int | None = 0) -> onnx.ValueInfoProto:
    """A copy of what is known of an input, with another first axis; of an output (``first`` None), without its shape."""
    copy = onnx.ValueInfoProto()
    copy.CopyFrom(value)
    tensor = copy.type.tensor_type
    if batch is None or not tensor.HasField("shape"):
        return copy
    if first is None:
        tensor.ClearField("shape")
    elif len(tensor.shape.dim):
        tensor.shape.dim[first].dim_value = batch
    return copy


def _inferable(node: onnx.NodeProto) -> onnx.NodeProto:
    """The node, or one that ONNX knows and that makes a tensor of the same type and shape."""
    if node.op_type != "MatMulNBits":
        return node
    return helper.make_node("MatMul", [node.input[0], f"{node.output[0]}:kernel"], node.output, node.name)


def _kernels(model: onnx.ModelProto) -> Iterator[onnx.ValueInfoProto]:
    types = {tensor.name: tensor.data_type for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "MatMulNBits":
            sizes = {attribute.name: attribute.i for attribute in node.attribute}
            kind = types.get(node.input[2], onnx.TensorProto.FLOAT)  # the scales are of the product's type
            yield helper.make_tensor_value_info(f"{node.output[0]}:kernel", kind, [sizes["K"], sizes["N"]])


def _shape(value: onnx.ValueInfoProto) -> tuple[int | None, ...]:
    tensor = value.type.tensor_type
    return tuple(axis.dim_value if axis.HasField("dim_value") else None for axis in tensor.shape.dim)
