"""Makes an exported ONNX file one that travels: a single file, a dynamic batch, old enough versions, no local paths."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import onnx_ir as ir
from onnx_ir.passes import common

from hwbench.errors import InputError, ModelError

IR_VERSION: Final = 10
MIN_OPSET: Final = 18
MAX_OPSET: Final = 21
BATCH: Final = "batch"
_PROTOBUF_LIMIT: Final = 2**31


def make_portable(source: Path, out: Path, output_names: Sequence[str] = ()) -> ir.Model:
    """Rewrite the ONNX file ``source`` (and its external data) as the single file ``out``.

    Args:
        source: What a framework's exporter wrote.
        out: Where to write.
        output_names: New names of the outputs, all of them in order; empty to keep the exporter's.

    Raises:
        ModelError: The file is invalid, the batch fixed, the opset too new, or the weights too large for one file.
        InputError: The number of output names is not that of the outputs.
    """
    try:
        model = ir.external_data.load_to_model(ir.load(source))
    except ir.serde.SerdeError as error:
        raise ModelError(f"the framework's exporter wrote an invalid graph: {error.__cause__ or error}") from error
    opset = model.opset_imports.get("", 0)
    if opset > MAX_OPSET:
        raise ModelError(f"the exporter wrote opset {opset}; the supported runtimes read up to {MAX_OPSET}")
    _free_batch(model.graph)
    _rename_outputs(model.graph, output_names)
    _strip(model)
    model.ir_version = IR_VERSION
    weights = sum(v.const_value.nbytes for v in model.graph.initializers.values() if v.const_value is not None)
    if weights >= _PROTOBUF_LIMIT:
        raise ModelError(f"the weights take {weights} bytes; a single ONNX file holds less than {_PROTOBUF_LIMIT}")
    ir.save(model, out)
    return model


def _free_batch(graph: ir.Graph) -> None:
    """Check that every input's first dimension is dynamic and give it its one name; outputs follow."""
    for value in graph.inputs:
        if value.shape is None or len(value.shape) == 0 or isinstance(value.shape[0], int):
            raise ModelError(f"input {value.name!r} got the fixed shape {value.shape}: the model must take any batch")
    for value in (*graph.inputs, *graph.outputs):
        if value.shape is not None and len(value.shape) > 0 and not isinstance(value.shape[0], int):
            value.shape = ir.Shape([BATCH, *value.shape[1:]])


def _rename_outputs(graph: ir.Graph, names: Sequence[str]) -> None:
    if names and len(names) != len(graph.outputs):
        raise InputError(f"{len(names)} output names ({', '.join(names)}) for {len(graph.outputs)} outputs")
    for value, name in zip(graph.outputs, names, strict=False):
        value.name = name


def _strip(model: ir.Model) -> None:
    """Drop functions (by inlining), what no output needs, and notes on the source: stack traces hold local paths."""
    common.InlinePass()(model)
    common.RemoveUnusedNodesPass()(model)
    common.RemoveUnusedOpsetsPass()(model)
    common.ClearMetadataAndDocStringPass()(model)
    model.metadata_props.clear()
    model.doc_string = None
    for graph in model.graphs():
        graph.metadata_props.clear()
        graph.doc_string = None
        values = {*graph.inputs, *graph.initializers.values()}
        values.update(output for node in graph for output in node.outputs)
        for value in values:
            value.metadata_props.clear()
            value.doc_string = None
