"""Results of launches written by hand: what workers leave behind."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.worker.protocol import JobResult

ACCOUNT = {
    "wall_s": 0.1, "own_s": 0.1, "machine_s": 0.1, "others_s": 0.0, "steal_s": 0.0, "waiting_s": 0.0,
    "throttled_s": None, "switches": 0.0,
}  # fmt: skip


def launched(
    folder: Path, points: Mapping[str, Sequence[float]], reasons: Sequence[str] = (), **changes: Any
) -> JobResult:
    """The result of one launch: each point's durations in milliseconds; with ``reasons`` its window was disturbed."""
    folder.mkdir(parents=True)
    variants = {}
    for name, durations in points.items():
        np.save(folder / f"{name}.npy", (np.asarray(durations) * 1e6).astype(np.int64))
        variants[name] = {
            "load_ns": 5_000_000, "first_run_ns": 2_000_000, "warm_up": 3, "steady": True, "kept": [len(durations)],
            "windows": [{**ACCOUNT, "reasons": list(reasons)}], "disturbed": bool(reasons),
        }  # fmt: skip
    return JobResult("ok", folder, {"variants": variants}, **changes)
