"""Task: what of a backend works here. A child of its own, since a runtime without its driver may crash."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from hwbench.cpuid import emulator
from hwbench.worker.protocol import JobContext


def run(job: JobContext) -> dict[str, Any]:
    """The fields of `hwbench.backend.Availability`; where the processor is emulated, with the emulator's version."""
    found = asdict(job.load_backend().probe())
    return {**found, "versions": {**found["versions"], **emulator()}}
