"""The inputs of a fault campaign, a chunk at a time, and what a build gives for them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.backend import Array, Feeds, Session
from hwbench.npy import NpyWriter, chosen_rows, rows


class Chunks:
    """Inputs in ``.npy`` files.

    Args:
        params: A task's parameters ``inputs``, ``n``, ``chunk``, ``output`` and ``batch``; ``order`` and ``ranges`` where
            trials run over some of the inputs (`hwbench.worker.tasks.campaign`).
        alive: Called after every batch that ran.
    """

    def __init__(self, params: Mapping[str, Any], alive: Callable[[], None] = lambda: None) -> None:
        self._alive = alive
        self._files = {name: Path(path) for name, path in params["inputs"].items()}
        self.n: int = params["n"]
        self.size: int = params["chunk"]
        self._output: str = params["output"]
        self._batch: int | None = params["batch"]
        order, ranges = params.get("order"), params.get("ranges")
        self._order = None if order is None else np.array(order, dtype=np.int64)
        self._ranges = None if ranges is None else np.array(ranges, dtype=np.int64)

    def __iter__(self) -> Iterator[tuple[int, dict[str, Array]]]:
        """Index of a chunk's first input, and the chunk."""
        for start, stop in self.cut(0, self.n):
            yield start, self._feeds(start, stop)

    def of(self, trial: int) -> Iterator[tuple[int, dict[str, Array]]]:
        """The inputs of a trial, in chunks."""
        for start, stop in self.cut(*self.bounds(trial)):
            yield start, self._feeds(start, stop)

    def bounds(self, trial: int) -> tuple[int, int]:
        """A trial's first input, and the one after its last."""
        return (0, self.n) if self._ranges is None else (int(self._ranges[trial, 0]), int(self._ranges[trial, 1]))

    def within(self, trials: Sequence[int], start: int, count: int) -> Array:
        """As `bounds`, for trials ``[t]`` and by the places in a chunk: int64 ``[t, 2]``; both equal where there are none."""
        if self._ranges is None:
            return np.tile(np.array([0, count]), (len(trials), 1))
        return np.clip(self._ranges[list(trials)] - start, 0, count)

    def cut(self, first: int, last: int) -> Iterator[tuple[int, int]]:
        """Consecutive inputs in pieces of a chunk's size."""
        return ((start, min(start + self.size, last)) for start in range(first, last, self.size))

    def rows(self, path: Path, start: int, stop: int) -> Array:
        """What a file holds for some of the inputs."""
        return rows(path, start, stop) if self._order is None else chosen_rows(path, self._order[start:stop])

    def _feeds(self, start: int, stop: int) -> dict[str, Array]:
        return {name: self.rows(path, start, stop) for name, path in self._files.items()}

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
            self._alive()
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
