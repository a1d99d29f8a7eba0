"""Task: samples per second over batch sizes and numbers of threads."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from hwbench.worker.protocol import JobContext
from hwbench.worker.tasks.latency import first_batch, reach_steady_state, time_runs, uncollected


def run(job: JobContext) -> dict[str, Any]:
    """Params: ``model``, ``inputs``, ``seconds`` (per point), ``variants`` (point's name to ``batch`` and ``options``).

    The points are the job's variants: one that the machine cannot carry costs itself alone.

    Returns:
        Per variant ``steady``. Arrays ``<point>``: nanoseconds per run.
    """
    backend, model = job.load_backend(), Path(job.params["model"])
    for name in job.variants:
        job.start(name)
        point = job.params["variants"][name]
        with backend.compile(model, {**job.options, **point["options"]}) as session, uncollected():
            call = session.bind(first_batch(job.params["inputs"], point["batch"]))
            _, steady = reach_steady_state(call, window=20)
            durations = time_runs(call, 10_000, int(job.params["seconds"] * 1e9))
        job.save(name, durations)
        job.done(name, {"steady": steady})
    return {}
