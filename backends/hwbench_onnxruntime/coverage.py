"""Which ONNX nodes ONNX Runtime takes, and on which provider, found by asking it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import onnx
from onnx import TensorProto, helper, shape_inference

from hwbench.backend import Coverage, NodeCoverage
from hwbench.errors import UnsupportedError
from hwbench_onnxruntime.graph import RECORD, assigned, named_copy
from hwbench_onnxruntime.options import OnnxRuntimeOptions
from hwbench_onnxruntime.session import open_session, trimmed


def model_coverage(path: Path, options: OnnxRuntimeOptions) -> Coverage:
    """Where each node of a model would run, or why it would not.

    Where the whole model is refused, each node is tried alone.
    """
    model, folder = named_copy(path)
    options = replace(options, allow_fallback=True)  # so that the nodes a provider leaves to the CPU can be told
    try:
        session = open_session(model.SerializeToString(), options, RECORD | folder)
    except UnsupportedError as refusal:
        return _tried_alone(model, options, folder, trimmed(str(refusal.__cause__)))
    pieces = assigned(session)
    devices = {name: device for device, names in pieces for name in names}
    # A node that was folded, fused or expanded before nodes were assigned has no provider of its own.
    only = pieces[0][0] if len({device for device, _ in pieces}) == 1 else ""
    return Coverage(
        tuple(NodeCoverage(node.name, node.op_type, True, devices.get(node.name, only)) for node in model.graph.node)
    )


def _tried_alone(model: onnx.ModelProto, options: OnnxRuntimeOptions, folder: dict[str, str], refusal: str) -> Coverage:
    typed = shape_inference.infer_shapes(model)
    values = {value.name: value for value in [*typed.graph.value_info, *typed.graph.input, *typed.graph.output]}
    stored = {tensor.name: tensor for tensor in model.graph.initializer}
    nodes = []
    for node in model.graph.node:
        try:
            session = open_session(_alone(model, node, values, stored).SerializeToString(), options, RECORD | folder)
            device = next((device for device, _ in assigned(session)), options.provider)
            nodes.append(NodeCoverage(node.name, node.op_type, True, device))
        except UnsupportedError as error:
            nodes.append(NodeCoverage(node.name, node.op_type, False, reason=trimmed(str(error.__cause__))))
    if all(node.supported for node in nodes):  # what is refused is the model as a whole: its opset, its shapes
        nodes = [replace(node, supported=False, device="", reason=refusal) for node in nodes]
    return Coverage(tuple(nodes))


def _alone(
    model: onnx.ModelProto,
    node: onnx.NodeProto,
    values: Mapping[str, onnx.ValueInfoProto],
    stored: Mapping[str, onnx.TensorProto],
) -> onnx.ModelProto:
    """A model of one node. Inputs whose type nobody states (unknown operators make them) count as float32."""

    def value(name: str) -> onnx.ValueInfoProto:
        return values.get(name) or helper.make_tensor_value_info(name, TensorProto.FLOAT, None)

    names = [name for name in dict.fromkeys(node.input) if name]
    # an output's type is the runtime's to infer, except where it does not know the operator, which is refused anyway
    outputs = [values.get(name) or onnx.ValueInfoProto(name=name) for name in node.output if name]
    graph = helper.make_graph(
        [node],
        "alone",
        [value(name) for name in names if name not in stored],
        outputs,
        [stored[name] for name in names if name in stored],
    )
    return helper.make_model(
        graph, ir_version=model.ir_version, opset_imports=model.opset_import, functions=model.functions
    )
