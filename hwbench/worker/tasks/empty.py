"""Task: nothing. What it takes is what every worker takes: the interpreter, numpy, and the protocol."""

from __future__ import annotations

from typing import Any

from hwbench.worker.protocol import JobContext


def run(_: JobContext) -> dict[str, Any]:
    """Nothing."""
    return {}
