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
        node is not supported; ``compiled``: name and size of the compiled form, written into the job's folder, where the
        runtime gives it away.
    """
    backend, model = job.load_backend(), Path(job.params["model"])
    coverage = backend.coverage(model, job.options)
    nodes = [asdict(node) for node in coverage.nodes]
    if not coverage.supported:
        return {"nodes": nodes, "executed": []}
    with backend.compile(model, job.options) as session:
        executed = [asdict(node) for node in session.executed()]
        compiled = session.compiled()
    if compiled is None:
        return {"nodes": nodes, "executed": executed}
    name, content = compiled
    (job.folder / name).write_bytes(content)
    return {"nodes": nodes, "executed": executed, "compiled": {"file": name, "bytes": len(content)}}
