"""``python -m hwbench.targets.serve``: makes this machine a board that remote jobs run on, with a worker's dependencies only.

``hwbench targets serve`` is the same, where the command line's dependencies are installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec

from hwbench.errors import HwbenchError, UnavailableError
from hwbench.targets.transport import check_transport


def serve(resource: str, scheduler: str, tls: str = "") -> None:
    """Become a Dask worker that offers a resource; does not return.

    One thread, so that one job runs at a time. Dask restarts the worker where it dies, and leaves its memory alone: hwbench
    enforces each job's own cap. The worker listens on the interface from which the scheduler is reached, and on no other.

    Args:
        resource: Name by which profiles select this board (``target.resource``).
        scheduler: The scheduler's address, ``tcp://`` or ``tls://``.
        tls: Folder of the certificates for ``tls://``; empty for Dask's own configuration.

    Raises:
        InputError: The address or the certificates cannot be used.
        UnavailableError: Dask is not installed.
    """
    if find_spec("distributed") is None:
        raise UnavailableError("a board needs Dask, which is not installed", "pip install distributed")
    os.execv(sys.executable, command(resource, scheduler, tls))  # noqa: S606  no shell


def command(resource: str, scheduler: str, tls: str = "") -> list[str]:
    """The command line that `serve` becomes."""
    address, files = check_transport(scheduler, tls)
    # A worker serves its state by HTTP even without a dashboard: on this machine only.
    listen = ("--host", address.local(), "--dashboard-address", "127.0.0.1:0")
    return [
        *(sys.executable, "-P", "-m", "distributed.cli.dask_worker", scheduler, *listen),
        *("--resources", f"{resource}=1", "--nthreads", "1", "--memory-limit", "0", "--no-dashboard"),
        *(files.flags() if files else ()),
    ]


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m hwbench.targets.serve", description=__doc__)
    parser.add_argument("--resource", required=True, help="what profiles name as target.resource")
    parser.add_argument("--scheduler", required=True, help="tcp://HOST:PORT or tls://HOST:PORT")
    parser.add_argument("--tls", default="", help="folder with ca.pem, cert.pem and key.pem, for a tls:// address")
    given = parser.parse_args()
    try:
        serve(given.resource, given.scheduler, given.tls)
    except HwbenchError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
