"""Copies of an ONNX model in which some stored numbers are others: how a session's weights are changed by default."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]


class InitializerPatcher:
    """Makes copies of a model in which some stored numbers are others.

    Changes accumulate: each copy holds the latest content of everything ever changed. A copy is the serialized rest of the
    model and, behind it, nodes, functions and initializers as messages of their own, which protobuf merges. They are not
    changed within one message: it would keep the memory of all they ever held.

    Args:
        source: Path or bytes of an ONNX file.
        mutable: The stored numbers that will be changed, by the names of `hwbench.stored`.
    """

    def __init__(self, source: Path | bytes, mutable: Collection[str]) -> None:
        import onnx  # only sessions that change stored numbers pay for these imports

        from hwbench.stored import Inventory

        model = onnx.load(source) if isinstance(source, Path) else onnx.load_model_from_string(source)
        places = [place for place in Inventory.of(model).places if place.name in mutable]
        stored = model.graph.initializer
        self._tensors: dict[str, Any] = {}
        self._owners = _Owners(model, [place for place in places if place.owner[-1][0] != "initializer"])
        names = {place.name for place in places if place.owner[-1][0] == "initializer"}
        for tensor in [tensor for tensor in stored if tensor.name in names]:
            self._tensors[tensor.name] = onnx.TensorProto()
            self._tensors[tensor.name].CopyFrom(tensor)
            stored.remove(tensor)
        self._rest: bytes = model.SerializeToString()

    def patched(self, changes: Mapping[str, Array]) -> bytes:
        """The serialized model with ``changes`` (name to new content) applied.

        Raises:
            InputError: No such stored numbers, or another dtype or shape.
        """
        import onnx
        from onnx import numpy_helper

        inside = {name: value for name, value in changes.items() if name in self._owners}
        for name, value in changes.items():
            if name in inside:
                continue
            if name not in self._tensors:
                raise InputError(f"the model has no initializer {name!r}")
            old, new = self._tensors[name], numpy_helper.from_array(value, name)
            if (old.data_type, list(old.dims)) != (new.data_type, list(new.dims)):
                raise InputError(
                    f"initializer {name!r} keeps its dtype and shape; {value.dtype} {value.shape} does not fit"
                )
            self._tensors[name] = new
        self._owners.change(inside)
        behind = onnx.ModelProto()
        behind.graph.initializer.extend(self._tensors.values())
        return b"".join([self._rest, *self._owners.parts, behind.SerializeToString()])


class _Owners:
    """The nodes and functions of a model that hold numbers to be changed, taken out of it with all around them.

    Attributes:
        parts: Serialized models that hold the nodes and functions in their order, to be merged.
    """

    def __init__(self, model: Any, places: Collection[Any]) -> None:
        self._places = {place.name: place for place in places}
        self._values: dict[str, Array] = {}
        self._original: dict[Any, bytes] = {}
        self._at: dict[Any, int] = {}
        self.parts: list[bytes] = []
        owners = {place.owner for place in places}
        for container, field, path in ((model.graph, "node", (("graph", None),)), (model, "functions", ())):
            messages = getattr(container, field)
            if not any(owner[-1][0] == field for owner in owners):
                continue
            for index, message in enumerate(messages):
                owner = (*path, (field, index))
                if owner in owners:
                    self._original[owner], self._at[owner] = message.SerializeToString(), len(self.parts)
                self.parts.append(_alone(field, message))
            del messages[:]

    def __contains__(self, name: str) -> bool:
        return name in self._places

    def change(self, changes: Mapping[str, Array]) -> None:
        """Put new numbers in their places.

        Raises:
            InputError: Another dtype or shape.
        """
        values = {**self._values, **changes}
        made = {owner: self._changed(owner, values) for owner in {self._places[name].owner for name in changes}}
        self._values = values
        for owner, part in made.items():
            self.parts[self._at[owner]] = part

    def _changed(self, owner: Any, values: Mapping[str, Array]) -> bytes:
        """A node or function with the numbers of all its places that are ever changed."""
        import onnx

        field = owner[-1][0]
        message = onnx.NodeProto() if field == "node" else onnx.FunctionProto()
        message.ParseFromString(self._original[owner])
        for name, value in values.items():
            place = self._places[name]
            if place.owner != owner:
                continue
            old = place.read(message, len(owner))
            if (old.dtype, old.shape) != (value.dtype, value.shape):
                raise InputError(f"{name!r} keeps its dtype and shape; {value.dtype} {value.shape} does not fit")
            if old.tobytes() != value.tobytes():
                place.write(message, value, len(owner))
        return _alone(field, message)


def _alone(field: str, message: Any) -> bytes:
    """A node or a function as a serialized model that has nothing else."""
    import onnx

    model = onnx.ModelProto()
    (model.graph.node if field == "node" else model.functions).append(message)
    serialized: bytes = model.SerializeToString()
    return serialized
