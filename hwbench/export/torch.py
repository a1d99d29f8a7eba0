"""PyTorch modules to ONNX, by way of torch.export."""

from __future__ import annotations

import inspect
import logging
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.errors import ModelError
from hwbench.export.base import Exporter
from hwbench.export.inputs import Array, InputShape, random_inputs

# torch.export takes a dimension of size 1 for a constant, so the model is traced with another one.
_TRACED_BATCH = 2


class TorchExporter(Exporter):
    """``torch.nn.Module`` in evaluation mode, traced by torch.export with a dynamic batch.

    Inputs whose names are all parameters of ``forward`` are passed by name, others by position.
    """

    framework = "torch"
    package = "torch"
    model_class = "Module"
    install = "pip install 'hwbench-ml[torch]'"

    def _reference_impl(self, model: Any, feeds: Mapping[str, Array]) -> list[Array]:
        import torch

        args, kwargs = _arguments(model, {name: torch.from_numpy(value) for name, value in feeds.items()})
        with torch.inference_mode():
            return _tensors(model.cpu().eval()(*args, **kwargs))

    def _export_impl(self, model: Any, inputs: Sequence[InputShape], path: Path, opset: int) -> None:
        import onnxscript  # noqa: F401  torch's exporter needs it and, without it, fails with a message of its own
        import torch

        feeds = random_inputs(inputs, _TRACED_BATCH, seed=0)
        args, kwargs = _arguments(model, {name: torch.from_numpy(value) for name, value in feeds.items()})
        batch = torch.export.Dim("batch")
        with _quiet():
            torch.onnx.export(
                model.cpu().eval(),
                args,
                path,
                kwargs=kwargs,
                input_names=[spec.name for spec in inputs],
                dynamic_shapes={name: {0: batch} for name in kwargs} if kwargs else tuple({0: batch} for _ in args),
                opset_version=opset,
                dynamo=True,
                verbose=False,
            )


@contextmanager
def _quiet() -> Iterator[None]:
    """Hold back what torch says of itself on every export: torchvision's absence, deprecations, shared dimensions."""
    registration = logging.getLogger("torch.onnx._internal.exporter._registration")
    level = registration.level
    registration.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="# The axis name: .* will not be used", category=UserWarning)
            warnings.filterwarnings("ignore", message=r".*isinstance\(treespec, LeafSpec\).*", category=FutureWarning)
            yield
    finally:
        registration.setLevel(level)


def _arguments(model: Any, feeds: Mapping[str, Any]) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The positional and keyword arguments of the model's ``forward``."""
    if feeds.keys() <= inspect.signature(model.forward).parameters.keys():
        return (), dict(feeds)
    return tuple(feeds.values()), {}


def _tensors(result: Any) -> list[Array]:
    """The tensors of a model's result, in the order the exporter flattens nested results to."""
    import torch

    if isinstance(result, torch.Tensor):
        host = result.detach().cpu()
        return [np.asarray((host.float() if host.dtype == torch.bfloat16 else host).numpy())]
    if isinstance(result, Mapping):
        return [array for value in result.values() for array in _tensors(value)]
    if isinstance(result, tuple | list):
        return [array for value in result for array in _tensors(value)]
    if result is None:
        return []
    raise ModelError(f"the model returns a {type(result).__name__}; tensors, tuples, lists and dicts can be exported")
