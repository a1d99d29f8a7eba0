"""Fault trials through the whole build, without the engine: one that cannot use it, and the check of those that did."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import onnx

from hwbench.backend import Array, Feeds, Session
from hwbench.faults import names
from hwbench.faults.cuts import GraphCutter
from hwbench.faults.fault import Fault
from hwbench.npy import rows
from hwbench.worker.chunks import Chunks, count_of
from hwbench.worker.outcomes import Outcomes
from hwbench.worker.patience import Patience
from hwbench.worker.perturb import stored_initializers
from hwbench.worker.protocol import JobContext


class Rebuilds:
    """Runs every trial over all inputs by a build that holds its fault.

    A fault in a stored number is put into the build. For one in a tensor between operators the model is cut in two there:
    the first part gives the tensor, the second takes it with the fault in it.

    Args:
        job: The task's job.
        faults: All trials' faults.
        outcomes: Where they are counted.
        chunks: The inputs.
        same: Whether two golden outputs are the same as far as the campaign asks.

    Attributes:
        untold: Trials that no build can tell, as the model cut in two does not give the golden output; they count no input.
    """

    def __init__(
        self,
        job: JobContext,
        faults: Sequence[Fault],
        outcomes: Outcomes,
        chunks: Chunks,
        same: Callable[[Array, Array], bool],
    ) -> None:
        self._folder, self._options, self._output = job.folder, job.options, job.params["output"]
        self._backend, self._model = job.load_backend(), Path(job.params["model"])
        self._faults, self._outcomes, self._chunks, self._same = faults, outcomes, chunks, same
        self._golden_file: Path | None = None
        self._patience = Patience()
        self.untold: list[int] = []

    def run(self, trials: Sequence[int]) -> None:
        """Count trials."""
        for trial in trials:
            self._outcomes.clear(trial)
        between: dict[str, list[int]] = {}
        stored = []
        for trial in trials:
            tensor = names.activation_of(self._faults[trial].tensor)
            if tensor is None:
                stored.append(trial)
            else:
                between.setdefault(tensor, []).append(trial)
        changed = sorted({self._faults[trial].tensor for trial in stored})
        with ExitStack() as sessions:
            with self._patience.measured():
                session = sessions.enter_context(self._backend.compile(self._model, self._options, changed))
                golden = self._golden(session)
            initializers = stored_initializers(onnx.load(self._model)) if stored else {}
            for trial in stored:
                self._stored(session, golden, trial, initializers[self._faults[trial].tensor])
        if between:
            cutter = GraphCutter(onnx.load(self._model))
            for tensor, some in between.items():
                self._between(cutter, tensor, some, golden)

    def control(self, trial: int) -> None:
        """Run a trial's inputs through a build of the same kind that holds no fault, and count nothing."""
        tensor = self._faults[trial].tensor
        changed = [] if names.activation_of(tensor) is not None else [tensor]
        stored = stored_initializers(onnx.load(self._model)) if changed else {}
        with self._backend.compile(self._model, self._options, changed) as session:
            for _, feeds in self._chunks.of(trial):
                for name in changed:
                    session.update(name, stored[name])
                self._chunks.outputs(session, feeds)

    def lost(self) -> list[dict[str, Any]]:
        """The record of each trial (`Outcomes.record`) if it loses every input."""
        with self._backend.compile(self._model, self._options) as session:
            golden = self._golden(session)
        known: dict[tuple[int, int], dict[str, Any]] = {}
        for bounds in map(self._chunks.bounds, range(len(self._faults))):
            if bounds not in known:
                self._outcomes.clear(0)
                for start, stop in self._chunks.cut(*bounds):
                    self._outcomes.chunk(0, start, rows(golden, start, stop), None)
                known[bounds] = self._outcomes.record(0)
        return [known[self._chunks.bounds(trial)] for trial in range(len(self._faults))]

    def _stored(self, session: Session, golden: Path, trial: int, stored: Array) -> None:
        """A trial whose fault is in a stored number."""
        tensor, faulty = self._faults[trial].tensor, self._faults[trial].apply(stored)
        for start, feeds in self._chunks.of(trial):

            def run(feeds: Feeds = feeds) -> Array:
                session.update(tensor, faulty)
                with self._patience.limited():
                    return self._chunks.outputs(session, feeds)

            self._outcomes.chunk(trial, start, rows(golden, start, start + count_of(feeds)), attempted(run))
        session.update(tensor, stored)

    def _between(self, cutter: GraphCutter, tensor: str, trials: Sequence[int], golden: Path) -> None:
        """The trials whose faults are in one tensor between operators."""
        with ExitStack() as sessions:

            def compiled(inputs: Sequence[str], output: str) -> Session:
                part = cutter.segment(inputs, [output]).SerializeToString()
                return sessions.enter_context(self._backend.compile(part, self._options))

            front = None if tensor in cutter.inputs else compiled(cutter.inputs, tensor)
            back = compiled([*cutter.inputs, tensor], self._output)
            for start, feeds in self._chunks:
                expected = rows(golden, start, start + count_of(feeds))
                value = feeds[tensor] if front is None else self._chunks.outputs(front, feeds, tensor)
                if not self._same(self._chunks.outputs(back, {**feeds, tensor: value}), expected):
                    self._give_up(trials)
                    return
                for trial, (first, last) in zip(
                    trials, self._chunks.within(trials, start, len(expected)).tolist(), strict=True
                ):
                    if first < last:
                        made = self._faulty(back, feeds, tensor, value, trial, expected)
                        part = None if made is None else made[first:last]
                        self._outcomes.chunk(trial, start + first, expected[first:last], part)

    def _faulty(
        self, back: Session, feeds: Feeds, tensor: str, value: Array, trial: int, expected: Array
    ) -> Array | None:
        changed, faulty = self._faults[trial].in_rows(value)
        if not len(changed):
            return expected
        whole = value.copy()
        whole[changed] = faulty
        return attempted(lambda: self._chunks.outputs(back, {**feeds, tensor: whole}))

    def _give_up(self, trials: Sequence[int]) -> None:
        self.untold += trials
        for trial in trials:
            self._outcomes.clear(trial)

    def _golden(self, session: Session) -> Path:
        """The file of the fault-free output, made when first asked for."""
        if self._golden_file is None:
            self._golden_file = self._chunks.store(session, self._folder)
        return self._golden_file


def attempted(run: Callable[[], Array]) -> Array | None:
    """What a faulty build gives; None where it cannot be loaded or run."""
    try:
        return run()
    except (MemoryError, OSError):  # the machine's doing: memory, or a disk that is full
        raise
    except Exception:  # noqa: BLE001  whatever a runtime raises on a faulty build is that fault's outcome (DUE)
        return None
