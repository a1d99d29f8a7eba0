"""The inputs of a fault campaign, a chunk at a time, and what a build gives for them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.backend import Array, Feeds, Session
from hwbench.npy import NpyWriter, rows


class Chunks:
    """Inputs in ``.npy`` files.

    Args:
        params: A task's parameters ``inputs``, ``n``, ``chunk``, ``output`` and ``batch``.
    """

    def __init__(self, params: Mapping[str, Any]) -> None:
        self._files = {name: Path(path) for name, path in params["inputs"].items()}
        self.n: int = params["n"]
        self.size: int = params["chunk"]
        self._output: str = params["output"]
        self._batch: int | None = params["batch"]

    def __iter__(self) -> Iterator[tuple[int, dict[str, Array]]]:
        """Index of a chunk's first input, and the chunk."""
        for start in range(0, self.n, self.size):
            stop = min(start + self.size, self.n)
            yield start, {name: rows(path, start, stop) for name, path in self._files.items()}

    def outputs(self, session: Session, feeds: Feeds, name: str | None = None) -> Array:
        """What a session gives for a chunk, in batches of the size the graph is fixed to.

        Args:
            session: The session; feeds that it does not take are left out.
            feeds: The chunk.
            name: Which of its outputs; default the one that outcomes are told by.
        """
        taken = {spec.name: feeds[spec.name] for spec in session.inputs}
        count = count_of(taken)
        size = self._batch or count
        parts = []
        for start in range(0, count, size):
            part = {each: value[start : start + size] for each, value in taken.items()}
            short = size - count_of(part)
            full = {each: np.concatenate([value, np.repeat(value[-1:], short, axis=0)]) for each, value in part.items()}
            parts.append(session.run(full)[name or self._output][: size - short])
        return np.concatenate(parts)

    def store(self, session: Session, folder: Path) -> Path:
        """Write what a session gives for all inputs to a file."""
        writer: NpyWriter | None = None
        for _, feeds in self:
            made = self.outputs(session, feeds)
            writer = writer or NpyWriter(folder, made.dtype, made.shape[1:])
            writer.append(made)
        if writer is None:
            raise ValueError("a campaign needs at least one input")
        return writer.close().path


def count_of(feeds: Feeds) -> int:
    """How many inputs a chunk holds."""
    return len(next(iter(feeds.values())))


def identical(a: Array, b: Array) -> bool:
    """Bit for bit, NaN included."""
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()
