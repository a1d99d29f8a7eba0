"""Task: which nodes of a build its backend takes, and what really ran."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwbench.worker.protocol import JobContext


def run(job: JobContext) -> dict[str, Any]:
    """Params: ``model`` (path).

    Returns:
        ``nodes``: `NodeCoverage` per ONNX node; ``executed``: `ExecutedNode` per node of the compiled graph, or none where a
        node is not supported.
    """
    backend, model = job.load_backend(), Path(job.params["model"])
    coverage = backend.coverage(model, job.options)
    nodes = [asdict(node) for node in coverage.nodes]
    if not coverage.supported:
        return {"nodes": nodes, "executed": []}
    with backend.compile(model, job.options) as session:
        return {"nodes": nodes, "executed": [asdict(node) for node in session.executed()]}
