"""Jobs on the workers of a Dask cluster: on any of them, or on one that offers a resource (a board)."""

from __future__ import annotations

import logging
import threading
import time
import uuid
from collections import Counter
from collections.abc import Mapping
from concurrent.futures import CancelledError
from dataclasses import asdict
from pathlib import Path
from typing import Any

from hwbench.errors import TargetLostError, UnavailableError
from hwbench.integrity import file_sha256
from hwbench.targets import Target
from hwbench.targets.cluster import Cluster, WorkerGoneError
from hwbench.worker.protocol import Job, JobResult, JobStatus

ATTEMPTS = 4  # a job that took so many workers with it is not tried again
PATIENCE_S = 30.0  # a board that was cut off, or a worker that is started again, may come back
LOOK_S = 1.0

logger = logging.getLogger(__name__)


class RemoteTarget(Target):
    """Runs each job in a fresh child process of a Dask worker.

    Files travel by the hash of their content, only those that the worker lacks. A job whose worker goes away is done again,
    by another one where there is one.

    Args:
        cluster: The workers.
        resource: What the worker must offer. Empty: any worker that offers none; all of them must be like this machine, so that
            the numbers do not depend on who computed them.
        patience_s: How long to wait for a worker when there is none any more.

    Raises:
        UnavailableError: There is no such worker, or one that does not fit.
    """

    kind = "remote"

    def __init__(self, cluster: Cluster, resource: str = "", patience_s: float = PATIENCE_S) -> None:
        self._cluster, self._resource, self._patience_s = cluster, resource, patience_s
        self._lock = threading.Lock()
        self._load: Counter[str] = Counter()
        self._running: dict[str, Any] = {}
        self._stopped = False
        self._unlike: set[str] = set()
        self._about: dict[str, Any] = {}
        self._expected = self._check()

    def describe(self) -> dict[str, Any]:
        """See `Target.describe`: the board's host and packages."""
        return self._about

    def run(self, job: Job, folder: Path) -> JobResult:
        """See `Target.run`.

        Raises:
            TargetLostError: The scheduler, or the last worker of a cluster, is gone.
        """
        folder.mkdir(parents=True, exist_ok=True)
        attempts = 0
        while True:
            try:
                address = self._choose()
            except UnavailableError as error:
                return JobResult("unavailable", folder, detail=str(error))
            try:
                return self._attempt(address, job, folder)
            except WorkerGoneError as error:
                attempts += 1
                if attempts == ATTEMPTS:
                    status: JobStatus = "unavailable" if self._resource else "crash"
                    return JobResult(
                        status, folder, detail=f"{attempts} times its Dask worker went away, the last one: {error}"
                    )
            finally:
                with self._lock:
                    self._load[address] -= 1

    def stop(self) -> None:
        """See `Target.stop`."""
        with self._lock:
            self._stopped = True
            running = dict(self._running)
        if running:
            self._cluster.cancel(running)

    def _check(self) -> dict[str, Any]:
        """Ask every worker that jobs may go to what it is.

        Returns:
            What all of them, and those that join later, must have in common.
        """
        from hwbench.targets import board

        try:
            workers = self._cluster.workers(self._resource)
            if not workers:
                raise self._nobody()
            self._cluster.require_version(workers)
            described = {address: self._cluster.call(address, board.describe) for address in workers}
        except WorkerGoneError as error:
            raise UnavailableError(f"a Dask worker went away while it was asked what it is: {error}") from None
        first = next(iter(described))
        prints = {address: about.pop("fingerprint") for address, about in described.items()}
        expected: dict[str, Any] = prints[first] if self._resource else board.fingerprint()
        for address, found in prints.items():
            if unlike := board.differences(expected, found):
                raise UnavailableError(*self._refusal(address, unlike, first))
        if self._resource:
            self._about = {"resource": self._resource, "worker": first, **described[first]}
        return expected

    def _refusal(self, address: str, unlike: str, first: str) -> tuple[str, str]:
        if self._resource:
            reason = f"the Dask worker at {address} offers {self._resource!r} like {first}, but has {unlike}"
            return reason, "give machines that differ resources of different names"
        reason = f"the Dask worker at {address} would give other numbers than this machine: it has {unlike}"
        return reason, "stop it; or start it with a resource, and name that in a profile with target.kind = 'remote'"

    def _nobody(self) -> UnavailableError:
        at = self._cluster.address
        if self._resource:
            return UnavailableError(
                f"no worker offers resource {self._resource!r} at {at}",
                f"start it with: hwbench targets serve --resource {self._resource} --scheduler {at}",
            )
        return UnavailableError(f"the scheduler at {at} has no worker", f"start one with: dask worker {at}")

    def _choose(self) -> str:
        """The least busy worker; it counts as busier from now on.

        Raises:
            UnavailableError: No worker has offered the resource for too long.
            TargetLostError: There has been no worker at all for too long.
        """
        deadline = time.monotonic() + self._patience_s
        while True:
            with self._lock:
                if self._stopped:
                    raise KeyboardInterrupt
                found = {
                    address: self._load[address] / threads
                    for address, threads in self._workers().items()
                    if address not in self._unlike
                }
                if found:
                    address = min(found, key=lambda address: (found[address], address))
                    self._load[address] += 1
                    return address
            if time.monotonic() > deadline:
                if self._resource:
                    raise self._nobody()
                raise TargetLostError(
                    f"{self._nobody().reason} any more; what is finished is kept: go on with --resume"
                )
            time.sleep(LOOK_S)

    @property
    def parallel(self) -> int:
        """How many jobs can be done at once.

        Raises:
            TargetLostError: The scheduler is gone.
        """
        return sum(self._workers().values())

    def _workers(self) -> Mapping[str, int]:
        try:
            return self._cluster.workers(self._resource)
        except WorkerGoneError as error:
            raise self._lost() from error

    def _lost(self) -> BaseException:
        if self._stopped:
            return KeyboardInterrupt()
        return TargetLostError(
            f"the scheduler at {self._cluster.address} went away; what is finished is kept: start it and go on with --resume"
        )

    def _attempt(self, address: str, job: Job, folder: Path) -> JobResult:
        """Have one worker do a job, sending it first what it lacks."""
        files = {path: file_sha256(Path(path)) for path in job.files}
        self._cluster.send(address, {digest: Path(path) for path, digest in files.items()})
        sent: dict[str, Any] = {"id": uuid.uuid4().hex, "expected": self._expected, "files": files, "job": _fields(job)}
        answer = self._answer(address, sent)
        if "unlike" in answer:
            logger.warning("the Dask worker at %s takes no part: it has %s", address, answer["unlike"])
            self._unlike.add(address)
            raise WorkerGoneError(answer["unlike"])
        if "stopped" in answer:
            raise KeyboardInterrupt
        if "missing" in answer:  # it was started again in the meantime, under the same address
            raise WorkerGoneError(f"{address} has lost the job's files")
        if "error" in answer:
            return JobResult("error", folder, detail=f"{address}: {answer['error']}")
        self._cluster.fetch(address, sent["id"], answer["files"], folder)
        return JobResult(folder=folder, **answer["result"])

    def _answer(self, address: str, sent: Mapping[str, Any]) -> dict[str, Any]:
        """What `hwbench.targets.board.serve_job` says on one worker, or the ``error`` it raised."""
        from hwbench.targets import board

        with self._lock:
            if self._stopped:
                raise KeyboardInterrupt
            future = self._cluster.submit(address, board.serve_job, sent, self._resource)
            self._running[sent["id"]] = future
        try:
            return self._wait(future, address)
        finally:
            with self._lock:
                del self._running[sent["id"]]
            future.release()

    def _wait(self, future: Any, address: str) -> dict[str, Any]:
        from distributed import KilledWorker

        while True:
            try:
                answer: dict[str, Any] = future.result(timeout=LOOK_S)
            except CancelledError:
                raise self._lost() from None
            except KilledWorker as error:
                raise WorkerGoneError(str(error)) from error
            except Exception as error:  # whatever was raised on the other machine becomes the job's result
                if future.status == "error":
                    return {"error": f"{type(error).__name__}: {error}"}
                if not isinstance(error, TimeoutError) or address not in self._workers():
                    raise WorkerGoneError(f"{address} is gone") from error
            else:
                return answer


def _fields(job: Job) -> dict[str, Any]:
    """What a worker needs of a job, as plain values."""
    return {
        "task": job.task,
        "params": dict(job.params),
        "backend": job.backend,
        "options": dict(job.options),
        "limits": asdict(job.limits),
        "variants": list(job.variants),
        "control": job.control,
        "may_time_out": job.may_time_out,
    }
