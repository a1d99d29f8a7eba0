"""A Dask cluster as hwbench sees it: which workers there are, files sent to one of them, what a job left fetched from it.

Dask itself pickles what it sends, and whoever reaches a scheduler can run code on its workers: on a network that others use,
take ``tls://``.
"""

from __future__ import annotations

import gc
import logging
import math
import threading
import time
import uuid
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from importlib import metadata
from pathlib import Path, PurePosixPath
from typing import Any

from hwbench import __version__
from hwbench.errors import UnavailableError
from hwbench.targets.transport import check_transport

logger = logging.getLogger(__name__)

CHUNK = 4 * 2**20  # bytes in one message
CONNECT_S = 10.0
_FRESH_S = 0.5
DISTRIBUTION = "hwbench-ml"


class WorkerGoneError(Exception):
    """A Dask worker went away while it was spoken to; never leaves `hwbench.targets`."""


class Cluster:
    """The workers behind one scheduler. May be used from several threads.

    Args:
        address: The scheduler's, e.g. ``tcp://host:8786``.
        tls: Folder of the certificates for ``tls://``; empty for Dask's own configuration (``distributed.comm.tls``).

    Raises:
        InputError: The address or the certificates cannot be used.
        UnavailableError: Dask is not installed, or no scheduler answers there.
    """

    def __init__(self, address: str, tls: str = "") -> None:
        try:
            from distributed import Client
        except ImportError:
            raise UnavailableError(
                "a scheduler needs Dask, which is not installed", "pip install 'hwbench-ml[distributed]'"
            ) from None
        logging.getLogger("distributed.client").setLevel(logging.CRITICAL)  # what is lost is told by us
        _, files = check_transport(address, tls)
        self.address = address
        self._lock = threading.Lock()
        self._looked = -math.inf
        self._found: Mapping[str, Any] = {}
        self._uploads: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        try:
            security = files.security() if files else None
            self.client = Client(address, timeout=CONNECT_S, set_as_default=False, name="hwbench", security=security)
        except (OSError, ValueError, TypeError) as error:  # ValueError, TypeError: TLS is not, or wrongly, configured
            reason = str(error)
        else:
            return
        # Dask closes the client that failed when it is collected; where that happens while Dask holds a lock of its own, it
        # waits for itself. So it is collected now, when neither the exception nor its traceback refers to it any more.
        gc.collect()
        hint = "start one with: dask scheduler; its workers with: dask worker ADDRESS; or leave the scheduler out"
        if address.startswith("tls:"):
            hint += "; name the folder of its certificates with --tls"
        raise UnavailableError(f"no Dask scheduler answers at {address}: {reason}", hint)

    def close(self) -> None:
        """Part from the scheduler."""
        self.client.close()

    def workers(self, resource: str = "") -> dict[str, int]:
        """Address to number of threads, of the workers that offer a resource, or of those that offer none.

        Raises:
            WorkerGoneError: The scheduler does not answer.
        """
        with self._lock:  # many threads ask, and each answer tells of every worker
            if time.monotonic() - self._looked > _FRESH_S:
                try:
                    self._found = self.client.scheduler_info(n_workers=-1)["workers"]
                except (
                    OSError,
                    RuntimeError,
                    KeyError,
                ) as error:  # KeyError: what Dask knows of a lost scheduler is nothing
                    raise WorkerGoneError(f"the scheduler at {self.address} does not answer") from error
                self._looked = time.monotonic()
            return {
                address: int(about["nthreads"])
                for address, about in self._found.items()
                if (resource in about["resources"] if resource else not about["resources"])
            }

    def call(self, address: str, function: Callable[..., Any], *arguments: Any) -> Any:
        """Call a function of `hwbench.targets.board` on one worker, beside the job that runs there.

        Raises:
            WorkerGoneError: It does not answer.
        """
        try:
            return self.client.run(function, *arguments, workers=[address])[address]
        except (
            OSError,
            KeyError,
            AttributeError,
        ) as error:  # struck off; and what a client says whose scheduler is gone
            raise WorkerGoneError(f"{address}: {error}") from error

    def submit(self, address: str, function: Callable[..., Any], sent: Mapping[str, Any], resource: str) -> Any:
        """Have one worker call a function of `hwbench.targets.board` when its turn comes.

        Returns:
            Dask's future.

        Raises:
            WorkerGoneError: There is no scheduler to ask any more.
        """
        from distributed.client import ClosedClientError

        resources = {resource: 1} if resource else None
        try:
            return self.client.submit(function, sent, pure=False, resources=resources, workers=[address])
        except ClosedClientError as error:
            raise WorkerGoneError(str(error)) from error

    def cancel(self, jobs: Mapping[str, Any]) -> None:
        """Have jobs killed wherever they run.

        Args:
            jobs: What `hwbench.targets.board.halt` knows each by, to its future.
        """
        from distributed.client import ClosedClientError

        from hwbench.targets import board

        try:
            self.client.cancel(list(jobs.values()))
            self.client.run(board.halt, list(jobs), on_error="ignore")
        except (OSError, AttributeError, ClosedClientError) as error:
            logger.warning("jobs on the cluster cannot be stopped, since its scheduler is gone: %s", error)

    def require_version(self, addresses: Iterable[str]) -> None:
        """Hold the workers' hwbench against ours: an older one may lack what `hwbench.targets.board` is made of.

        Raises:
            UnavailableError: With both versions.
        """
        for address in addresses:
            try:
                found = self.call(address, metadata.version, DISTRIBUTION)
            except metadata.PackageNotFoundError:
                found = "none"
            if found != __version__:
                raise UnavailableError(
                    f"the Dask worker at {address} has hwbench {found}, this machine {__version__}",
                    f"on that machine: pip install {DISTRIBUTION}=={__version__}, and start the worker again",
                )

    def send(self, address: str, files: Mapping[str, Path]) -> None:
        """Send files to one worker, those of them that it lacks.

        Args:
            address: The worker's.
            files: Hash to file.

        Raises:
            WorkerGoneError: It does not answer.
        """
        from hwbench.targets import board

        with self._uploads[address]:  # several jobs want the same files at first
            for digest in self.call(address, board.lacking, list(files)):
                upload, size = uuid.uuid4().hex, files[digest].stat().st_size
                with files[digest].open("rb") as file:
                    for offset in range(0, max(size, 1), CHUNK):
                        last = offset + CHUNK >= size
                        self.call(address, board.receive, upload, digest, file.read(CHUNK), last)

    def fetch(self, address: str, job: str, sizes: Mapping[str, int], folder: Path) -> None:
        """Fetch what a job left on a worker, into a folder.

        Raises:
            WorkerGoneError: The worker does not answer.
            ValueError: A name leads out of the folder.
        """
        from hwbench.targets import board

        for name, size in sizes.items():
            if PurePosixPath(name).is_absolute() or ".." in PurePosixPath(name).parts:
                raise ValueError(f"{address}: a job's file is called {name!r}")
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("wb") as file:
                for offset in range(0, size, CHUNK):
                    file.write(self.call(address, board.read, job, name, offset, CHUNK))
        self.call(address, board.forget, job)
