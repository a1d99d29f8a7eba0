"""What parent and worker say to each other: a job file in, a result file out, arrays as ``.npy`` files beside them."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np

from hwbench.backend import Backend, load_backend
from hwbench.errors import HwbenchError
from hwbench.integrity import SEAL, DamagedError, file_sha256, read_sealed, require_intact, sealed

PROTOCOL = 1
JOB_FILE = "job.json"
RESULT_FILE = "result.json"
DONE_FILE = "done.json"
# In the data of a job that ended in error: what the user gave was refused, rather than something broken.
REFUSED = "refused"
PROGRESS_FILE = "progress.jsonl"
# Prefix of the name of a variant's control, the same variant without its disturbance.
CONTROL = "control of "
# The least time between two progress records, in seconds.
_BEAT_S = 1.0
# Detail of a job that ended because its `Limits.stop_s` was over, with nothing to show for it.
STOPPED = "ended by the run's budget"
# The machine hwbench itself runs on, as `Job.machine` names it.
LOCAL: Mapping[str, str] = {"kind": "local"}

# What the language, the C++ library, the C library and the runtimes say when memory is short.
_OUT_OF_MEMORY = (
    "MemoryError",
    "bad_alloc",
    "Cannot allocate memory",
    "Failed to allocate memory",
    "Memory allocation still failed",
    "failed to map segment from shared object",
    "CUDA out of memory",
)

JobStatus = Literal["ok", "error", "unavailable", "timeout", "oom", "crash"]
# Statuses of a worker that did not end by itself.
DEATHS: tuple[JobStatus, ...] = ("crash", "timeout", "oom")
# In `JobResult.deaths`: the job as a whole, or what is between its variants.
WORKER = "worker"


@dataclass(frozen=True)
class Limits:
    """What a job's process tree may use.

    Attributes:
        memory_mib: Cap on its memory, in MiB.
        cpu_quota: Processor time it may use per second of wall time, in cores.
        processors: The processors it may run on, by their numbers; None for those that hwbench may use itself.
        timeout_s: Wall time after which a worker is killed, in seconds, from its start or from when it last began or finished
            a variant, or gave a sign of life within one: how much a job has to do is not a reason to fail it.
        stop_s: Wall time after which the job ends, in seconds, with the variants that are finished; None for as long as it
            takes. The budget of a run sets it.
    """

    memory_mib: int | None = None
    cpu_quota: float | None = None
    timeout_s: float = 600.0
    processors: tuple[int, ...] | None = None
    stop_s: float | None = None


@dataclass(frozen=True)
class Job:
    """One piece of work for a worker.

    Attributes:
        task: ``module:function`` of the loop to run; the function takes the `JobContext` and returns a JSON object.
        params: The task's arguments, JSON only. Files are named by absolute path.
        backend: ``module:Class`` of the backend; empty if the task needs none.
        options: The backend's options.
        limits: What the process tree may use.
        exclusive: Whether it must run alone on the machine (it measures time or memory).
        variants: Names of the parts of the job that are run, and stored, one after the other. A worker that dies in one
            of them is started again for it alone, and then for the rest, so that a crash costs that variant alone.
        control: Whether the disturbance of a variant may itself end the worker. The task then knows every variant's control
            too, named with `CONTROL`, which runs where the variant's worker died each time.
        may_time_out: Whether a time-out is a result of the job; its limit then counts from the start.
        identity: Content hashes that stand for the files named in ``params``, so that equal work has an equal key
            wherever its files lie; keys of ``params`` whose values are paths, to those hashes.
        files: The files that ``params`` name, and those that must lie beside them (external data): the only files of the
            user's that its worker can read, and what travels to another machine. Strings of ``params`` that are equal to one
            of them are what is renamed there.
        machine: Where it is to run: the arguments of `hwbench.targets.open_target`.
        own_copy: Folder of a `hwbench.targets.own_copy.OwnCopy` that it runs from, nothing of which is in memory when a
            worker starts; empty for the files that everybody uses, in whatever state they are. Local machines only.
        block: Where an exclusive job is one of several launches: those of one block run before those of the next. Not part
            of the work.
    """

    task: str
    params: Mapping[str, Any] = field(default_factory=dict)
    backend: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    limits: Limits = Limits()
    exclusive: bool = False
    variants: tuple[str, ...] = ()
    control: bool = False
    may_time_out: bool = False
    identity: Mapping[str, str] = field(default_factory=dict)
    files: tuple[str, ...] = ()
    machine: Mapping[str, str] = field(default_factory=lambda: LOCAL)
    own_copy: str = ""
    block: int | None = None

    @cached_property
    def key(self) -> str:
        """A name for this work: equal jobs have equal keys, so that they run once and can be resumed."""
        content = {
            "task": self.task,
            "params": {name: self.identity.get(name, value) for name, value in self.params.items()},
            "backend": self.backend,
            "options": dict(self.options),
            "limits": [self.limits.memory_mib, self.limits.cpu_quota, self.limits.processors],
            "variants": self.variants,
            "machine": dict(self.machine),
            "own_copy": bool(self.own_copy),
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class JobResult:
    """How a job ended.

    Attributes:
        status: ok, or the classified end. A job with variants is ok if one of them ran, or ended its worker by its own
            disturbance; the others are in ``failed``.
        folder: Where its arrays lie.
        data: What the task returned; the data of each variant under ``"variants"``.
        detail: The reason where the status is not ok.
        failed: Variant to (status, reason), for the variants that failed: each worker that ran one died, or it ended in error.
        caused: Those of the failed variants whose disturbance ended the workers: their controls ran.
        deaths: Variant, or `WORKER` for what happened outside of one, to the reasons of the deaths of its workers.
        unfinished: Variants that were not run because `Limits.stop_s` was over.
        usage: Memory, in MiB. From the worker itself: ``peak_mib`` (its highest resident set), ``anon_mib`` and
            ``file_mib`` (its resident set at the end), ``children_peak_mib`` where it had children. Under a limit:
            ``mechanism``, ``cap_mib``, ``cpu_quota``, ``processors`` and, over the whole process tree, the figures of
            `hwbench.targets.cgroups.Group.memory_usage`.
    """

    status: JobStatus
    folder: Path
    data: Mapping[str, Any] = field(default_factory=dict)
    detail: str = ""
    failed: Mapping[str, tuple[JobStatus, str]] = field(default_factory=dict)
    caused: Sequence[str] = ()
    deaths: Mapping[str, Sequence[str]] = field(default_factory=dict)
    usage: Mapping[str, Any] = field(default_factory=dict)
    unfinished: Sequence[str] = ()

    @property
    def ok(self) -> bool:
        """Whether it was carried out, but for the variants in `failed` and `unfinished`."""
        return self.status == "ok"

    @property
    def unexplained(self) -> dict[str, tuple[JobStatus, str]]:
        """The failed variants whose disturbance is not the cause: errors, never outcomes."""
        return {name: failure for name, failure in self.failed.items() if name not in self.caused}

    @property
    def is_final(self) -> bool:
        """True if a resumed run need not repeat the job: it is complete, and nothing else ended its workers."""
        died = any(status in DEATHS for status, _ in self.unexplained.values())
        return self.ok and not self.unfinished and not died

    def store(self) -> None:
        """Keep this result in its folder, with the hashes of its files, so that `load` finds it after an interruption."""
        record = {key: value for key, value in vars(self).items() if key != "folder"}
        files = {path.name: file_sha256(path) for path in sorted(self.folder.iterdir()) if _is_result(path)}
        done = {"protocol": PROTOCOL, "job": self.folder.name, "files": files, **record}
        write_json(self.folder / DONE_FILE, sealed(done))

    @classmethod
    def load(cls, folder: Path) -> JobResult | None:
        """The result kept in a folder; None if there is none.

        Raises:
            DamagedError: It is not what `store` left for the job of that name; the job has to be done again.
        """
        try:
            record = read_sealed(folder / DONE_FILE)
        except FileNotFoundError:
            return None
        except DamagedError as error:
            raise DamagedError(f"{DONE_FILE}: {error}") from error
        if (record.pop("protocol", None), record.pop("job", None)) != (PROTOCOL, folder.name):
            raise DamagedError(f"{DONE_FILE} is of another job, or of another version")
        require_intact(folder, record.pop("files"))
        del record[SEAL]
        return cls(folder=folder, **record)

    def array(self, name: str) -> np.ndarray[Any, np.dtype[Any]]:
        """An array the task wrote, memory-mapped."""
        loaded: np.ndarray[Any, np.dtype[Any]] = np.load(self.folder / f"{name}.npy", mmap_mode="r", allow_pickle=False)
        return loaded


@dataclass(frozen=True)
class JobContext:
    """What a task is given: the worker's side of a `Job`.

    Attributes:
        folder: The job's folder; its arrays are written here.
        params: The task's arguments.
        backend: ``module:Class`` of the backend; empty if the task needs none.
        options: The backend's options.
        variants: Names of the variants still to do, in order.
        deadline: When the job is to end, on the machine's monotonic clock; None for whenever it does.
        began: The monotonic clock when the job began.
    """

    folder: Path
    params: Mapping[str, Any]
    backend: str = ""
    options: Mapping[str, Any] = field(default_factory=dict)
    variants: tuple[str, ...] = ()
    deadline: float | None = None
    began: float = field(default_factory=time.monotonic)
    _beats: list[float] = field(default_factory=lambda: [0.0])

    def load_backend(self) -> Backend:
        """The backend this job is for; its sessions know where the graph has its batch."""
        backend = load_backend(self.backend)
        backend.batch_axes = self.params.get("batch_axes", {})
        return backend

    def in_time(self) -> Iterator[str]:
        """The variants still to do, in order, as long as one more, as long as the longest so far, ends before the deadline."""
        last, longest = time.monotonic(), 0.0
        for variant in self.variants:
            if self.deadline is not None and longest and last + longest > self.deadline:
                return
            yield variant
            now = time.monotonic()
            last, longest = now, max(longest, now - last)

    def start(self, variant: str) -> None:
        """Say that ``variant`` begins: if the worker dies from here on, it died in it."""
        self._record({"start": variant})

    def done(self, variant: str, data: Mapping[str, Any]) -> None:
        """Say that ``variant`` is finished and keep its data (JSON), whatever happens to the worker later."""
        self._record({"done": variant, "data": dict(data)})

    def alive(self) -> None:
        """Record that a part of the work is done, from which the time limit counts anew; cheap enough for every batch."""
        if time.monotonic() - self._beats[0] >= _BEAT_S:
            self._record({"alive": True})

    def save(self, name: str, array: np.ndarray[Any, np.dtype[Any]]) -> None:
        """Write an array that `JobResult.array` reads back."""
        np.save(self.folder / f"{name}.npy", array, allow_pickle=False)

    def _record(self, line: Mapping[str, Any]) -> None:
        self._beats[0] = now = time.monotonic()
        line = {**line, "at": now - self.began, "clock": now}
        # One unbuffered write; the newline before it ends what a killed worker may have left half written.
        with (self.folder / PROGRESS_FILE).open("ab", buffering=0) as file:
            file.write(b"\n" + json.dumps(line).encode() + b"\n")


class ProtocolError(HwbenchError):
    """A job or result file of another version of hwbench."""


def _is_result(path: Path) -> bool:
    """True for files that the task wrote; the others are logs and messages between parent and worker."""
    talk = {JOB_FILE, RESULT_FILE, DONE_FILE, PROGRESS_FILE}
    return path.is_file() and path.name not in talk and path.suffix != ".log" and not path.name.startswith(".")


def out_of_memory(message: str) -> bool:
    """Whether an error message says that memory ran out."""
    return any(sign in message for sign in _OUT_OF_MEMORY)


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Write a JSON file so that a reader sees all of it or nothing."""
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(json.dumps(content))
    partial.replace(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a file written by `write_json`.

    Raises:
        ProtocolError: It comes from another version of the protocol.
    """
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    if content.get("protocol") != PROTOCOL:
        raise ProtocolError(
            f"{path}: job protocol {content.get('protocol')}, this hwbench speaks {PROTOCOL}; "
            "use one version on both sides"
        )
    return content
