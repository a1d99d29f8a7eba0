"""One model compiled by OpenVINO. Importing this module imports the runtime."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import openvino as ov

from hwbench.backend import Array, ExecutedNode, Feeds, ModelSource, Session, TensorSpec
from hwbench.errors import ModelError, UnavailableError, UnsupportedError
from hwbench_openvino.options import OpenVinoOptions

HINTS = {
    "GPU": "install Intel's compute runtime: apt-get install intel-opencl-icd",
    "NPU": "install Intel's NPU driver: https://github.com/intel/linux-npu-driver",
}
_DTYPES = {"f32": "float32", "f64": "float64", "f16": "float16", "bf16": "bfloat16", "boolean": "bool"} | {
    f"{sign}{bits}": f"{name}{bits}" for sign, name in (("i", "int"), ("u", "uint")) for bits in (8, 16, 32, 64)
}


class OpenVinoSession(Session):
    """One model on one device."""

    options: OpenVinoOptions

    def _load_impl(self, source: ModelSource) -> None:
        named = "the model" if isinstance(source, bytes) else str(source)
        with translated(f"OpenVINO cannot run {named}"):
            model = read_model(source)
            check_device(self.options.device)
            self._compiled = core().compile_model(model, self.options.device, _properties(self.options))
            self._request = self._compiled.create_infer_request()
        self.inputs = tuple(_spec(port) for port in model.inputs)
        self.outputs = tuple(_spec(port) for port in model.outputs)

    def _run_impl(self, feeds: Feeds) -> dict[str, Array]:
        _place(self._request, self.inputs, feeds)
        with translated("OpenVINO cannot run the model on these inputs"):
            self._request.infer(share_outputs=True)
        return {
            spec.name: _copied(self._request.get_output_tensor(index), spec) for index, spec in enumerate(self.outputs)
        }

    def _bind_impl(self, feeds: Feeds) -> Callable[[], object]:
        request = self._compiled.create_infer_request()
        _place(request, self.inputs, feeds)
        return functools.partial(request.infer, share_outputs=True)

    def _executed_impl(self) -> tuple[ExecutedNode, ...]:
        from hwbench_openvino.executed import executed_nodes

        return executed_nodes(self._compiled.get_runtime_model(), self._source, self.options.device)

    def _compiled_impl(self) -> tuple[str, bytes]:
        return "openvino.blob", self._compiled.export_model().getvalue()

    def _close_impl(self) -> None:
        del self._request, self._compiled


@functools.lru_cache(maxsize=1)
def core() -> Any:
    """The process's one `openvino.Core`; it loads each device's plugin once."""
    return ov.Core()


def read_model(source: ModelSource) -> Any:
    """An ONNX file as an `openvino.Model`."""
    return core().read_model(source)


def check_device(device: str) -> None:
    """Raise `UnavailableError` unless OpenVINO lists ``device``."""
    listed = core().available_devices
    if device not in listed:
        hint = next((hint for name, hint in HINTS.items() if device.startswith(name)), "")
        raise UnavailableError(f"OpenVINO lists no device {device!r} here, only {', '.join(listed) or 'none'}", hint)


@contextmanager
def translated(doing: str) -> Iterator[None]:
    """Turn the runtime's exceptions into ours; ``doing`` is how their message starts."""
    try:
        yield
    except RuntimeError as error:
        message = trimmed(str(error))
        if "bad_alloc" in message:
            raise MemoryError(message) from error
        if "Unable to read the model" in message or "Could not open the file" in message or "external" in message:
            raise ModelError(
                f"{doing}: {message}; is it a whole ONNX file, with its external data beside it?"
            ) from error
        raise UnsupportedError(f"{doing}: {message}") from error


def trimmed(message: str) -> str:
    """The runtime's message without the places in its sources and its advertisements, on one line."""
    lines = [line.strip() for line in message.split("To facilitate the conversion")[0].splitlines()]
    noise = ("Exception from ", "Check '", "FrontEnd API failed", "Model wasn't fully converted", "Summary:")
    return " ".join(line.removeprefix("-- ") for line in lines if line and not line.startswith(noise)).rstrip(".")


def _properties(options: OpenVinoOptions) -> dict[str, str]:
    asked = {
        "INFERENCE_PRECISION_HINT": options.inference_precision,
        "PERFORMANCE_HINT": options.performance_hint.upper(),
        "CACHE_DIR": options.cache_dir,
    }
    if options.inference_num_threads:
        asked["INFERENCE_NUM_THREADS"] = str(options.inference_num_threads)
    if options.num_streams:
        asked["NUM_STREAMS"] = str(options.num_streams)
    return asked | options.config


def _spec(port: Any) -> TensorSpec:
    name, kind = port.get_any_name(), port.get_element_type().get_type_name()
    if kind not in _DTYPES:
        raise UnsupportedError(f"{name!r} is of type {kind}; inputs and outputs must be tensors of numbers or booleans")
    shape = port.get_partial_shape()
    sizes = () if shape.rank.is_dynamic else tuple(None if size.is_dynamic else size.get_length() for size in shape)
    return TensorSpec(name, _DTYPES[kind], sizes)


def _place(request: Any, inputs: tuple[TensorSpec, ...], feeds: Feeds) -> None:
    """Give ``request`` copies of the feeds: it would not keep memory alive that it shares with numpy."""
    for index, spec in enumerate(inputs):
        value = feeds[spec.name]
        if spec.dtype == "bfloat16":  # a type that numpy does not have; the bits are handed over as they are
            tensor = ov.Tensor(ov.Type.bf16, value.shape)
            tensor.data.view(np.uint16)[...] = value.view(np.uint16)
        else:
            tensor = ov.Tensor(np.asarray(value, order="C"))
        request.set_input_tensor(index, tensor)


def _copied(tensor: Any, spec: TensorSpec) -> Array:
    if spec.dtype == "bfloat16":
        import ml_dtypes

        return np.array(tensor.data.view(np.uint16)).view(ml_dtypes.bfloat16)
    return np.array(tensor.data)
