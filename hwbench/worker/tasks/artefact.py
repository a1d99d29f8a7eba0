"""Task: fault trials in the bytes of a build's file, each in a process of its own."""

from __future__ import annotations

import shutil
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hwbench.backend import Array, Session
from hwbench.faults.fault import Fault
from hwbench.npy import rows
from hwbench.worker.children import Child, in_child
from hwbench.worker.chunks import Chunks
from hwbench.worker.outcomes import Outcomes
from hwbench.worker.protocol import JobContext
from hwbench.worker.rebuilds import attempted

# A trial may take so many times as long as the fault-free run, and so many seconds more; beyond that it hangs.
_PATIENCE, _GRACE_S = 10, 20.0
# A trial may have so many times the memory of the fault-free run, and so many bytes more: a damaged shape asks for any amount.
_ROOM, _SPARE = 4, 1 << 30
# Processes of a trial that must die before that counts; that must hang.
_DEATHS, _HANGS = 3, 2
# Part of the time limit that the fault-free run may take at most, for a time-out to count.
_WELL_WITHIN = 0.25


def run(job: JobContext) -> dict[str, Any]:
    """Carry out a shard of trials.

    A trial changes bytes in a copy of the file and forks a process that loads and runs it. One that dies, hangs, needs far more
    memory than the fault-free one, or whose runtime refuses the file, gives nothing: DUE on every input. A death counts only if
    it recurs and the fault-free file then runs. The process that forks never loads the runtime; no trial can touch another.

    Params:
        model, inputs, labels, n, chunk, output, outcome, faults, only_correct, batch: As of `hwbench.worker.tasks.campaign`;
            the elements of the faults are bytes of the file.
        timeout_s: Wall time that no trial may exceed, in seconds.

    Returns:
        ``ended``: how many trials ran, were refused, died or took too long (``ok``, ``refused``, ``crash``, ``timeout``).
        ``repeated``: how many processes died although another one of the same trial did not.
        ``checks``: whether the fault-free output at the end was that of the beginning (``golden_restored``). Arrays as of
        `hwbench.worker.tasks.campaign`.
    """
    shard = _Shard(job)
    ended = dict.fromkeys(("ok", "refused", "crash", "timeout"), 0)
    for trial, fault in enumerate(job.params["faults"]):
        ended[shard.carry_out(trial, Fault(*fault))] += 1
        job.alive()
    job.save("counts", shard.outcomes.counts)
    job.save("max_abs_error", shard.outcomes.max_abs_error)
    job.save("loss_change", shard.outcomes.loss_change)
    return {
        "ended": ended,
        "repeated": shard.repeated,
        "checks": {"segmented": False, "reason": "", "golden_restored": shard.is_restored()},
    }


class _Shard:
    """A copy of the file, and what became of the trials in it."""

    def __init__(self, job: JobContext) -> None:
        self._job, self._chunks = job, Chunks(job.params)
        source, folder = Path(job.params["model"]), job.folder / "damaged"
        folder.mkdir(exist_ok=True)
        self.repeated = 0
        self._file, self._content = Path(shutil.copy(source, folder / source.name)), np.fromfile(source, np.uint8)
        self.outcomes = self._counter(len(job.params["faults"]))
        started = time.monotonic()
        first = in_child(self._fault_free, job.params["timeout_s"])
        if first.end != "ok":
            raise RuntimeError(f"the file could not be run as it is, in a process of its own ({first.end})")
        self._usual_s = time.monotonic() - started
        self._limit_s = min(job.params["timeout_s"], _PATIENCE * self._usual_s + _GRACE_S)
        self._golden, self._memory = job.folder / first.said["golden"], _ROOM * first.said["memory"] + _SPARE

    def carry_out(self, trial: int, fault: Fault) -> str:
        """Run one trial; returns how it ended."""
        damaged = fault.apply(self._content)
        damaged.tofile(self._file)
        child = self._settled(in_child(self._outcome, self._limit_s, self._memory))
        self._content.tofile(self._file)
        if child.end != "ok":
            self._require_fault_free(child.end)
        if child.end == "ok" and child.said["loaded"]:
            self.outcomes.take(trial, child.said)
            return "ok"
        for start, golden in self._expected():
            self.outcomes.chunk(trial, start, golden, None)
        return "refused" if child.end == "ok" else child.end

    def _settled(self, child: Child) -> Child:
        """The end of a trial: that of the last process, where those before it died."""
        ends = [child.end]
        while child.end != "ok" and len(ends) < _DEATHS and ends.count("timeout") < _HANGS:
            child = in_child(self._outcome, self._limit_s, self._memory)
            ends.append(child.end)
        self.repeated += len(ends) - 1 if child.end == "ok" else 0
        return child

    def _require_fault_free(self, end: str) -> None:
        """Raise `RuntimeError` where a death may have another cause than the fault."""
        if not self.is_restored():
            raise RuntimeError(f"after a {end}, the fault-free file cannot be run in a process of its own either")
        if end == "timeout" and self._usual_s > _WELL_WITHIN * self._limit_s:
            raise RuntimeError(
                f"the fault-free file takes {self._usual_s:.3g} s in its own process: run again with a higher --timeout"
            )

    def is_restored(self) -> bool:
        """Whether the file gives its fault-free output again, bit for bit."""
        again = in_child(self._fault_free, self._job.params["timeout_s"])
        return again.end == "ok" and bool(again.said["golden"] == self._golden.name)

    def _counter(self, trials: int) -> Outcomes:
        params = self._job.params
        labels = rows(Path(params["labels"]), 0, self._chunks.n) if params["labels"] else None
        return Outcomes(trials, params["outcome"], labels, only_correct=params["only_correct"])

    def _expected(self) -> Iterator[tuple[int, Array]]:
        """The golden output, a chunk at a time."""
        for start in range(0, self._chunks.n, self._chunks.size):
            yield start, rows(self._golden, start, min(start + self._chunks.size, self._chunks.n))

    # What children do

    def _fault_free(self) -> dict[str, Any]:
        with self._job.load_backend().compile(self._file, self._job.options) as session:
            golden = self._chunks.store(session, self._job.folder).name
        status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines())
        return {"golden": golden, "memory": int(status["VmData"].split()[0]) * 1024}

    def _outcome(self) -> dict[str, Any]:
        """Counts of the file as it is now."""
        session = self._loaded()
        if session is None:
            return {"loaded": False}
        counter = self._counter(1)
        for (start, golden), (_, feeds) in zip(self._expected(), self._chunks, strict=True):
            counter.chunk(0, start, golden, attempted(partial(self._chunks.outputs, session, feeds)))
        return {"loaded": True, **counter.record(0)}

    def _loaded(self) -> Session | None:
        """The damaged build; None where the runtime refuses it."""
        if not _stands_alone(self._file):
            return None
        try:
            return self._job.load_backend().compile(self._file, self._job.options)
        except MemoryError:
            raise
        except Exception:  # noqa: BLE001  whatever a runtime raises on a damaged file is that trial's outcome (DUE)
            return None


def _stands_alone(model: Path) -> bool:
    """Whether a damaged file is still a model that holds all its numbers itself; no runtime is sent after other files."""
    try:
        proto = onnx.load(model, load_external_data=False)
    except Exception:  # noqa: BLE001  the decoder's error has no public home; what it cannot read, no runtime loads
        return False
    tensors = onnx.external_data_helper._get_all_tensors(proto)
    return not any(onnx.external_data_helper.uses_external_data(tensor) for tensor in tensors)
