"""Task: load a build and time one batch, from which the time of a run is estimated."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.npy import rows
from hwbench.worker.protocol import JobContext


def run(job: JobContext) -> dict[str, Any]:
    """Run one batch twice, the first time to warm up.

    Params:
        model: Path of the deployed ONNX.
        inputs: Input name to ``.npy`` path.
        n: How many inputs there are.
        batch: Inputs per run; a batch of fewer inputs is filled up by repeating them.

    Returns:
        In seconds, ``load_s``: from the worker's start until the build was loaded; ``compile_s``: of that, the compilation;
        ``input_s``: one input of the batch.
    """
    batch = int(job.params["batch"])
    files = {name: Path(path) for name, path in job.params["inputs"].items()}
    first = {name: rows(file, 0, min(batch, job.params["n"])) for name, file in files.items()}
    feeds = {name: np.resize(value, (batch, *value.shape[1:])) for name, value in first.items()}
    backend = job.load_backend()
    backend.preload()
    loaded = time.monotonic()
    with backend.compile(Path(job.params["model"]), job.options) as session:
        compiled = time.monotonic()
        session.run(feeds)
        start = time.perf_counter()
        session.run(feeds)
        input_s = (time.perf_counter() - start) / batch
    return {"load_s": compiled - job.began, "compile_s": compiled - loaded, "input_s": input_s}
