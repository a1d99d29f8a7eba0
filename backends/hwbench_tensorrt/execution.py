"""Runs an engine: device memory, a CUDA stream and the calls between them, all freed with their last reference."""

from __future__ import annotations

import math
import weakref
from collections.abc import Callable, Sequence
from typing import Any

import ml_dtypes  # noqa: F401  # registers bfloat16 and the 8-bit floats with numpy
import numpy as np
import tensorrt as trt
from cuda.bindings import runtime as cudart

from hwbench.backend import Array, Feeds, TensorSpec
from hwbench.errors import InputError, UnsupportedError
from hwbench_tensorrt.engine import MessageLog


def check_cuda(result: tuple[Any, ...]) -> Any:
    """The value of a CUDA runtime call, None if it has none.

    Raises:
        MemoryError: The GPU's memory is exhausted.
        RuntimeError: The call failed otherwise.
    """
    code, *values = result
    if code != cudart.cudaError_t.cudaSuccess:
        message = f"CUDA error {code.name}: {cudart.cudaGetErrorString(code)[1].decode()}"
        exhausted = code == cudart.cudaError_t.cudaErrorMemoryAllocation
        raise MemoryError(message) if exhausted else RuntimeError(message)
    return values[0] if values else None


class DeviceBuffer:
    """A piece of the GPU's memory.

    Args:
        nbytes: Its size in bytes.
    """

    def __init__(self, nbytes: int) -> None:
        self.nbytes = nbytes
        self.address = int(check_cuda(cudart.cudaMalloc(max(nbytes, 1))))
        weakref.finalize(self, cudart.cudaFree, self.address).atexit = False  # at exit the driver frees everything


class Execution:
    """One execution context of an engine, with its own stream and buffers.

    Args:
        engine: The engine.
        inputs: The engine's inputs.
        outputs: The engine's outputs.
        log: The log the engine was made with.
    """

    def __init__(
        self, engine: trt.ICudaEngine, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec], log: MessageLog
    ) -> None:
        self._inputs, self._outputs, self._log = inputs, outputs, log
        self._context: trt.IExecutionContext = engine.create_execution_context()
        if self._context is None:
            raise log.failure("TensorRT cannot make an execution context")
        self._buffers: dict[str, DeviceBuffer] = {}
        self._stream = check_cuda(cudart.cudaStreamCreate())
        weakref.finalize(self, cudart.cudaStreamDestroy, self._stream).atexit = False
        for spec in inputs:  # defined shapes from the start, which the inspector needs
            if None in spec.shape:
                self._set_shape(spec.name, tuple(engine.get_tensor_profile_shape(spec.name, 0)[1]))

    @property
    def context(self) -> trt.IExecutionContext:
        """TensorRT's execution context."""
        return self._context

    def place(self, feeds: Feeds) -> None:
        """Copy the inputs to the GPU and make room for the outputs.

        Raises:
            InputError: A batch is outside the range the engine was built for.
            UnsupportedError: An output's size depends on the data.
        """
        for spec in self._inputs:
            value = np.ascontiguousarray(feeds[spec.name])
            self._set_shape(spec.name, feeds[spec.name].shape)
            buffer = self._reserve(spec.name, value.nbytes)
            kind = cudart.cudaMemcpyKind.cudaMemcpyHostToDevice
            check_cuda(cudart.cudaMemcpyAsync(buffer.address, value.ctypes.data, value.nbytes, kind, self._stream))
            check_cuda(cudart.cudaStreamSynchronize(self._stream))  # the copy may read `value` until here
        for spec in self._outputs:
            self._reserve(spec.name, math.prod(self._shape(spec.name)) * np.dtype(spec.dtype).itemsize)

    def run(self) -> None:
        """Run once on the inputs placed, and wait for the end."""
        if not self._context.execute_async_v3(int(self._stream)):
            raise self._log.failure("TensorRT cannot run the engine")
        check_cuda(cudart.cudaStreamSynchronize(self._stream))

    def fetch(self) -> dict[str, Array]:
        """Every output's name to a copy of its value."""
        results: dict[str, Array] = {}
        for spec in self._outputs:
            value = np.empty(self._shape(spec.name), np.dtype(spec.dtype))
            address, kind = self._buffers[spec.name].address, cudart.cudaMemcpyKind.cudaMemcpyDeviceToHost
            check_cuda(cudart.cudaMemcpyAsync(value.ctypes.data, address, value.nbytes, kind, self._stream))
            results[spec.name] = value
        check_cuda(cudart.cudaStreamSynchronize(self._stream))
        return results

    def launcher(self, cuda_graph: bool) -> Callable[[], None]:
        """The barest call that runs on the inputs placed; it keeps this execution alive.

        Args:
            cuda_graph: Replay a captured graph instead of launching every kernel.
        """
        self.run()  # TensorRT finishes its own setup in the first run, which must not be captured
        stream, handle = self._stream, int(self._stream)
        synchronize, execute = cudart.cudaStreamSynchronize, self._context.execute_async_v3
        if cuda_graph:
            graph, replay = self._capture(), cudart.cudaGraphLaunch

            def launch() -> None:
                if replay(graph, stream)[0] or synchronize(stream)[0]:
                    raise self._log.failure("replaying the CUDA graph failed")

        else:

            def launch() -> None:
                if not execute(handle) or synchronize(stream)[0]:
                    raise self._log.failure("TensorRT cannot run the engine")

        return launch

    def _capture(self) -> Any:
        mode = cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        check_cuda(cudart.cudaStreamBeginCapture(self._stream, mode))
        enqueued = self._context.execute_async_v3(int(self._stream))
        code, graph = cudart.cudaStreamEndCapture(self._stream)
        if not enqueued or code != cudart.cudaError_t.cudaSuccess:
            raise self._log.failure("the model cannot be captured as a CUDA graph, set cuda_graph = false")
        executable = check_cuda(cudart.cudaGraphInstantiate(graph, 0))
        check_cuda(cudart.cudaGraphDestroy(graph))
        weakref.finalize(self, cudart.cudaGraphExecDestroy, executable).atexit = False
        return executable

    def _set_shape(self, name: str, shape: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, shape):
            raise InputError(
                f"input {name!r}: shape {shape} is outside what the engine was built for; "
                "set min_batch and max_batch so that they include the batch"
            )

    def _shape(self, name: str) -> tuple[int, ...]:
        shape = tuple(self._context.get_tensor_shape(name))
        if any(size < 0 for size in shape):
            raise UnsupportedError(
                f"output {name!r} has a size that depends on the data; only fixed sizes are run here"
            )
        return shape

    def _reserve(self, name: str, nbytes: int) -> DeviceBuffer:
        buffer = self._buffers.get(name)
        if buffer is None or buffer.nbytes < nbytes:
            buffer = self._buffers[name] = DeviceBuffer(nbytes)
            if not self._context.set_tensor_address(name, buffer.address):
                raise self._log.failure(f"TensorRT refuses the memory of {name!r}")
        return buffer
