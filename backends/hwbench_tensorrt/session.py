"""A compiled engine as a session: run, bind, change weights, and tell what ran."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import tensorrt as trt
from cuda.bindings import runtime as cudart
from google.protobuf.message import DecodeError

from hwbench.backend import Array, ExecutedNode, Feeds, ModelSource, Session, TensorSpec
from hwbench.errors import ModelError, UnsupportedError
from hwbench_tensorrt.driver import Device
from hwbench_tensorrt.dtypes import DTYPES
from hwbench_tensorrt.engine import MessageLog, load_engine
from hwbench_tensorrt.execution import Execution, check_cuda
from hwbench_tensorrt.explicit_int8 import check_explicit_int8
from hwbench_tensorrt.layers import executed_nodes
from hwbench_tensorrt.options import TensorRtOptions
from hwbench_tensorrt.refit import RefittableWeights, refit_is_safe


class TensorRtSession(Session):
    """One engine on one GPU.

    Args:
        options: The backend's options.
        mutable: Names of the initializers whose content will change; if there are any, the engine is refittable.
        device: The GPU.
    """

    def __init__(self, options: TensorRtOptions, mutable: Sequence[str], device: Device) -> None:
        super().__init__(options, mutable)
        self._device = device
        self._log = MessageLog()
        self._refit = bool(mutable) and refit_is_safe()
        self._first = True
        self._engine: trt.ICudaEngine = None
        self._execution: Execution | None = None
        self._weights: RefittableWeights | None = None

    def _load_impl(self, source: ModelSource) -> None:
        self._release()  # first, so that a refused model leaves no engine with other weights behind
        model = read_model(source)
        check_explicit_int8(model)
        check_cuda(cudart.cudaSetDevice(self._device.index))
        # What a change of weights builds anew is used once: only the first engine is worth a place in the cache.
        keep, self._first = self._first, False
        self._engine = load_engine(model, self.options, self._device, self._log, refit=self._refit, keep=keep)
        self.inputs = self._specs(trt.TensorIOMode.INPUT, [value.name for value in model.graph.input])
        self.outputs = self._specs(trt.TensorIOMode.OUTPUT, [value.name for value in model.graph.output])
        self._execution = self._new_execution()
        self._weights = RefittableWeights(self._engine, model, self._log) if self._refit else None

    def _run_impl(self, feeds: Feeds) -> dict[str, Array]:
        execution = self._loaded()
        execution.place(feeds)
        execution.run()
        return execution.fetch()

    def _bind_impl(self, feeds: Feeds) -> Callable[[], object]:
        # An execution of its own, so that neither `run` nor another `bind` moves the memory this one uses.
        self._loaded()
        execution = self._new_execution()
        execution.place(feeds)
        return execution.launcher(self.options.cuda_graph)

    def _update_impl(self, name: str, value: Array) -> None:
        if self._weights is not None and name in self._weights:
            self._weights.set(name, value)
        else:
            super()._update_impl(name, value)

    def _apply_updates(self) -> None:
        """Refit where that is enough, else compile again, with everything that refitting had changed as well."""
        if self._weights is not None and (self._weights.stale or self._pending):
            if not self._pending and self._weights.apply():
                return
            self._pending = {**self._weights.changed, **self._pending}
        super()._apply_updates()

    def _executed_impl(self) -> tuple[ExecutedNode, ...]:
        execution = self._loaded()
        inspector: trt.EngineInspector = self._engine.create_engine_inspector()
        inspector.execution_context = execution.context  # without its shapes, a dynamic engine tells no types
        information = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
        return executed_nodes(information, self._device.label)

    def _compiled_impl(self) -> tuple[str, bytes]:
        engine: trt.ICudaEngine = self._engine
        serialized: trt.IHostMemory = engine.serialize()
        return "tensorrt.engine", bytes(serialized)

    def _close_impl(self) -> None:
        self._release()

    def _release(self) -> None:
        self._engine = self._execution = self._weights = None

    def _loaded(self) -> Execution:
        if self._execution is None:
            raise UnsupportedError("TensorRT could not compile the model with its changed weights: change them again")
        return self._execution

    def _new_execution(self) -> Execution:
        return Execution(self._engine, self.inputs, self.outputs, self._log)

    def _specs(self, mode: trt.TensorIOMode, order: Sequence[str]) -> tuple[TensorSpec, ...]:
        names = [self._engine.get_tensor_name(index) for index in range(self._engine.num_io_tensors)]
        asked = [name for name in names if self._engine.get_tensor_mode(name) == mode]
        return tuple(self._spec(name) for name in sorted(asked, key=order.index))

    def _spec(self, name: str) -> TensorSpec:
        dtype: trt.DataType = self._engine.get_tensor_dtype(name)
        if dtype not in DTYPES:
            raise UnsupportedError(f"tensor {name!r} has type {dtype.name}, which is not run here as input or output")
        if self._engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise UnsupportedError(f"tensor {name!r} holds a shape, which is not run here as input or output")
        shape = tuple(self._engine.get_tensor_shape(name))
        return TensorSpec(name, DTYPES[dtype], tuple(None if size < 0 else size for size in shape))


def read_model(source: ModelSource) -> onnx.ModelProto:
    """The model with its external data inside it.

    Raises:
        ModelError: It is not ONNX.
    """
    try:
        return onnx.load(source) if isinstance(source, Path) else onnx.load_model_from_string(source)
    except DecodeError as error:
        where = source if isinstance(source, Path) else "the model"
        raise ModelError(f"{where} is not an ONNX file: {error}") from error
