"""Builds an engine from an ONNX model: parse, configure, set the range of batches, build, cache."""

from __future__ import annotations

import logging
from collections import deque

import onnx
import tensorrt as trt

from hwbench.errors import UnsupportedError
from hwbench_tensorrt.cache import EngineCache, cache_key
from hwbench_tensorrt.driver import Device
from hwbench_tensorrt.options import TensorRtOptions

logger = logging.getLogger(__name__)


class MessageLog(trt.ILogger):  # type: ignore[misc]  # the base class has no type information
    """Collects TensorRT's error messages, so that they can stand in ours."""

    def __init__(self) -> None:
        trt.ILogger.__init__(self)
        self._errors: deque[str] = deque(maxlen=5)

    def log(self, severity: trt.ILogger.Severity, msg: str) -> None:
        """Called by TensorRT, from any thread."""
        if severity in (trt.ILogger.Severity.ERROR, trt.ILogger.Severity.INTERNAL_ERROR):
            self._errors.append(msg.strip())
        elif severity == trt.ILogger.Severity.WARNING:
            logger.debug("%s", msg)

    def failure(self, what: str) -> Exception:
        """The exception for a step that failed: `MemoryError` if memory ran out, else `UnsupportedError`."""
        said = " | ".join(self._errors) or "TensorRT gave no reason"
        self._errors.clear()
        message = f"{what}: {said}"
        exhausted = any(words in said.lower() for words in ("out of memory", "outofmemory"))
        return MemoryError(message) if exhausted else UnsupportedError(message)


def load_engine(
    model: onnx.ModelProto, options: TensorRtOptions, device: Device, log: MessageLog, *, refit: bool, keep: bool
) -> trt.ICudaEngine:
    """The engine for ``model``, from the cache if it is there.

    Args:
        model: The model, its weights inside it, under 2 GiB.
        options: The backend's options.
        device: The GPU, current in this thread.
        log: Where TensorRT's messages go.
        refit: Whether its weights will be changed in place.
        keep: Whether to store it in the cache if it had to be built.

    Raises:
        UnsupportedError: TensorRT cannot parse or build it, with TensorRT's reason.
        MemoryError: Building ran out of memory.
    """
    serialized = model.SerializeToString()
    cache = EngineCache(options.cache, trt.__version__, device)
    key = cache_key(serialized, options, refit, trt.__version__, device)
    runtime: trt.Runtime = trt.Runtime(log)
    stored = cache.engine(key)
    engine: trt.ICudaEngine = runtime.deserialize_cuda_engine(stored) if stored else None
    if engine is None:  # also where a stored engine is damaged
        built = _build(serialized, options, log, cache, refit)
        if keep:
            cache.store_engine(key, built)
        engine = runtime.deserialize_cuda_engine(built)
    if engine is None:
        raise log.failure("TensorRT cannot load the engine it built")
    return engine


def parse(model: bytes, parser: trt.OnnxParser) -> None:
    """Fill the parser's network from an ONNX model.

    Raises:
        UnsupportedError: TensorRT cannot, with the node at fault.
    """
    if not parser.parse(model):
        reasons = "; ".join(parser_errors(parser).values()) or "the parser gave no reason"
        raise UnsupportedError(f"TensorRT cannot parse the model: {reasons}")


def parser_errors(parser: trt.OnnxParser) -> dict[int, str]:
    """The parser's complaints: index of the ONNX node (-1 if it is none's) to what is wrong with it."""
    found: dict[int, str] = {}
    for index in range(parser.num_errors):
        error: trt.ParserError = parser.get_error(index)
        where = f"node {error.node_name() or error.node()!r} ({error.node_operator()})"
        found.setdefault(error.node(), f"{where}: {error.desc()}" if error.node() >= 0 else error.desc())
    return found


def _build(model: bytes, options: TensorRtOptions, log: MessageLog, cache: EngineCache, refit: bool) -> bytes:
    trt.init_libnvinfer_plugins(log, "")
    builder: trt.Builder = trt.Builder(log)
    network: trt.INetworkDefinition = builder.create_network()
    parser: trt.OnnxParser = trt.OnnxParser(network, log)  # owns the weights, so it must live until the engine is built
    parse(model, parser)
    config: trt.IBuilderConfig = _configure(builder, options, refit)
    profile: trt.IOptimizationProfile = builder.create_optimization_profile()
    if _set_batches(network, profile, options):
        config.add_optimization_profile(profile)
    timings: trt.ITimingCache = config.create_timing_cache(cache.timings())
    if timings is None or not config.set_timing_cache(timings, ignore_mismatch=False):  # damaged, or another GPU's
        timings = config.create_timing_cache(b"")
        config.set_timing_cache(timings, ignore_mismatch=False)
    built: trt.IHostMemory = builder.build_serialized_network(network, config)
    if built is None:
        raise log.failure("TensorRT cannot build an engine for the model")
    cache.store_timings(bytes(timings.serialize()))
    return bytes(built)


def _configure(builder: trt.Builder, options: TensorRtOptions, refit: bool) -> trt.IBuilderConfig:
    config: trt.IBuilderConfig = builder.create_builder_config()
    config.builder_optimization_level = options.optimization_level
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # what executed() reads; costs nothing at run time
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if not options.tf32:
        config.clear_flag(trt.BuilderFlag.TF32)
    if refit:
        config.set_flag(trt.BuilderFlag.REFIT)
    return config


def _set_batches(network: trt.INetworkDefinition, profile: trt.IOptimizationProfile, options: TensorRtOptions) -> bool:
    """Give every dynamic input its range of batches; False if none is dynamic."""
    dynamic = False
    for index in range(network.num_inputs):
        tensor: trt.ITensor = network.get_input(index)
        shape = tuple(tensor.shape)
        unknown = [axis for axis, size in enumerate(shape) if size < 0]
        if any(axis > 0 for axis in unknown) or tensor.is_shape_tensor:
            raise UnsupportedError(
                f"input {tensor.name!r} has shape {shape}; only the first dimension, the batch, may be dynamic here: "
                "export the model with its other dimensions fixed"
            )
        if unknown:
            dynamic = True
            batches = (options.min_batch, options.opt_batch, options.max_batch)
            profile.set_shape(tensor.name, *((batch, *shape[1:]) for batch in batches))
    return dynamic
