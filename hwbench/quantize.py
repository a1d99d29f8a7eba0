"""Makes the deployed ONNX of a build from a model: folding, quantizing, converting. Runs in a worker of its own."""

from __future__ import annotations

import logging
import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto
from onnx_ir.passes import common

from hwbench.backend import BatchAxes
from hwbench.calibration import RANGES, CalibrationFeeds, calibrate, calibration_method
from hwbench.errors import UnavailableError, UnsupportedError
from hwbench.graph import asked_precisions
from hwbench.model import normalize, read_proto, save
from hwbench.profile import Precision
from hwbench.stored import Inventory
from hwbench.worker.protocol import JobContext

# ONNX Runtime's quantizer takes a second of processor time for 300 outputs, 10 for 1,000 and minutes for 3,000.
MAX_OUTPUTS = 500
# The int4 quantizer takes MatMul and leaves Gemm alone, so a MatMul must not be fused with the addition after it.
_KEPT_APART = {"int4": ("MatMulAddFusion",)}


def run(job: JobContext) -> dict[str, Any]:
    """Task: make a build's ``model.onnx`` in the job's folder.

    Params: ``model`` (path), ``precision`` (a profile's section), ``shapes`` (input to sample shape), ``batch_axes`` (see
    `hwbench.model.Model`; absent if all are 0), ``calibration`` (input to ``.npy`` path; empty if the precision needs none).

    Returns:
        ``contents``: what the deployed file holds, see `contents`; and ``kept_in_float``, the activations that a static
        quantizer was made to leave in float, with the reason, if there are any.
    """
    precision = Precision.model_validate(job.params["precision"])
    target = job.folder / "model.onnx"
    if precision.format == "as-is":
        _normalize(job, target, pin=False)
        return {"contents": contents(target)}
    plain, folded = job.folder / "plain.onnx", job.folder / "folded.onnx"
    _normalize(job, plain, pin=True)
    axes: BatchAxes = job.params.get("batch_axes", {})
    _fold(plain, folded, _KEPT_APART.get(precision.format, ()))
    feeds = CalibrationFeeds(job.params["calibration"], precision.calibration.samples, folded, axes)
    kept = _maker(precision)(folded, target, precision, feeds)
    for leftover in (*job.folder.glob("*.onnx*"), *job.folder.glob(RANGES)):
        if not leftover.name.startswith("model.onnx"):
            leftover.unlink()
    made = contents(target) | ({"kept_in_float": dict(kept)} if kept else {})
    _require_effect(precision, made)
    return {"contents": made}


def _normalize(job: JobContext, target: Path, *, pin: bool) -> None:
    """Normalize the job's model; its dimensions stay dynamic where a branch that is never taken does not admit the data's."""
    source, shapes, axes = Path(job.params["model"]), job.params["shapes"], job.params.get("batch_axes", {})
    normalize(source, target, shapes=shapes, batch_axes=axes, pin=pin)
    if any(node.op_type == "If" for node in read_proto(target).graph.node) and not _loads(target):
        normalize(source, target, shapes=shapes, batch_axes=axes, pin=pin, fix=False)


def _loads(model: Path) -> bool:
    import onnxruntime as ort

    try:
        ort.InferenceSession(model, providers=["CPUExecutionProvider"])
    except ort.capi.onnxruntime_pybind11_state.Fail:
        return False
    return True


def contents(path: Path) -> dict[str, Any]:
    """What a deployed ONNX file holds.

    Returns:
        ``stored``: element type to number of stored elements; ``compute``: format to how many of the operators that multiply
        are asked to compute in it; ``bytes``; ``opset``; ``ir_version``.
    """
    proto = read_proto(path)
    stored: Counter[str] = Counter()
    for place in Inventory.of(proto).places:
        stored[TensorProto.DataType.Name(place.element_type(proto)).lower()] += math.prod(place.shape(proto))
    return {
        "stored": dict(stored),
        "compute": dict(Counter(asked_precisions(path).values())),
        "bytes": sum(file.stat().st_size for file in path.parent.glob("model.onnx*")),
        "opset": {entry.domain or "ai.onnx": entry.version for entry in proto.opset_import},
        "ir_version": proto.ir_version,
    }


def quantizer_versions(precision: Precision) -> dict[str, str]:
    """Packages whose versions decide what a build of this precision holds."""
    from importlib.metadata import PackageNotFoundError, version

    names = ["onnx", "onnx-ir"]
    if precision.format != "as-is":
        names.append("onnxruntime")
    if precision.quantizer == "nncf":
        names.append("nncf")
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "missing"
    return found


Maker = Callable[[Path, Path, Precision, CalibrationFeeds], Mapping[str, str]]
"""Writes the deployed file, and returns the tensors that it keeps in float with the reason."""


def _maker(precision: Precision) -> Maker:
    if precision.format == "int8":
        if precision.quantizer == "nncf":
            return _int8_nncf
        return _int8_dynamic if precision.dynamic else _int8_static
    return {"fp32": _fp32, "fp16": _fp16, "bf16": _bf16, "int4": _int4}[precision.format]


def _fold(source: Path, target: Path, keep: Sequence[str]) -> None:
    """Fold constants and batch normalizations with ONNX Runtime's basic optimizations, offline.

    Args:
        source: The normalized model.
        target: Where to write it.
        keep: Names of optimizers to leave out.
    """
    import onnxruntime as ort

    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    options.optimized_model_filepath = str(target)
    options.log_severity_level = 3
    if _is_large(source):
        options.add_session_config_entry(
            "session.optimized_model_external_initializers_file_name", f"{target.name}.data"
        )
    try:
        ort.InferenceSession(source, options, providers=["CPUExecutionProvider"], disabled_optimizers=list(keep))
    except Exception as error:
        raise UnsupportedError(
            f"ONNX Runtime cannot prepare {source.name} for a build: {str(error).strip()[:500]}"
        ) from error
    onnx.shape_inference.infer_shapes_path(target, target)
    _tidy(target)


def _is_large(model: Path) -> bool:
    """Whether a model of this module's making keeps its weights in a file beside it."""
    return model.with_name(f"{model.name}.data").exists()


def _tidy(path: Path) -> None:
    """Mend what ONNX Runtime leaves behind in a graph that it saves.

    It imports every domain it knows, whether or not another reader does. And of a MatMul and an Add it makes a Gemm whose bias
    may have the shape [1, n], which its own quantizer then trips over.
    """
    model = ir.load(path)
    common.RemoveUnusedOpsetsPass()(model)
    for node in model.graph:
        bias = node.inputs[2] if node.op_type == "Gemm" and len(node.inputs) > 2 else None
        stored = bias.const_value if bias is not None else None
        if bias is not None and stored is not None and stored.shape.rank() == 2 and len(bias.uses()) == 1:
            rows, columns = stored.numpy().shape
            if rows == 1:
                bias.const_value = ir.tensor(stored.numpy().reshape(columns), name=bias.name)
                bias.shape = ir.Shape((columns,))
    onnx.save(ir.to_proto(model), path)  # external data stay where they are


def _fp32(source: Path, target: Path, _precision: Precision, _feeds: CalibrationFeeds) -> Mapping[str, str]:
    save(onnx.load(source), target)
    return {}


def _require_few_outputs(source: Path) -> None:
    outputs = len(read_proto(source).graph.output)
    if outputs > MAX_OUTPUTS:
        raise UnavailableError(
            f"the model has {outputs} outputs, more than the limit of {MAX_OUTPUTS} for static quantization, whose time grows "
            "with the square of their number",
            "export the model with the outputs that are used",
        )


def _int8_static(source: Path, target: Path, precision: Precision, feeds: CalibrationFeeds) -> Mapping[str, str]:
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    kinds = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
    method = precision.calibration.method
    _require_few_outputs(source)
    with _quiet():
        calibrated = calibrate(source, feeds, method, precision.calibration.percentile, large=_is_large(source))
        quantize_static(
            source,
            target,
            quant_format=QuantFormat.QDQ,
            per_channel=precision.per_channel,
            reduce_range=precision.reduce_range,
            activation_type=kinds[precision.activations],
            weight_type=kinds[precision.weights],
            calibrate_method=calibration_method(method),
            calibration_cache_path=calibrated.file,
            nodes_to_exclude=list(calibrated.nodes),
            use_external_data_format=_is_large(source),
            extra_options={
                "ActivationSymmetric": precision.activations == "s8",
                "WeightSymmetric": precision.weights == "s8",
                "QuantizeBias": precision.quantize_bias,
            },
        )
    return calibrated.kept


def _int8_dynamic(source: Path, target: Path, precision: Precision, _feeds: CalibrationFeeds) -> Mapping[str, str]:
    from onnxruntime.quantization import QuantType, quantize_dynamic

    kinds = {"u8": QuantType.QUInt8, "s8": QuantType.QInt8}
    with _quiet():
        quantize_dynamic(
            source,
            target,
            per_channel=precision.per_channel,
            reduce_range=precision.reduce_range,
            weight_type=kinds[precision.weights],
            use_external_data_format=_is_large(source),
        )
    return {}


def _int8_nncf(source: Path, target: Path, precision: Precision, feeds: CalibrationFeeds) -> Mapping[str, str]:
    try:
        import nncf
    except ImportError as error:
        raise UnavailableError("quantizer = 'nncf' needs the package nncf", "pip install 'hwbench-ml[nncf]'") from error
    symmetric = precision.activations == "s8"
    overflow = nncf.OverflowFix.ENABLE if precision.reduce_range else nncf.OverflowFix.DISABLE
    with _quiet():
        calibrated = calibrate(source, feeds, "minmax", 0.0, large=_is_large(source))
    batches = list(feeds.batches())
    model = nncf.quantize(
        onnx.load(source),
        nncf.Dataset(batches),
        preset=nncf.QuantizationPreset.PERFORMANCE if symmetric else nncf.QuantizationPreset.MIXED,
        subset_size=len(batches),
        target_device=nncf.TargetDevice.CPU,
        ignored_scope=nncf.IgnoredScope(names=list(calibrated.nodes)) if calibrated.nodes else None,
        advanced_parameters=nncf.AdvancedQuantizationParameters(overflow_fix=overflow),
    )
    save(model, target)
    return calibrated.kept


def _int4(source: Path, target: Path, precision: Precision, _feeds: CalibrationFeeds) -> Mapping[str, str]:
    from onnxruntime.quantization import QuantFormat
    from onnxruntime.quantization.matmul_nbits_quantizer import DefaultWeightOnlyQuantConfig, MatMulNBitsQuantizer

    # QDQ, so that the file holds real int4 elements in standard ONNX; runtimes fuse them into their own block kernels.
    config = DefaultWeightOnlyQuantConfig(
        block_size=precision.block_size,
        is_symmetric=True,
        quant_format=QuantFormat.QDQ,
        op_types_to_quantize=("MatMul",),
    )
    model = _raised(onnx.load(source), 21)  # the first opset with int4
    with _quiet():
        quantizer = MatMulNBitsQuantizer(
            model, bits=4, block_size=precision.block_size, is_symmetric=True, algo_config=config
        )
        quantizer.process()
    made: onnx.ModelProto = quantizer.model.model
    made.ir_version = max(made.ir_version, 10)
    save(made, target)
    return {}


def _fp16(source: Path, target: Path, _precision: Precision, _feeds: CalibrationFeeds) -> Mapping[str, str]:
    save(_half(onnx.load(source)), target)
    return {}


def _bf16(source: Path, target: Path, _precision: Precision, _feeds: CalibrationFeeds) -> Mapping[str, str]:
    """The float16 conversion's graph, with bfloat16 in place of float16 and weights rounded once, from float32."""
    original = _raised(onnx.load(source), 22)  # the first opset in which convolutions take bfloat16
    weights = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in original.graph.initializer}
    model = _half(original)  # it changes the model it is given
    graph = model.graph
    for tensor in graph.initializer:
        if tensor.data_type == TensorProto.FLOAT16:
            exact = weights[tensor.name] if tensor.name in weights else onnx.numpy_helper.to_array(tensor)
            bf16 = onnx.helper.tensor_dtype_to_np_dtype(TensorProto.BFLOAT16)
            tensor.CopyFrom(onnx.numpy_helper.from_array(exact.astype(np.float32).astype(bf16), tensor.name))
    for value in (*graph.input, *graph.output, *graph.value_info):
        if value.type.tensor_type.elem_type == TensorProto.FLOAT16:
            value.type.tensor_type.elem_type = TensorProto.BFLOAT16
    for node in graph.node:
        for attribute in node.attribute:
            if node.op_type == "Cast" and attribute.name == "to" and attribute.i == TensorProto.FLOAT16:
                attribute.i = TensorProto.BFLOAT16
    save(model, target)
    return {}


def _raised(model: onnx.ModelProto, opset: int) -> onnx.ModelProto:
    version = next(entry.version for entry in model.opset_import if entry.domain == "")
    return model if version >= opset else onnx.version_converter.convert_version(model, opset)


def _half(model: onnx.ModelProto) -> onnx.ModelProto:
    from onnxruntime.transformers.float16 import convert_float_to_float16

    converted = ir.from_proto(convert_float_to_float16(model, keep_io_types=True, disable_shape_infer=True))
    common.TopologicalSortPass()(converted)  # the conversion appends its casts at the end
    sorted_proto: onnx.ModelProto = ir.to_proto(converted)
    return sorted_proto


def _require_effect(precision: Precision, made: Mapping[str, Any]) -> None:
    """A build that asked for small numbers and holds none of them is no build of that precision."""
    stored, compute = made["stored"], made["compute"]
    wanted = {
        "int8": compute.get("int8", 0),
        "int4": stored.get("int4", 0) + stored.get("uint4", 0),
        "fp16": stored.get("float16", 0),
        "bf16": stored.get("bfloat16", 0),
    }
    if not wanted.get(precision.format, 1):
        raise UnavailableError(f"nothing to quantize: no operator of this model takes {precision.format}")


@contextmanager
def _quiet() -> Iterator[None]:
    """Keeps the quantizers' advice about pre-processing, which has been done, out of the job's log."""
    logging.disable(logging.WARNING)
    try:
        yield
    finally:
        logging.disable(logging.NOTSET)
