"""Copies of an ONNX model in which some initializers hold other numbers: how a session's weights are changed by default."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.errors import InputError


class InitializerPatcher:
    """Makes copies of a model in which some initializers hold other numbers.

    Changes accumulate: each copy holds the latest content of every initializer ever changed. A copy is the serialized rest of
    the model and, behind it, the initializers as a message of their own, which protobuf merges. They are not changed within one
    message: it would keep the memory of all they ever held.

    Args:
        source: Path or bytes of an ONNX file.
        mutable: The initializers that will be changed.
    """

    def __init__(self, source: Path | bytes, mutable: Collection[str]) -> None:
        import onnx  # only sessions that change initializers pay for this import

        model = onnx.load(source) if isinstance(source, Path) else onnx.load_model_from_string(source)
        stored = model.graph.initializer
        self._tensors: dict[str, Any] = {}
        for tensor in [tensor for tensor in stored if tensor.name in mutable]:
            self._tensors[tensor.name] = onnx.TensorProto()
            self._tensors[tensor.name].CopyFrom(tensor)
            stored.remove(tensor)
        self._rest: bytes = model.SerializeToString()

    def patched(self, changes: Mapping[str, np.ndarray[Any, np.dtype[Any]]]) -> bytes:
        """The serialized model with ``changes`` (initializer name to new content) applied.

        Raises:
            InputError: No such initializer, or another dtype or shape.
        """
        import onnx
        from onnx import numpy_helper

        for name, value in changes.items():
            if name not in self._tensors:
                raise InputError(f"the model has no initializer {name!r}")
            old, new = self._tensors[name], numpy_helper.from_array(value, name)
            if (old.data_type, list(old.dims)) != (new.data_type, list(new.dims)):
                raise InputError(
                    f"initializer {name!r} keeps its dtype and shape; {value.dtype} {value.shape} does not fit"
                )
            self._tensors[name] = new
        behind = onnx.ModelProto()
        behind.graph.initializer.extend(self._tensors.values())
        serialized: bytes = self._rest + behind.SerializeToString()
        return serialized
