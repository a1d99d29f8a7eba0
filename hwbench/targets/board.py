"""The Dask worker's side of remote jobs: files kept by content, jobs carried out in fresh child processes.

Every function here is called by name from `hwbench.targets.cluster`, with strings, numbers, bytes and dictionaries of them as
arguments. It imports what a worker needs anyway, and psutil, which Dask needs.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from distributed import Worker, get_worker

from hwbench import __version__
from hwbench.cpu import cpu_flags
from hwbench.host import describe_host, package_versions
from hwbench.targets import sandbox
from hwbench.targets.ending import STDERR_FILE
from hwbench.targets.limits import mechanism
from hwbench.targets.local import STDOUT_FILE, LocalTarget
from hwbench.worker.protocol import JOB_FILE, PROGRESS_FILE, RESULT_FILE, Job, Limits

CACHE_BYTES = 8 * 2**30  # kept between jobs, at most
_RUNTIMES = ("numpy", "onnx", "onnxruntime", "onnxruntime-gpu", "openvino", "tensorrt")
_PROTOCOL_FILES = frozenset({JOB_FILE, RESULT_FILE, PROGRESS_FILE, STDOUT_FILE, STDERR_FILE})
_running: dict[str, LocalTarget] = {}
_hashes: dict[str, Any] = {}  # upload to the hash of what has come


class Depot:
    """Files named by the hash of their content.

    Args:
        home: Its folder, made if missing.
    """

    def __init__(self, home: Path) -> None:
        self._home = home
        home.mkdir(parents=True, exist_ok=True)

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of the contents that are not here."""
        return [digest for digest in digests if not (self._home / digest).is_file()]

    def receive(self, upload: str, digest: str, chunk: bytes, *, last: bool) -> None:
        """Take the next part of a file; with the last one it is here.

        Raises:
            ValueError: What has come is not the content that was announced.
        """
        partial = self._home / f".{upload}"
        with partial.open("ab") as file:
            file.write(chunk)
        _hashes.setdefault(upload, hashlib.sha256()).update(chunk)
        if not last:
            return
        if _hashes.pop(upload).hexdigest() != digest:
            partial.unlink()
            raise ValueError(f"a file that should have the hash {digest} arrived damaged")
        partial.replace(self._home / digest)

    def place(self, digest: str, path: Path) -> None:
        """Give the content a name; it stays there whatever becomes of the depot."""
        os.utime(self._home / digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        os.link(self._home / digest, path)

    def trim(self, size: int) -> None:
        """Remove what was not used for the longest time until ``size`` bytes are left."""
        found = []
        for path in self._home.glob("[!.]*"):
            try:
                status = path.stat()
            except FileNotFoundError:  # another job's end removed it
                continue
            found.append((status.st_mtime_ns, status.st_size, path))
        total = sum(one[1] for one in found)
        for _, bytes_, path in sorted(found):
            if total <= size:
                return
            path.unlink(missing_ok=True)
            total -= bytes_


def fingerprint() -> dict[str, Any]:
    """What two machines must have in common for the same numbers."""
    versions = package_versions()
    return {
        "hwbench": __version__,
        "machine": platform.machine(),
        "isa": list(cpu_flags()),
        "packages": {name: versions[name] for name in _RUNTIMES if name in versions},
    }


def differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> str:
    """In what two fingerprints differ, in words; empty if in nothing that changes numbers."""
    told = [f"{name} {theirs[name]}, not {ours[name]}" for name in ("hwbench", "machine") if ours[name] != theirs[name]]
    for name, version in ours["packages"].items():  # what is not there at all is told by the jobs that need it
        if theirs["packages"].get(name, version) != version:
            told.append(f"{name} {theirs['packages'][name]}, not {version}")
    lacking, more = set(ours["isa"]) - set(theirs["isa"]), set(theirs["isa"]) - set(ours["isa"])
    if ours["machine"] == theirs["machine"] and (lacking or more):
        said = [f"{word} {', '.join(sorted(flags))}" for word, flags in (("without", lacking), ("with", more)) if flags]
        told.append(f"a processor {' and '.join(said)}")
    return "; ".join(told)


def describe() -> dict[str, Any]:
    """This machine, as a run records it."""
    host = {**describe_host(), "limits": asdict(mechanism()), "sandbox": sandbox.describe()}
    return {"host": host, "packages": package_versions(), "fingerprint": fingerprint()}


def serve_job(sent: Mapping[str, Any]) -> dict[str, Any]:
    """Carry out a job: the one Dask task there is.

    Args:
        sent: ``id``; ``expected``, the fingerprint this machine must have; ``files``, path (as in the job's params) to hash;
            and ``job``, the fields of a `hwbench.worker.protocol.Job` that a worker needs.

    Returns:
        ``address`` of this worker and one of: ``unlike``, why it must not do the job; ``missing``, the hashes of the files to
        send first; ``stopped``; or ``result``, the fields of a `hwbench.worker.protocol.JobResult`, with ``files``, name
        to size of what `read` gives of it until `forget`.
    """
    worker = get_worker()
    answer: dict[str, Any] = {"address": worker.address}
    if unlike := differences(sent["expected"], fingerprint()):
        return {**answer, "unlike": unlike}
    depot = Depot(_home(worker) / "files")
    if missing := depot.missing(sent["files"].values()):
        return {**answer, "missing": missing}
    folder = _job_folder(worker, sent["id"])
    shutil.rmtree(folder, ignore_errors=True)
    try:
        job = _placed(sent, depot, folder / "files")
    except FileNotFoundError:  # another job's end has just trimmed the depot
        return {**answer, "missing": depot.missing(sent["files"].values())}
    target = _running[sent["id"]] = LocalTarget()
    try:
        result = target.run(job, folder / "result")
    except KeyboardInterrupt:
        shutil.rmtree(folder)
        return {**answer, "stopped": True}
    finally:
        del _running[sent["id"]]
    shutil.rmtree(folder / "files", ignore_errors=True)
    depot.trim(CACHE_BYTES)
    record = {key: value for key, value in vars(result).items() if key != "folder"}
    return {**answer, "result": record, "files": _sizes(result.folder)}


def lacking(digests: list[str], dask_worker: Worker) -> list[str]:
    """Those of the contents that must be sent to this worker."""
    return Depot(_home(dask_worker) / "files").missing(digests)


def receive(upload: str, digest: str, chunk: bytes, last: bool, dask_worker: Worker) -> None:
    """Take a part of a file: see `Depot.receive`."""
    Depot(_home(dask_worker) / "files").receive(upload, digest, chunk, last=last)


def read(job: str, name: str, offset: int, size: int, dask_worker: Worker) -> bytes:
    """A part of a file that a job left."""
    with (_job_folder(dask_worker, job) / "result" / name).open("rb") as file:
        file.seek(offset)
        return file.read(size)


def forget(job: str, dask_worker: Worker) -> None:
    """Remove what a job left."""
    shutil.rmtree(_job_folder(dask_worker, job), ignore_errors=True)


def halt(jobs: list[str]) -> None:
    """Kill those of the jobs that run here."""
    for target in [_running[job] for job in jobs if job in _running]:
        target.stop()


def _home(worker: Worker) -> Path:
    """A folder of this worker's own; Dask removes it with the worker, or when the next one starts."""
    return Path(worker.local_directory) / "hwbench"


def _job_folder(worker: Worker, job: str) -> Path:
    return _home(worker) / "jobs" / job


def _placed(sent: Mapping[str, Any], depot: Depot, home: Path) -> Job:
    """The job with its files under this machine's names; files of one folder stay together, as external data must."""
    folders: dict[Path, Path] = {}
    names: dict[str, str] = {}
    for path, digest in sent["files"].items():
        folder = folders.setdefault(Path(path).parent, home / str(len(folders)))
        depot.place(digest, folder / Path(path).name)
        names[path] = str(folder / Path(path).name)
    job = sent["job"]
    return Job(
        job["task"],
        _renamed(job["params"], names),
        job["backend"],
        job["options"],
        Limits(**job["limits"]),
        variants=tuple(job["variants"]),
        control=job["control"],
        may_time_out=job["may_time_out"],
        files=(str(home),),
    )


def _renamed(value: Any, names: Mapping[str, str]) -> Any:
    if isinstance(value, str):
        return names.get(value, value)
    if isinstance(value, dict):
        return {key: _renamed(item, names) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_renamed(item, names) for item in value]
    return value


def _sizes(folder: Path) -> dict[str, int]:
    files = (path for path in folder.rglob("*") if path.is_file() and not path.is_symlink())
    return {str(path.relative_to(folder)): path.stat().st_size for path in files if path.name not in _PROTOCOL_FILES}
