"""What really runs of a model: the graph ONNX Runtime made of it, node by node."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory

import onnx

from hwbench.backend import ExecutedNode, ModelSource
from hwbench_onnxruntime.graph import RECORD, assigned, named_copy
from hwbench_onnxruntime.options import OnnxRuntimeOptions
from hwbench_onnxruntime.origin import origins
from hwbench_onnxruntime.precision import node_precisions
from hwbench_onnxruntime.session import open_session

# These providers compile whole pieces of the graph, of which the runtime knows neither kernels nor precision.
_COMPILING = {"tensorrt", "openvino"}


def executed_nodes(source: ModelSource, options: OnnxRuntimeOptions) -> tuple[ExecutedNode, ...]:
    """The nodes of the graph that runs; for a provider that compiles, the pieces it takes.

    The model is compiled once more, so that a session pays for this only when asked.
    """
    model, folder = named_copy(source)
    content = model.SerializeToString()
    if options.provider in _COMPILING:
        pieces = assigned(open_session(content, options, RECORD | folder))
        return tuple(
            ExecutedNode(
                f"{device}_{index}", "Subgraph", device, onnx_nodes=tuple(n for n in names if n in _names(model))
            )
            for index, (device, names) in enumerate(pieces)
        )
    with TemporaryDirectory(prefix="hwbench-") as place:
        saved = Path(place) / "optimized.onnx"
        weights = {"session.optimized_model_external_initializers_file_name": "weights.bin"}
        pieces = assigned(open_session(content, options, RECORD | folder | weights, saved=str(saved)))
        optimized = onnx.load(saved, load_external_data=False)
    devices = {name: device for device, names in pieces for name in names}
    only = pieces[0][0] if len({device for device, _ in pieces}) == 1 else ""
    return tuple(
        ExecutedNode(
            name=node.name or node.output[0],
            op_type=node.op_type,
            device=only or next((devices[name] for name in behind if name in devices), ""),
            precision=precision,
            kernel=f"{node.domain or 'ai.onnx'}.{node.op_type}",
            onnx_nodes=behind,
        )
        for node, behind, precision in zip(
            optimized.graph.node, origins(model.graph, optimized.graph), node_precisions(optimized), strict=True
        )
    )


def _names(model: onnx.ModelProto) -> frozenset[str]:
    return frozenset(node.name for node in model.graph.node)
