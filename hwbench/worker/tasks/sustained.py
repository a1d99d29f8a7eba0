"""Task: run a build without pause for minutes, and write down how fast it went and how hot the machine became."""

from __future__ import annotations

from pathlib import Path
from time import perf_counter
from typing import Any

import numpy as np

from hwbench.worker import sensors
from hwbench.worker.protocol import JobContext
from hwbench.worker.timing import first_batch, reach_steady_state, uncollected

# Of each slice: samples per run's batch, seconds in runs, seconds on the clock; then what the sensors say.
COLUMNS = ("runs", "run_s", "clock_s", *sensors.COLUMNS)
_WARM_UP_S = 5.0
# Those that count up, of which a slice has what was added.
_COUNTING = ("own_cpu_s", "machine_cpu_s", "held_back_s")


def run(job: JobContext) -> dict[str, Any]:
    """Params: ``model``, ``inputs``, ``batch``, ``slices`` (how many), ``slice_s`` (seconds of each).

    Returns:
        ``warm_up``: runs before the first slice. Array ``slices``: float64 ``[slices, columns]``, see `COLUMNS`; what the
        machine does not say is NaN.
    """
    backend, model = job.load_backend(), Path(job.params["model"])
    counting = [COLUMNS.index(name) - 3 for name in _COUNTING]
    table = np.full((job.params["slices"], len(COLUMNS)), np.nan)
    with backend.compile(model, job.options) as session, uncollected():
        call = session.bind(first_batch(job.params["inputs"], job.params["batch"]))
        warm_up, _ = reach_steady_state(call, _WARM_UP_S)
        machine = sensors.Sensors()
        clock, before = perf_counter(), np.array(machine.read())
        for line in table:
            runs, start = 0, perf_counter()
            while (stop := perf_counter()) - start < job.params["slice_s"] or not runs:
                call()
                runs += 1
            now = np.array(machine.read())
            line[3:] = now
            line[3:][counting] = (now - before)[counting]
            ended = perf_counter()
            line[:3] = runs, stop - start, ended - clock
            clock, before = ended, now
    job.save("slices", table)
    return {"warm_up": warm_up}
