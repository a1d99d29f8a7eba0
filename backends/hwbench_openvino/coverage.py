"""Which ONNX nodes OpenVINO takes, and on which device, found by asking it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import onnx

from hwbench.backend import Coverage, NodeCoverage, node_name
from hwbench.errors import UnsupportedError
from hwbench_openvino.options import OpenVinoOptions
from hwbench_openvino.session import check_device, core, read_model, translated, trimmed

_NO_RULE = re.compile(r"No conversion rule found for operations: ([^\n]+)")
_FAILED = re.compile(r"While validating ONNX node '<Node\(\w+\): (.+?)>'")


def model_coverage(path: Path, options: OpenVinoOptions) -> Coverage:
    """Where each node of a model would run, or why it would not."""
    check_device(options.device)
    nodes = onnx.load(path, load_external_data=False).graph.node
    try:
        with translated(f"OpenVINO cannot run {path}"):
            model = read_model(path)
            placed = core().query_model(model, options.device)
    except UnsupportedError as error:
        return _refused(list(nodes), str(error.__cause__), options.device)
    left_out = {op.get_friendly_name() for op in model.get_ops()} - set(placed)
    entries = []
    for node in nodes:
        names = {node_name(node), *node.output}
        if names & left_out:
            reason = f"{options.device} does not take it"
            entries.append(NodeCoverage(node_name(node), node.op_type, False, reason=reason))
        else:  # a node that the reader removed (an Identity, a constant) needs no device
            device = next((placed[name] for name in names if name in placed), options.device)
            entries.append(NodeCoverage(node_name(node), node.op_type, True, device))
    return Coverage(tuple(entries))


def _refused(nodes: list[Any], message: str, device: str) -> Coverage:
    """The coverage of a model that could not be read; where the message names no node, none counts as supported."""
    unknown = {name.strip() for found in _NO_RULE.findall(message) for name in found.split(",")}
    failed = set(_FAILED.findall(message))
    reasons: list[str] = []
    for node in nodes:
        operation = f"{node.domain}.{node.op_type}" if node.domain not in ("", "ai.onnx") else node.op_type
        if any(operation in (name, name.rpartition("-")[0]) for name in unknown):
            reasons.append(f"OpenVINO has no conversion rule for {operation}")
        else:
            reasons.append(trimmed(message) if failed & {node_name(node), *node.output} else "")
    if not any(reasons):
        reasons = [trimmed(message)] * len(nodes)
    return Coverage(
        tuple(
            NodeCoverage(node_name(node), node.op_type, not reason, "" if reason else device, reason)
            for node, reason in zip(nodes, reasons, strict=True)
        )
    )
