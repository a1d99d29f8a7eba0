"""The numbers that an ONNX file stores: in initializers, in nodes' attributes, and in the graphs inside nodes and functions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, TensorProto, numpy_helper

Array = np.ndarray[Any, np.dtype[Any]]
Step = tuple[str, int | None]

TEXT, COMPLEX, SPARSE = "text", "complex numbers", "values of sparse tensors"
_UNCHANGEABLE: Mapping[int, str] = {
    TensorProto.STRING: TEXT,
    TensorProto.COMPLEX64: COMPLEX,
    TensorProto.COMPLEX128: COMPLEX,
}
# Attributes that hold data as lists or single values. Elsewhere these are settings of the operator (axis, strides); in the
# classical machine learning domain every list is data.
_CLASSICAL = "ai.onnx.ml"
_DATA = {
    "Constant": {"value_float", "value_floats", "value_int", "value_ints", "value_string", "value_strings"},
    "TfIdfVectorizer": {"ngram_counts", "ngram_indexes", "pool_int64s", "pool_strings", "weights"},
}
_LISTS = {AttributeProto.FLOATS, AttributeProto.INTS, AttributeProto.STRINGS}
_FIELDS = {
    AttributeProto.FLOATS: "floats",
    AttributeProto.INTS: "ints",
    AttributeProto.FLOAT: "f",
    AttributeProto.INT: "i",
}
# How protobuf writes a float: a tag and its four bytes.
_FLOAT_TAGS = {"f": 0x15, "floats": 0x3D}
_TAGGED = np.dtype([("tag", "u1"), ("value", "<f4")])


@dataclass(frozen=True)
class Place:
    """One array of stored numbers.

    Attributes:
        name: An initializer's own name, or ``@attribute/NODE/ATTRIBUTE``, prefixed by ``@graph/NODE/ATTRIBUTE/`` for every
            enclosing graph, or by ``@function/NAME/``. An unnamed node is identified by its first output.
        path: Fields and indices from the model to the tensor or attribute.
        field: The field of the attribute that holds the numbers; empty for a tensor.
        op_type: The operator of the attribute; empty for an initializer.
        attribute: The attribute's name; empty for an initializer.
    """

    name: str
    path: tuple[Step, ...]
    field: str = ""
    op_type: str = ""
    attribute: str = ""

    @property
    def owner(self) -> tuple[Step, ...]:
        """Path of the model's initializer, node or function that contains it."""
        return self.path[:1] if self.path[0][0] == "functions" else self.path[:2]

    def shape(self, model: Any) -> tuple[int, ...]:
        """Its shape."""
        message = follow(model, self.path)
        if not self.field:
            return tuple(message.dims)
        return (len(getattr(message, self.field)),) if self.field in ("floats", "ints") else ()

    def element_type(self, model: Any) -> int:
        """The number of its element type in ``onnx.TensorProto.DataType``."""
        if self.field:
            return TensorProto.FLOAT if self.field in _FLOAT_TAGS else TensorProto.INT64
        return int(follow(model, self.path).data_type)

    def read(self, root: Any, done: int = 0) -> Array:
        """Its numbers, bit for bit as they are stored; int4 as one element a byte (ml_dtypes).

        Args:
            root: The model, or what the first ``done`` steps of the path lead to.
            done: Steps that are already taken.
        """
        message = follow(root, self.path[done:])
        if not self.field:
            return numpy_helper.to_array(message)
        if self.field in _FLOAT_TAGS:
            return _floats(message, self.field)
        return np.array(getattr(message, self.field), dtype=np.int64)

    def write(self, root: Any, value: Array, done: int = 0) -> None:
        """Replace its numbers; arguments as of `read`."""
        message = follow(root, self.path[done:])
        if not self.field:
            message.CopyFrom(numpy_helper.from_array(value, message.name))
        elif self.field in _FLOAT_TAGS:
            tagged = np.empty(value.size, _TAGGED)
            tagged["tag"], tagged["value"] = _FLOAT_TAGS[self.field], value.reshape(-1)
            message.ClearField(self.field)
            message.MergeFromString(tagged.tobytes())
        elif self.field == "ints":
            message.ints[:] = value.tolist()
        else:
            message.i = int(value)


@dataclass(frozen=True)
class Inventory:
    """Inventory of the numbers that a model stores.

    Attributes:
        places: The numbers that can be changed: initializers in the order of the file, then what is in nodes and functions.
        left_out: Kinds of other stored content to their number of elements.
    """

    places: tuple[Place, ...]
    left_out: Mapping[str, int]

    @classmethod
    def of(cls, model: onnx.ModelProto) -> Inventory:
        """Go through a model."""
        walk = _Walk()
        walk.graph(model.graph, "", (("graph", None),))
        for index, function in enumerate(model.functions):
            walk.nodes(function.node, f"@function/{function.name}/", (("functions", index),))
        return cls(tuple(walk.places), dict(walk.left_out))


def follow(root: Any, path: Iterable[Step]) -> Any:
    """The message that a path leads to."""
    for field, index in path:
        root = getattr(root, field)
        root = root if index is None else root[index]
    return root


def inner_graphs(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    """The graphs in a node's attributes: branches and bodies."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def reads(node: onnx.NodeProto) -> list[str]:
    """The tensors that a node reads: its inputs, and those that its inner graphs capture."""
    return [*node.input, *dict.fromkeys(name for graph in inner_graphs(node) for name in _captured(graph))]


def _captured(graph: onnx.GraphProto) -> Iterator[str]:
    """The tensors that an inner graph captures."""
    own = {value.name for value in graph.input} | {tensor.name for tensor in graph.initializer}
    own |= {tensor.values.name for tensor in graph.sparse_initializer}
    own |= {name for node in graph.node for name in node.output}
    read = [name for node in graph.node for name in reads(node)] + [value.name for value in graph.output]
    yield from (name for name in read if name and name not in own)


class _Walk:
    """Collects the places of a model."""

    def __init__(self) -> None:
        self.places: list[Place] = []
        self.left_out: Counter[str] = Counter()
        self._taken: set[str] = set()

    def graph(self, graph: onnx.GraphProto, prefix: str, path: tuple[Step, ...]) -> None:
        for index, tensor in enumerate(graph.initializer):
            self._tensor(tensor, Place(f"{prefix}{tensor.name}", (*path, ("initializer", index))))
        self._leave_out(SPARSE, sum(math.prod(sparse.values.dims) for sparse in graph.sparse_initializer))
        self.nodes(graph.node, prefix, path)

    def nodes(self, nodes: Iterable[onnx.NodeProto], prefix: str, path: tuple[Step, ...]) -> None:
        for index, node in enumerate(nodes):
            key = node.name or next(filter(None, node.output), node.op_type)
            for number, attribute in enumerate(node.attribute):
                steps = (*path, ("node", index), ("attribute", number))
                self._attribute(node, attribute, f"{prefix}@attribute/{key}/{attribute.name}", steps)
                inner = f"{prefix}@graph/{key}/{attribute.name}"
                if attribute.HasField("g"):
                    self.graph(attribute.g, f"{inner}/", (*steps, ("g", None)))
                for at, graph in enumerate(attribute.graphs):
                    self.graph(graph, f"{inner}:{at}/", (*steps, ("graphs", at)))

    def _attribute(self, node: onnx.NodeProto, attribute: AttributeProto, name: str, path: tuple[Step, ...]) -> None:
        where = {"op_type": node.op_type, "attribute": attribute.name}
        if attribute.HasField("t"):
            self._tensor(attribute.t, Place(name, (*path, ("t", None)), **where))
        for index, tensor in enumerate(attribute.tensors):
            self._tensor(tensor, Place(f"{name}:{index}", (*path, ("tensors", index)), **where))
        sparse = [attribute.sparse_tensor] if attribute.HasField("sparse_tensor") else attribute.sparse_tensors
        self._leave_out(SPARSE, sum(math.prod(tensor.values.dims) for tensor in sparse))
        if not _is_data(node, attribute):
            return
        self._leave_out(TEXT, len(attribute.strings) + attribute.HasField("s"))
        field = _FIELDS.get(attribute.type, "")
        if field and (attribute.HasField(field) if field in ("f", "i") else len(getattr(attribute, field))):
            self._add(Place(name, path, field, **where))

    def _tensor(self, tensor: TensorProto, place: Place) -> None:
        if tensor.data_type in _UNCHANGEABLE:
            self._leave_out(_UNCHANGEABLE[tensor.data_type], math.prod(tensor.dims))
        elif math.prod(tensor.dims):
            self._add(place)

    def _add(self, place: Place) -> None:
        """Add a place under a unique name."""
        name, turn = place.name, 1
        while name in self._taken:
            turn += 1
            name = f"{place.name}#{turn}"
        self._taken.add(name)
        self.places.append(Place(name, place.path, place.field, place.op_type, place.attribute))

    def _leave_out(self, kind: str, elements: int) -> None:
        if elements:
            self.left_out[kind] += elements


def _is_data(node: onnx.NodeProto, attribute: AttributeProto) -> bool:
    """True if the attribute holds data rather than a setting of the operator."""
    if node.domain == _CLASSICAL:
        return attribute.type in _LISTS
    return node.domain in ("", "ai.onnx") and attribute.name in _DATA.get(node.op_type, ())


def _floats(attribute: AttributeProto, field: str) -> Array:
    """An attribute's floats, bit for bit: Python's own floats would change some of the NaNs."""
    alone = AttributeProto()
    alone.CopyFrom(attribute)
    for descriptor, _ in attribute.ListFields():
        if descriptor.name != field:
            alone.ClearField(descriptor.name)
    content = alone.SerializeToString()
    if field == "f":
        return np.frombuffer(content[-4:], "<f4").reshape(())
    count = len(attribute.floats)
    if len(content) == count * _TAGGED.itemsize:
        return np.frombuffer(content, _TAGGED)["value"].copy()
    return np.frombuffer(content[-4 * count :], "<f4")  # packed: one tag before all
