"""What the workers of a job have recorded of their progress, read by the parent while they run, and by later workers."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hwbench.worker.protocol import PROGRESS_FILE


@dataclass(frozen=True)
class Progress:
    """How far the variants of a job have come.

    Attributes:
        finished: Variant to its data.
        current: The variant that was started and not finished; None between variants.
        load_s: Seconds from the first worker's start to its first variant; None before it.
        seconds: Variant to the seconds it took, for those that are finished.
        silence: Variant to the longest time within it that passed without a sign of life, for those that are finished.
        last: Time of the last record, on the monotonic clock; None before the first.
    """

    finished: Mapping[str, Any]
    current: str | None
    load_s: float | None = None
    seconds: Mapping[str, float] = field(default_factory=dict)
    silence: Mapping[str, float] = field(default_factory=dict)
    last: float | None = None

    @classmethod
    def read(cls, folder: Path) -> Progress:
        """What the workers of the job in ``folder`` have recorded."""
        finished: dict[str, Any] = {}
        seconds: dict[str, float] = {}
        silence: dict[str, float] = {}
        current, load_s, began, longest, last = None, None, 0.0, 0.0, None
        for record in _records(folder / PROGRESS_FILE):
            longest, last = max(longest, record["clock"] - (last or record["clock"])), record["clock"]
            if "done" in record:
                current, name = None, record["done"]
                finished[name], seconds[name], silence[name] = record["data"], record["at"] - began, longest
            elif "start" in record:
                load_s, began, longest = record["at"] if load_s is None else load_s, record["at"], 0.0
                current = record["start"]
        return cls(finished, current, load_s, seconds, silence, last)


def count_finished(folder: Path) -> int:
    """Number of variants that the workers of the job in a folder have finished so far."""
    path = folder / PROGRESS_FILE
    lines = path.read_bytes().splitlines() if path.exists() else []
    return sum(line.startswith(b'{"done": ') and line.endswith(b"}") for line in lines)


def _records(path: Path) -> Iterator[dict[str, Any]]:
    """The lines of a progress file, but for those that a worker's death cut off."""
    for line in path.read_text(encoding="utf-8").splitlines() if path.exists() else ():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        yield record
