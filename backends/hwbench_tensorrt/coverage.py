"""Tells, node by node, what of an ONNX model TensorRT's parser takes."""

from __future__ import annotations

import onnx
import tensorrt as trt

from hwbench.backend import Coverage, NodeCoverage
from hwbench_tensorrt.driver import Device
from hwbench_tensorrt.engine import MessageLog, parser_errors
from hwbench_tensorrt.explicit_int8 import explicit_int8_problems


def model_coverage(model: onnx.ModelProto, device: Device) -> Coverage:
    """One entry per node of ``model``, in graph order."""
    refused = _refused_by_parser(model) | explicit_int8_problems(model)
    return Coverage(
        tuple(
            NodeCoverage(
                node=node.name or node.output[0],
                op_type=node.op_type,
                supported=index not in refused,
                device="" if index in refused else device.label,
                reason=refused.get(index, ""),
            )
            for index, node in enumerate(model.graph.node)
        )
    )


def _refused_by_parser(model: onnx.ModelProto) -> dict[int, str]:
    log = MessageLog()
    trt.init_libnvinfer_plugins(log, "")
    builder: trt.Builder = trt.Builder(log)
    network: trt.INetworkDefinition = builder.create_network()
    parser: trt.OnnxParser = trt.OnnxParser(network, log)
    if parser.supports_model_v2(model.SerializeToString()):
        return {}
    taken: set[int] = set()
    for index in range(parser.num_subgraphs):
        if parser.is_subgraph_supported(index):
            taken.update(parser.get_subgraph_nodes(index))
    errors = parser_errors(parser)
    general = errors.get(-1, "TensorRT's parser does not take it where it stands in this graph")
    return {index: errors.get(index, general) for index in range(len(model.graph.node)) if index not in taken}
