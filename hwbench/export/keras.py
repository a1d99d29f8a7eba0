"""Keras 3 models to ONNX, by way of ``Model.export``."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.export.base import Exporter
from hwbench.export.inputs import Array, InputShape


class KerasExporter(Exporter):
    """``keras.Model`` on whichever of its backends (TensorFlow, JAX, PyTorch) is active.

    Inputs are passed as the model was built: the only one alone, several as a list in the model's order.
    """

    framework = "keras"
    package = "keras"
    model_class = "Model"
    # Keras needs one of its backends besides; torch is the one whose export needs no further package.
    install = "pip install 'hwbench-ml[keras,torch]'"

    def _reference_impl(self, model: Any, feeds: Mapping[str, Array]) -> list[Array]:
        import keras

        values = [keras.ops.convert_to_tensor(value) for value in feeds.values()]
        result = model(values[0] if len(values) == 1 else values, training=False)
        return [np.asarray(keras.ops.convert_to_numpy(tensor)) for tensor in keras.tree.flatten(result)]

    def _export_impl(self, model: Any, inputs: Sequence[InputShape], path: Path, opset: int) -> None:
        import keras

        specs = [keras.InputSpec(dtype=s.dtype, shape=(None, *s.shape[1:]), name=s.name) for s in inputs]
        signature = specs if len(specs) == 1 else [specs]
        model.export(str(path), format="onnx", verbose=False, input_signature=signature, opset_version=opset)
