"""Task: run a build over all inputs, once per variant (fault-free, bits flipped, noise added), and store what comes out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hwbench.backend import Array, BatchAxes, Feeds, Session
from hwbench.npy import NpyWriter, chosen_rows, content_hash, rows
from hwbench.topk import best_classes
from hwbench.worker.inputs import InputPerturber, chosen_inputs
from hwbench.worker.patience import Patience
from hwbench.worker.perturb import INPUT_KINDS, RATE_KINDS, WEIGHT_KINDS, WeightPerturber
from hwbench.worker.protocol import CONTROL, JobContext

# Inputs are read this many bytes at a time: enough to amortize the read, little enough to keep memory flat.
_CHUNK_BYTES = 8 << 20


def run(job: JobContext) -> dict[str, Any]:
    """Run every variant of the job.

    Params:
        model: Path of the deployed ONNX.
        inputs: Input name to ``.npy`` path.
        n: How many inputs.
        batch: Inputs per run; the last batch is filled up by repeating its last input.
        outputs: Names of the outputs to keep.
        keep: ``"full"``, or ``"top"`` for the indices of the five largest values, all -1 where an output is not finite.
        variants: Variant name to what is perturbed (`hwbench.worker.perturb`). It runs on all inputs, or with ``inputs`` on
            so many, chosen by its seed and draw (`hwbench.worker.inputs.chosen_inputs`). Its control runs on the same
            inputs, undisturbed.
        mutable: Whether to compile as for variants that change stored numbers, even if there are none.

    Returns:
        Where stored numbers are changed: ``restored``, whether the golden output recomputed at the end was the same, bit for
        bit; ``first``, the hash of that output on the first batch, one per name in ``outputs``. Per variant: ``arrays``, one
        name per output; ``n_faults``; ``golden``, true where nothing was changed, so that nothing was run; ``failed``, why,
        where the runtime refused the faulty build or the memory stopped it; ``memory``, what the memory reports, under
        memory errors.
    """
    variants: Mapping[str, Mapping[str, Any]] = job.params["variants"]
    source = Path(job.params["model"])
    weights = None
    if job.params.get("mutable") or any(variant["kind"] in WEIGHT_KINDS for variant in variants.values()):
        weights = WeightPerturber.from_model(onnx.load(source))
    mutable = tuple(weights.tensors) if weights else ()
    backend, patience = job.load_backend(), Patience()
    with ExitStack() as stack:
        with patience.measured():
            session = stack.enter_context(backend.compile(source, job.options, mutable))
        evaluation = _Evaluation(job, session, weights, patience)
        for name in job.in_time():
            job.start(name)
            if name.startswith(CONTROL):
                evaluation.control(variants[name.removeprefix(CONTROL)])
                job.done(name, {})
            else:
                job.done(name, evaluation.variant(variants[name]))
        return {"restored": evaluation.restored(), "first": evaluation.first()} if weights else {}


class _Evaluation:
    """One session's way through the variants."""

    def __init__(self, job: JobContext, session: Session, weights: WeightPerturber | None, patience: Patience) -> None:
        self._job, self._session, self._weights, self._patience = job, session, weights, patience
        self._files = {name: Path(path) for name, path in job.params["inputs"].items()}
        self._n, self._batch = int(job.params["n"]), int(job.params["batch"])
        self._outputs: list[str] = job.params["outputs"]
        self._changed: set[str] = set()
        self._inputs = InputPerturber()
        self._chunk: tuple[int, dict[str, Array]] | None = None
        rates = [variant["rate"] for variant in job.params["variants"].values() if variant["kind"] in RATE_KINDS]
        self._max_rate = max(rates, default=0.0)
        self._known: dict[tuple[int, ...], list[str]] = {}

    def variant(self, variant: Mapping[str, Any]) -> dict[str, Any]:
        if variant["kind"] in WEIGHT_KINDS and self._weights is not None:
            return self._faulty(variant, self._weights)
        self._update({})
        arrays = self._run(variant)
        if variant["kind"] == "golden" and "inputs" not in variant:
            self._known[()] = arrays
        return {"n_faults": 0, "arrays": arrays}

    def control(self, variant: Mapping[str, Any]) -> None:
        """Run a variant's inputs through the undisturbed build, and keep nothing."""
        self._update({})
        for feeds, _ in self._batches({**variant, "kind": "golden"}):
            self._session.run(feeds)

    def restored(self) -> bool:
        """Whether the build gives its golden output again, on the first batch of inputs."""
        self._update({})
        feeds, count = next(self._batches({"kind": "golden"}))
        again = [self._session.run(feeds)[output][:count] for output in self._outputs]
        return all(np.array_equal(a, b) for a, b in zip(self._golden, again, strict=True))

    def first(self) -> list[str]:
        """Hashes of the golden output on the first batch."""
        return [content_hash(output) for output in self._golden]

    def _faulty(self, variant: Mapping[str, Any], weights: WeightPerturber) -> dict[str, Any]:
        changes = weights.changes(variant, self._max_rate)
        record: dict[str, Any] = {
            "n_faults": changes.n_faults,
            **({"memory": changes.memory} if changes.memory else {}),
        }
        if changes.halted:
            return {**record, "arrays": [], "failed": "the memory reported an error that it could not correct"}
        # Error sets of a draw are nested, so an equal number of faults is the same set and gives the same outputs. What a
        # protection leaves of them is not nested, but none is none.
        same = (variant.get("draw", 0), variant.get("inputs", 0), changes.n_faults) if changes.n_faults else ()
        if same in self._known and (variant["kind"] == "bit_errors" or not same):
            return {**record, "arrays": self._known[same]}
        if not same and variant["kind"] != "faults":
            return {**record, "arrays": [], "golden": True}
        try:
            self._update(changes.tensors)
            batches = -(-variant.get("inputs", self._n) // self._batch)
            with self._patience.limited(batches):
                arrays = self._run(variant)
        except (MemoryError, OSError):  # the machine's doing: memory, or a disk that is full
            raise
        except Exception as error:  # noqa: BLE001  whatever a runtime raises on a faulty build is that fault's outcome (DUE)
            return {**record, "arrays": [], "failed": f"{type(error).__name__}: {error}"[:300]}
        if variant["kind"] == "bit_errors":
            self._known[same] = arrays
        return {**record, "arrays": arrays}

    def _run(self, variant: Mapping[str, Any]) -> list[str]:
        top = self._job.params["keep"] == "top"
        with ExitStack() as stack:
            writers: list[NpyWriter] = []
            for feeds, count in self._batches(variant):
                made = self._session.run(feeds)
                # An output may be a single number, which has no first axis to cut.
                values = [np.atleast_1d(made[name])[:count] for name in self._outputs]
                values = [best_classes(value) for value in values] if top else values
                if not writers:
                    writers = [
                        stack.enter_context(NpyWriter(self._job.folder, value.dtype, value.shape[1:]))
                        for value in values
                    ]
                for writer, value in zip(writers, values, strict=True):
                    writer.append(value)
            return [writer.close().path.stem for writer in writers]

    def _update(self, tensors: Mapping[str, Array]) -> None:
        if self._weights is None:
            return
        if not hasattr(self, "_golden"):
            feeds, count = next(self._batches({"kind": "golden"}))
            with self._patience.measured():
                self._golden = [self._session.run(feeds)[output][:count] for output in self._outputs]
        for name in self._changed - tensors.keys():
            self._session.update(name, self._weights.tensors[name])
        for name, value in tensors.items():
            self._session.update(name, value)
        self._changed = set(tensors)

    def _batches(self, variant: Mapping[str, Any]) -> Iterator[tuple[Feeds, int]]:
        axes: BatchAxes = self._job.params.get("batch_axes", {})  # an input without a batch is no signal to disturb
        for indices, chunk in self._chosen(variant):
            for start in range(0, len(indices), self._batch):
                count = min(self._batch, len(indices) - start)
                feeds = {name: value[start : start + count] for name, value in chunk.items()}
                if variant["kind"] in INPUT_KINDS:
                    feeds = {
                        name: self._inputs.perturbed(variant, name, value, indices[start : start + count])
                        if axes.get(name, 0) is not None
                        else value
                        for name, value in feeds.items()
                    }
                if count < self._batch:
                    feeds = {
                        name: np.concatenate([value, np.repeat(value[-1:], self._batch - count, axis=0)])
                        for name, value in feeds.items()
                    }
                yield feeds, count
                self._job.alive()

    def _chosen(self, variant: Mapping[str, Any]) -> Iterator[tuple[Array, dict[str, Array]]]:
        """The inputs that a variant runs on, with their indices in the data, some whole batches at a time."""
        if "inputs" not in variant:
            for first, chunk in self._chunks():
                yield np.arange(first, first + len(next(iter(chunk.values())))), chunk
            return
        indices = chosen_inputs(variant["seed"], variant["draw"], self._n, variant["inputs"])
        if self._step >= self._n:
            ((_, whole),) = self._chunks()
            yield indices, {name: value[indices] for name, value in whole.items()}
            return
        for start in range(0, len(indices), self._step):
            part = indices[start : start + self._step]
            yield part, {name: chosen_rows(file, part) for name, file in self._files.items()}

    @cached_property
    def _step(self) -> int:
        """Inputs in a chunk: whole batches, about `_CHUNK_BYTES`."""
        sample = sum(rows(file, 0, 1).nbytes for file in self._files.values())
        return max(1, _CHUNK_BYTES // (sample * self._batch)) * self._batch

    def _chunks(self) -> Iterator[tuple[int, dict[str, Array]]]:
        """All inputs, a chunk at a time; inputs that fit into one chunk are read once."""
        if self._chunk is not None:
            yield self._chunk
            return
        for first in range(0, self._n, self._step):
            chunk = {name: rows(file, first, min(first + self._step, self._n)) for name, file in self._files.items()}
            if self._step >= self._n:
                self._chunk = (first, chunk)
            yield first, chunk
