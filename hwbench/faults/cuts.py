"""Cuts a deployed graph at its layers, so that a fault costs what comes after it and no more.

A *layer* is an operator that multiplies by stored numbers, with the channel-wise operators behind it (activation, bias,
QuantizeLinear, depthwise convolution). Four kinds of segment are cut for it, plain ONNX files that any backend runs:

    advance   from the last layer's cut to this one's: carries the golden tensors forward
    lane      the layer for as many output channels as there are faults in a batch: a fault in one number changes one
              channel, so only that channel is computed
    layer     the layer with all its channels, for a fault that changes more than one, or by which runtimes choose kernels:
              they fuse a quantized layer only if its scales and zero points fit each other
    rest      from this layer's cut to the next checkpoint: shared by all faults of the layer

A cut is the set of tensors that are made before it and used after it. Quantized tensors are cut in their quantized form, and
everything derived from constants stays with its consumer: otherwise runtimes fuse other operators than in the whole graph.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import onnx
from onnx import helper, numpy_helper

from hwbench.backend import node_name
from hwbench.faults.ordering import chained, constant_derived
from hwbench.faults.shapes import tensor_types, without
from hwbench.stored import reads

_LAYERS = frozenset({"Conv", "MatMul", "Gemm"})
_GAUGED = frozenset({"QuantizeLinear", "DequantizeLinear"})
_ELEMENTWISE = frozenset({"Relu", "Clip", "LeakyRelu", "Sigmoid", "Tanh", "HardSigmoid", "HardSwish", "Elu", "Gelu"})


@dataclass(frozen=True)
class Layer:
    """One operator that multiplies by stored numbers.

    Attributes:
        node: Its name.
        op_type: Its operator.
        position: Index in the graph of the last operator that belongs to it.
        x: The tensor it reads, in the form in which it is cut.
        out: The tensor it makes.
        axis: The axis of ``out`` that counts channels.
        channels: How many there are.
        parameters: The initializers that hold one slice a channel, to the axis that counts channels.
        depthwise: Whether each channel reads its own input channel only.
    """

    node: str
    op_type: str
    position: int
    x: str
    out: str
    axis: int
    channels: int
    parameters: dict[str, int]
    depthwise: bool = False


class GraphCutter:
    """A deployed model and its cuts.

    Args:
        model: The deployed model, its nodes in topological order, constants among the initializers.
    """

    def __init__(self, model: onnx.ModelProto) -> None:
        self.model = model
        self.constants = {tensor.name: tensor for tensor in model.graph.initializer}
        self._derived = constant_derived(model.graph, self.constants)
        self.nodes = chained(model.graph.node, self._derived)
        self.inputs = [value.name for value in model.graph.input if value.name not in self.constants]
        self.outputs = [value.name for value in model.graph.output]
        self._made_at = {name: index for index, node in enumerate(self.nodes) for name in node.output if name}
        self._reads = [reads(node) for node in self.nodes]
        self._uses: dict[str, list[int]] = {}
        for index, names in enumerate(self._reads):
            for name in names:
                if name:
                    self._uses.setdefault(name, []).append(index)

    @cached_property
    def layers(self) -> list[Layer]:
        """The layers in graph order."""
        found: list[Layer] = []
        for index, node in enumerate(self.nodes):  # the operators of a layer stand together
            if node.op_type in _LAYERS and (not found or index > found[-1].position):
                found += [layer for layer in (self._layer(index, node),) if layer is not None]
        return found

    @cached_property
    def cuttable(self) -> list[Layer]:
        """The layers after which a cut carries one row an input, as far as types tell: inputs can be left out there."""
        return [
            layer for layer in self.layers if layer.x in self.types and self._carries_rows(layer.position, layer.out)
        ]

    @cached_property
    def types(self) -> dict[str, onnx.ValueInfoProto]:
        """What is known of every tensor's type and shape."""
        return tensor_types(self.model)

    def cut_after(self, position: int) -> list[str]:
        """The tensors made at or before a node and used after it, in the form in which they are cut; -1: the inputs."""
        live: dict[str, None] = {}
        for index in range(position + 1, len(self.nodes)):
            if self._transparent(index):
                continue
            for name in self._reads[index]:
                if name and name not in self._derived:
                    carrier = self.carrier(name)
                    if self._made_at.get(carrier, -1) <= position:
                        live[carrier] = None
        for name in self.outputs:
            index = self._made_at.get(name, -1)
            source = self.nodes[index].input[0] if index > position and self._transparent(index) else name
            if self._made_at.get(source, -1) <= position:
                live[source] = None
        return list(live)

    def carrier(self, name: str) -> str:
        """The quantized tensor a dequantized one comes from; other tensors are their own."""
        index = self._made_at.get(name)
        if index is not None and self._transparent(index) and name not in self.outputs:
            source: str = self.nodes[index].input[0]
            return source
        return name

    def maker(self, name: str) -> int:
        """Index of the node that makes a tensor; -1 for an input of the graph."""
        return self._made_at.get(name, -1)

    def is_cuttable(self, tensor: str) -> bool:
        """Whether a cut right after a tensor is made carries it, and one row an input, as far as types tell."""
        position = self.maker(tensor)
        return tensor in self.cut_after(position) and self._carries_rows(position, tensor)

    def is_derived(self, name: str) -> bool:
        """Whether a tensor holds the same numbers whatever the inputs."""
        return name in self._derived

    def first_use(self, initializer: str) -> int:
        """Index of the first node, other than those that only derive constants, that an initializer reaches."""
        reached, names = len(self.nodes), [initializer]
        while names:
            for index in self._uses.get(names.pop(), ()):
                made = [name for name in self.nodes[index].output if name]
                if all(name in self._derived for name in made) or self._transparent(index):
                    names += made
                else:
                    reached = min(reached, index)
        return reached

    @cached_property
    def homes(self) -> dict[str, Layer]:
        """The initializers that one layer alone depends on, to that layer."""
        found: dict[str, Layer] = {}
        for layer in self.layers:
            inside, stored = self._needed([layer.x], [layer.out])
            found |= {name: layer for name in stored if self._stays(name, layer.out, inside)}
        return found

    @property
    def computing(self) -> list[str]:
        """The names of the nodes that do more than to quantize or dequantize."""
        return [node_name(node) for node in self.nodes if node.op_type not in _GAUGED]

    @property
    def quantizes(self) -> bool:
        """Whether activations are rounded to few values, so that small changes vanish."""
        return any("Quantize" in node.op_type and "Dequantize" not in node.op_type for node in self.nodes)

    def users(self, name: str) -> list[onnx.NodeProto]:
        """The nodes that read a tensor."""
        return [self.nodes[index] for index in self._uses.get(name, ())]

    def is_gauge(self, initializer: str) -> bool:
        """Whether it is a scale or zero point: what tells how others are read."""
        return any(node.op_type in _GAUGED and initializer != node.input[0] for node in self.users(initializer))

    def segment(
        self, inputs: Iterable[str], outputs: Sequence[str], constants: Mapping[str, onnx.TensorProto] | None = None
    ) -> onnx.ModelProto:
        """The part of the graph that makes ``outputs`` of ``inputs``; ``constants`` are its initializers in another form."""
        constants = self.constants if constants is None else constants
        inputs = list(dict.fromkeys(inputs))
        needed, stored = self._needed(inputs, outputs)
        nodes = [without(self.nodes[index], inputs) for index in sorted(needed)]
        used = {name for index in needed for name in self._reads[index]}
        values = [self._value(name) for name in inputs if name in used or name in outputs]
        return self._model(nodes, values, [self._value(name) for name in outputs], [constants[name] for name in stored])

    def lane(self, layer: Layer, lanes: int) -> onnx.ModelProto:
        """A layer for some of its output channels: the first ones, until others are put in their place.

        Args:
            layer: One of `layers`, with parameters.
            lanes: How many channels, at least two: runtimes have kernels of their own for a convolution to one channel.
        """
        model = self.segment([layer.x], [layer.out])
        graph = model.graph
        for tensor in graph.initializer:
            if tensor.name in layer.parameters:
                value = numpy_helper.to_array(tensor)
                axis = layer.parameters[tensor.name]
                chosen = np.take(value, np.resize(np.arange(layer.channels), lanes), axis=axis)
                tensor.CopyFrom(numpy_helper.from_array(chosen, tensor.name))
        _resize(graph.output[0], layer.axis, lanes)
        if layer.depthwise:
            _resize(graph.input[0], 1, lanes)
        for attribute in (one for node in graph.node if node.op_type == "Conv" for one in node.attribute):
            if attribute.name == "group" and attribute.i > 1:  # a depthwise one: others are in no layer with parameters
                attribute.i = lanes
        return model

    def _needed(self, inputs: Iterable[str], outputs: Iterable[str]) -> tuple[set[int], list[str]]:
        """The nodes that make ``outputs`` of ``inputs``, and the initializers they read."""
        given, needed, pending = set(inputs), set[int](), list(outputs)
        stored: dict[str, None] = {}
        while pending:
            name = pending.pop()
            if name in given or not name:
                continue
            if name in self.constants:
                stored[name] = None
                continue
            index = self._made_at[name]
            if index not in needed:
                needed.add(index)
                pending += self._reads[index]
        return needed, list(stored)

    def _stays(self, name: str, out: str, inside: set[int]) -> bool:
        """Whether a tensor reaches the rest of the graph through ``out`` alone."""
        return name not in self.outputs and all(
            index in inside
            and all(made == out or not made or self._stays(made, out, inside) for made in self.nodes[index].output)
            for index in self._uses.get(name, ())
        )

    def _layer(self, index: int, node: onnx.NodeProto) -> Layer | None:
        weight = self._stored(node.input[1])
        if weight is None or node.input[0] in self._derived:
            return None
        if len(node.input) > 2 and node.input[2] and node.input[2] not in self._derived:
            return None  # a Gemm that adds another activation: it depends on more than its input
        group = attribute(node, "group", 1)
        transposed = attribute(node, "transB", 0)
        if len(weight.dims) < 2 or (node.op_type == "MatMul" and len(weight.dims) != 2):
            return None
        weight_axis = 0 if node.op_type == "Conv" or transposed else len(weight.dims) - 1
        channels = weight.dims[weight_axis]
        depthwise = self._is_depthwise(node, channels)
        found = [self._channelled(node.input[1], channels, weight_axis)]
        if len(node.input) > 2 and node.input[2]:
            found.append(self._channelled(node.input[2], channels))
        position, out = index, node.output[0]
        while (step := self._channelwise(out, channels)) is not None:
            position, out = step[0], self.nodes[step[0]].output[0]
            found.append(step[1])
        # a grouped channel would need the others of its group; a number per channel that is used elsewhere too, all of them
        lanes = (group == 1 or depthwise) and None not in found and not _is_single(node, weight)
        parameters = {name: at for part in found if part for name, at in part.items()} if lanes else {}
        axis = 1 if node.op_type in ("Conv", "Gemm") else -1
        x = self.carrier(node.input[0])
        return Layer(node_name(node), node.op_type, position, x, out, axis, channels, parameters, depthwise)

    def _channelwise(self, name: str, channels: int) -> tuple[int, dict[str, int] | None] | None:
        """The one operator that reads a tensor, if it treats channels apart, and its parameters per channel."""
        users = self._uses.get(name, [])
        if len(users) != 1 or name in self.outputs:
            return None
        node = self.nodes[users[0]]
        if self._transparent(users[0]):  # of what reads it again as floats, only what keeps to the kernels of the whole
            users = self._uses.get(node.output[0], [])
            node = self.nodes[users[0]] if len(users) == 1 and node.output[0] not in self.outputs else node
        if node.op_type == "Conv" and self._is_depthwise(node, channels):
            parts = [self._channelled(other, channels, 0) for other in node.input[1:] if other]
            return (
                None if None in parts else (users[0], {key: at for part in parts for key, at in (part or {}).items()})
            )
        others = [other for other in node.input if other != name and other]
        if node.op_type in _ELEMENTWISE and all(other in self._derived for other in others):
            return users[0], {}
        if node.op_type == "QuantizeLinear" and node.input[0] == name:
            scale = self.constants.get(node.input[1])
            return (users[0], {}) if scale is not None and math.prod(scale.dims) == 1 else None
        if node.op_type == "Add" and others and all(other in self._derived for other in others):
            bias = self._stored(others[0])
            if bias is not None and list(bias.dims) == [channels]:
                return users[0], self._channelled(others[0], channels)
        return None

    def _is_depthwise(self, node: onnx.NodeProto, channels: int) -> bool:
        """Whether a node convolves each of its channels by itself."""
        weight = self._stored(node.input[1])
        return (
            weight is not None
            and channels > 1
            and attribute(node, "group", 1) == channels
            and (list(weight.dims[:2]) == [channels, 1])
        )

    def _channelled(self, name: str, channels: int, axis: int = -1) -> dict[str, int] | None:
        """The initializers behind a constant-derived tensor that have one slice a channel, to the axis that counts channels.

        None if some of its channels cannot be computed without the others: it is made by an operator other than
        DequantizeLinear, or an initializer is used elsewhere too.

        Args:
            name: The tensor.
            channels: How many channels the layer has.
            axis: The axis of the tensor that counts them.
        """
        found: dict[str, int] = {}
        for initializer, at in self._parts(name, axis):
            dims = self.constants[initializer].dims if initializer in self.constants else None
            if dims is None:
                return None
            if at is not None and len(dims) and dims[at] == channels:
                if len(self._uses[initializer]) != 1:
                    return None
                found[initializer] = at % len(dims)
        return found

    def _parts(self, name: str, axis: int) -> list[tuple[str, int | None]]:
        """What a constant-derived tensor is made of, each with its axis that would count channels; None: it has none."""
        index = self._made_at.get(name)
        if index is None or self.nodes[index].op_type != "DequantizeLinear":
            return [(name, axis)]
        node = self.nodes[index]
        stored, *steps = (other for other in node.input if other)
        dims = self.constants[stored].dims if stored in self.constants else ()
        along, blocked = attribute(node, "axis", 1), attribute(node, "block_size", 0) > 0
        per_channel = len(dims) <= 1 or along % len(dims) == axis % len(dims)
        return [(stored, axis), *((step, axis if blocked else 0 if per_channel else None) for step in steps)]

    def _stored(self, name: str) -> onnx.TensorProto | None:
        """The stored tensor behind a constant or its dequantized form."""
        index = self._made_at.get(name)
        if index is not None and self.nodes[index].op_type == "DequantizeLinear":
            name = self.nodes[index].input[0]
        found: onnx.TensorProto | None = self.constants.get(name)
        return found

    def _transparent(self, index: int) -> bool:
        """Whether a node only dequantizes an activation: it is repeated for each consumer."""
        node = self.nodes[index]
        return node.op_type == "DequantizeLinear" and node.output[0] not in self._derived

    def _carries_rows(self, at: int, tensor: str) -> bool:
        return all(map(self._has_rows, {tensor, *self.cut_after(at)}))

    def _has_rows(self, name: str) -> bool:
        """Whether the first axis of a tensor may count inputs."""
        first, batch = (
            self.types[one].type.tensor_type.shape.dim[:1] if one in self.types else ()
            for one in (name, self.inputs[0])
        )
        if not first or not batch:
            return False
        return not first[0].HasField("dim_value") or first[0].dim_value == batch[0].dim_value

    def _value(self, name: str) -> onnx.ValueInfoProto:
        known = self.types.get(name)
        if known is None:
            raise KeyError(name)
        value = onnx.ValueInfoProto()
        value.CopyFrom(known)
        return value

    def _model(
        self,
        nodes: Sequence[onnx.NodeProto],
        inputs: Sequence[onnx.ValueInfoProto],
        outputs: Sequence[onnx.ValueInfoProto],
        stored: Sequence[onnx.TensorProto],
    ) -> onnx.ModelProto:
        graph = helper.make_graph(nodes, "segment", inputs, outputs, stored)
        made: onnx.ModelProto = helper.make_model(
            graph,
            opset_imports=self.model.opset_import,
            ir_version=self.model.ir_version,
            functions=self.model.functions,
        )
        return made


def _is_single(node: onnx.NodeProto, weight: onnx.TensorProto) -> bool:
    """True if a node convolves one channel to one channel.

    ONNX Runtime's QLinearConv takes it for a depthwise convolution, whose kernel is exact where those for more channels
    saturate on x86 without VNNI. All others keep their sums in lanes: they add the same pairs of products, whatever the number
    of channels to which they convolve.
    """
    return node.op_type == "Conv" and list(weight.dims[:2]) == [1, 1]


def _resize(value: onnx.ValueInfoProto, axis: int, size: int) -> None:
    dimensions = value.type.tensor_type.shape.dim
    if len(dimensions):
        dimensions[axis].Clear()
        dimensions[axis].dim_value = size


def attribute(node: onnx.NodeProto, name: str, default: int) -> int:
    """A whole-number attribute of a node."""
    return next((attribute.i for attribute in node.attribute if attribute.name == name), default)
