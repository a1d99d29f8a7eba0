"""A model as ONNX Runtime is asked about it: every node named, and each one's provider read back."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import onnx

from hwbench.backend import ModelSource, node_name
from hwbench_onnxruntime.session import PROVIDERS

RECORD = {"session.record_ep_graph_assignment_info": "1"}
_SHORT = {full: short for short, full in PROVIDERS.items()}


def named_copy(source: ModelSource) -> tuple[onnx.ModelProto, dict[str, str]]:
    """A copy of a model with every node named, and the session entries with which its external data are found."""
    folder: dict[str, str] = {}
    if isinstance(source, Path):
        model = onnx.load(source, load_external_data=False)
        folder = {"session.model_external_initializers_file_folder_path": str(source.resolve().parent)}
    else:
        model = onnx.load_model_from_string(source)
    for node in model.graph.node:
        node.name = node_name(node)
    return model, folder


def assigned(session: Any) -> list[tuple[str, tuple[str, ...]]]:
    """The device and node names of each piece of a session's graph.

    Args:
        session: An `onnxruntime.InferenceSession` made with `RECORD`.

    Returns:
        One entry a piece; devices are called what `Availability.devices` calls them.
    """
    pieces = session.get_provider_graph_assignment_info()
    return [
        (_SHORT.get(piece.ep_name, piece.ep_name), tuple(node.name for node in piece.get_nodes())) for piece in pieces
    ]
