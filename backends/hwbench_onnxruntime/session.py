"""One model compiled by ONNX Runtime. Importing this module imports the runtime."""

from __future__ import annotations

import ctypes
import functools
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import onnxruntime as ort
from onnxruntime.capi import onnxruntime_pybind11_state as state

from hwbench.backend import Array, ExecutedNode, Feeds, ModelSource, Session, TensorSpec
from hwbench.errors import HwbenchError, InputError, ModelError, UnavailableError, UnsupportedError
from hwbench_onnxruntime.options import OnnxRuntimeOptions, Provider

PROVIDERS: dict[Provider, str] = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "openvino": "OpenVINOExecutionProvider",
}
HINTS: dict[Provider, str] = {
    "cuda": "pip install onnxruntime-gpu in place of onnxruntime, and install an NVIDIA driver and CUDA",
    "tensorrt": "pip install onnxruntime-gpu in place of onnxruntime, and install TensorRT and an NVIDIA driver",
    "openvino": "pip install onnxruntime-openvino in place of onnxruntime",
}
_ON_GPU = {"cuda", "tensorrt"}
_LEVELS = {
    "disable": ort.GraphOptimizationLevel.ORT_DISABLE_ALL,
    "basic": ort.GraphOptimizationLevel.ORT_ENABLE_BASIC,
    "extended": ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED,
    "all": ort.GraphOptimizationLevel.ORT_ENABLE_ALL,
}
_BFLOAT16 = 16  # onnx.TensorProto.BFLOAT16, without the memory that importing onnx takes
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(float16)": "float16",
    "tensor(bfloat16)": "bfloat16",
    "tensor(bool)": "bool",
} | {f"tensor({sign}int{bits})": f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)}
_ERRORS = (
    state.EPFail, state.EngineError, state.Fail, state.InvalidArgument, state.InvalidGraph, state.InvalidProtobuf,
    state.NoModel, state.NoSuchFile, state.NotFound, state.NotImplemented, state.RuntimeException,
    RuntimeError,  # what the bindings make of other C++ exceptions
)  # fmt: skip
_DAMAGED = (state.InvalidProtobuf, state.NoModel, state.NoSuchFile)


class OnnxRuntimeSession(Session):
    """One model on one execution provider."""

    options: OnnxRuntimeOptions

    def _load_impl(self, source: ModelSource) -> None:
        self._session = open_session(source, self.options)
        self.inputs = tuple(_spec(node) for node in self._session.get_inputs())
        self.outputs = tuple(_spec(node) for node in self._session.get_outputs())
        # numpy has no bfloat16 of its own, so that the runtime's numpy interface refuses it
        self._plain = all(spec.dtype != "bfloat16" for spec in self.inputs + self.outputs)

    def _run_impl(self, feeds: Feeds) -> dict[str, Array]:
        names = [spec.name for spec in self.outputs]
        with translated("ONNX Runtime cannot run the model on these inputs", InputError):
            if self._plain:
                return dict(zip(names, self._session.run(names, feeds), strict=True))
            values = self._session.run_with_ort_values(names, {name: _to_ort(feeds[name]) for name in feeds})
            return {name: _to_numpy(value) for name, value in zip(names, values, strict=True)}

    def _bind_impl(self, feeds: Feeds) -> Callable[[], object]:
        device = "cuda" if self.options.provider in _ON_GPU else "cpu"
        binding = self._session.io_binding()
        for name, value in feeds.items():
            binding.bind_ortvalue_input(name, _to_ort(value, device, self.options.device_id))
        for spec in self.outputs:
            binding.bind_output(spec.name, device, self.options.device_id)
        return functools.partial(self._session.run_with_iobinding, binding)

    def _executed_impl(self) -> tuple[ExecutedNode, ...]:
        from hwbench_onnxruntime.executed import executed_nodes

        return executed_nodes(self._source, self.options)

    def _compiled_impl(self) -> tuple[str, bytes] | None:
        if self.options.provider not in ("cpu", "cuda"):
            return None  # these providers keep their engines to themselves
        with TemporaryDirectory(prefix="hwbench-") as place:
            saved = Path(place) / "optimized.onnx"
            open_session(self._source, self.options, saved=str(saved))
            return "onnxruntime.onnx", saved.read_bytes()

    def _close_impl(self) -> None:
        del self._session


def open_session(
    source: ModelSource, options: OnnxRuntimeOptions, extra: Mapping[str, str] | None = None, saved: str = ""
) -> Any:
    """An `onnxruntime.InferenceSession` that runs as ``options`` say, or an error; it never falls back silently.

    Args:
        source: Path or bytes of an ONNX file.
        options: How to compile it.
        extra: Session configuration entries of our own; the user's come after them.
        saved: Where to save the optimized graph; empty to save none.

    Raises:
        ModelError: The file is damaged.
        UnsupportedError: The runtime refuses the model or the options.
        UnavailableError: The provider does not work on this machine.
    """
    provider = PROVIDERS[options.provider]
    if provider not in ort.get_available_providers():
        raise UnavailableError(
            f"this build of ONNX Runtime {ort.__version__} has no {provider}", HINTS[options.provider]
        )
    named = "the model" if isinstance(source, bytes) else str(source)
    try:
        with translated(f"ONNX Runtime cannot run {named}"):
            session = _created(source, options, extra or {}, saved)
    except UnsupportedError as error:  # a provider whose libraries are missing looks like one that takes no node
        if provider_works(options.provider):
            raise
        raise _cannot_start(options.provider) from error
    if provider not in session.get_providers():
        raise _cannot_start(options.provider)
    return session


def provider_works(provider: Provider) -> bool:
    """Whether ``provider`` can run a model of one node here."""
    from onnx import TensorProto, helper

    graph = helper.make_graph(
        [helper.make_node("Relu", ["x"], ["y"], "relu")],
        "tiny",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
    )
    model = helper.make_model(graph, ir_version=8, opset_imports=[helper.make_opsetid("", 13)]).SerializeToString()
    try:
        session = _created(model, OnnxRuntimeOptions(provider=provider), {}, "")
        session.run(None, {"x": np.zeros((1, 4), np.float32)})
    except _ERRORS:
        return False
    return PROVIDERS[provider] in session.get_providers()


def _cannot_start(provider: Provider) -> UnavailableError:
    reason = f"{PROVIDERS[provider]} cannot start on this machine: its libraries or driver are missing"
    return UnavailableError(reason, HINTS[provider])


@contextmanager
def translated(doing: str, misfit: type[HwbenchError] = UnsupportedError) -> Iterator[None]:
    """Turn the runtime's exceptions into ours.

    Args:
        doing: How the message starts.
        misfit: What an invalid argument becomes. Damaged files become `ModelError`, memory that cannot be had
            `MemoryError`, everything else `UnsupportedError`.
    """
    try:
        yield
    except _ERRORS as error:
        message = trimmed(str(error))
        if "Failed to allocate memory" in message or "bad_alloc" in message:
            raise MemoryError(message) from error
        if isinstance(error, _DAMAGED) or "No graph was found" in message or "External data" in message:
            raise ModelError(
                f"{doing}: {message}; is it a whole ONNX file, with its external data beside it?"
            ) from error
        kind = misfit if isinstance(error, state.InvalidArgument) else UnsupportedError
        raise kind(f"{doing}: {message}") from error


def _created(source: ModelSource, options: OnnxRuntimeOptions, extra: Mapping[str, str], saved: str) -> Any:
    settings = ort.SessionOptions()
    settings.log_severity_level = 3
    settings.graph_optimization_level = _LEVELS[options.optimization]
    settings.intra_op_num_threads = options.intra_op_threads
    settings.inter_op_num_threads = options.inter_op_threads
    if options.inter_op_threads != 1:
        settings.execution_mode = ort.ExecutionMode.ORT_PARALLEL
    if saved:
        settings.optimized_model_filepath = saved
    entries = {
        "session.x64quantprecision": str(int(options.x64_precision)),
        "session.intra_op.allow_spinning": str(int(options.allow_spinning)),
        "session.inter_op.allow_spinning": str(int(options.allow_spinning)),
        "session.disable_cpu_ep_fallback": str(int(options.provider != "cpu" and not options.allow_fallback)),
        **extra,
        **options.config,
    }
    for key, value in entries.items():
        settings.add_session_config_entry(key, value)
    model = source if isinstance(source, bytes) else str(source)
    return ort.InferenceSession(model, settings, providers=_providers(options), enable_fallback=0)


def _providers(options: OnnxRuntimeOptions) -> list[tuple[str, dict[str, str]]]:
    """The providers, preferred ones first; the runtime adds the CPU's itself, and refuses it where fallback is off."""
    device = {"device_id": str(options.device_id)} if options.provider in _ON_GPU else {}
    asked = [(PROVIDERS[options.provider], device | options.provider_options)]
    if options.provider == "tensorrt" and options.allow_fallback:
        asked.append((PROVIDERS["cuda"], device))
    return asked


def _spec(node: Any) -> TensorSpec:
    if node.type not in _DTYPES:
        raise UnsupportedError(
            f"{node.name!r} is a {node.type}; inputs and outputs must be tensors of numbers or booleans"
        )
    return TensorSpec(
        node.name, _DTYPES[node.type], tuple(size if isinstance(size, int) else None for size in node.shape)
    )


def _to_ort(value: Array, device: str = "cpu", device_id: int = 0) -> Any:
    """A copy of ``value`` on ``device``, kept alive by the object returned."""
    copied = np.array(value, order="C")
    if value.dtype.name == "bfloat16":
        return ort.OrtValue.ortvalue_from_numpy_with_onnx_type(copied.view(np.uint16), _BFLOAT16)
    return ort.OrtValue.ortvalue_from_numpy(copied, device, device_id)


def _to_numpy(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    import ml_dtypes

    shape = value.shape()
    buffer = (ctypes.c_uint16 * prod(shape)).from_address(value.data_ptr())
    return np.array(buffer, dtype=np.uint16).reshape(shape).view(ml_dtypes.bfloat16)


def trimmed(message: str) -> str:
    """The runtime's message without its error code and the place in its sources."""
    message = re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", message.strip())
    message = re.sub(r"^(Load model from .*? failed:)?(Fatal error: )?", "", message)
    return re.sub(r"/\S*onnxruntime\S*\.(?:h|cc):\d+ .*?\) (?=[A-Z])", "", message).strip().rstrip(".")
