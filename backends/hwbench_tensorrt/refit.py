"""Changes an engine's weights in place, which takes milliseconds where building it anew takes seconds."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx
import tensorrt as trt
from onnx import numpy_helper

from hwbench.backend import Array
from hwbench_tensorrt.dtypes import DTYPES
from hwbench_tensorrt.engine import MessageLog

# Releases whose refittable engines may drop the bias of a matrix product (NVIDIA's release notes).
UNSAFE_RELEASES = ("11.3.",)


def refit_is_safe() -> bool:
    """Whether this TensorRT's refittable engines compute what its other engines do."""
    return not trt.__version__.startswith(UNSAFE_RELEASES)


class RefittableWeights:
    """The initializers of a model that its engine can take new contents of.

    Args:
        engine: A refittable engine.
        model: The model it was built from.
        log: The log the engine was made with.
    """

    def __init__(self, engine: trt.ICudaEngine, model: onnx.ModelProto, log: MessageLog) -> None:
        self._refitter: trt.Refitter = trt.Refitter(engine, log)
        # TensorRT reads new weights where they lie, so the arrays given to it stay here.
        self._values = {tensor.name: numpy_helper.to_array(tensor) for tensor in model.graph.initializer}
        self._types: dict[str, trt.DataType] = {}
        for name in self._values.keys() & set(self._refitter.get_all_weights()):
            prototype: trt.Weights = self._refitter.get_weights_prototype(name)
            value = self._values[name]
            if prototype.size == value.size and DTYPES.get(prototype.dtype) == value.dtype.name:
                self._types[name] = prototype.dtype
        self._changed: set[str] = set()
        self._stale: set[str] = set()

    def __contains__(self, name: str) -> bool:
        return name in self._types

    @property
    def stale(self) -> bool:
        """Whether the engine lags behind `set`."""
        return bool(self._stale)

    @property
    def changed(self) -> Mapping[str, Array]:
        """Everything ever changed, with its present content."""
        return {name: self._values[name] for name in self._changed}

    def set(self, name: str, value: Array) -> None:
        """Change a weight from the next `apply` on."""
        self._values[name] = np.ascontiguousarray(value)
        self._changed.add(name)
        self._stale.add(name)

    def apply(self) -> bool:
        """Bring the engine up to date; False if TensorRT cannot, which leaves it undefined."""
        if not all(self._give(name) for name in self._stale):
            return False
        # What was fused with a changed weight has to be given again, though it did not change.
        missing = self._refitter.get_missing_weights()
        if not all(name in self._types and self._give(name) for name in missing):
            return False
        if not self._refitter.refit_cuda_engine():
            return False
        self._stale.clear()
        return True

    def _give(self, name: str) -> bool:
        value = self._values[name]
        weights: trt.Weights = trt.Weights(self._types[name], value.ctypes.data, value.size)
        given: bool = self._refitter.set_named_weights(name, weights)
        return given
