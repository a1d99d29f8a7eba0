"""``python -m hwbench.targets.serve``: makes this machine a board that remote jobs run on, with a worker's dependencies only.

``hwbench targets serve`` is the same, where the command line's dependencies are installed.
"""

from __future__ import annotations

import argparse
import os
import sys
from importlib.util import find_spec
from pathlib import Path

from hwbench.errors import HwbenchError, UnavailableError


def serve(resource: str, scheduler: str, *, ca_file: str = "", cert: str = "", key: str = "") -> None:
    """Become a Dask worker that offers a resource; does not return.

    One thread, so that one job runs at a time. Dask restarts the worker where it dies, and leaves its memory alone: hwbench
    enforces each job's own cap.

    Args:
        resource: What profiles name as ``target.resource``.
        scheduler: The scheduler's address, ``tcp://`` or ``tls://``.
        ca_file: For TLS: the authority that signed the certificates, PEM.
        cert: For TLS: this machine's certificate.
        key: For TLS: its private key.

    Raises:
        UnavailableError: Dask is not installed.
    """
    if find_spec("distributed") is None:
        raise UnavailableError("a board needs Dask, which is not installed", "pip install distributed")
    os.execv(sys.executable, command(resource, scheduler, ca_file=ca_file, cert=cert, key=key))  # noqa: S606  no shell


def command(resource: str, scheduler: str, *, ca_file: str = "", cert: str = "", key: str = "") -> list[str]:
    """The command line that `serve` becomes."""
    tls = {"--tls-ca-file": ca_file, "--tls-cert": cert, "--tls-key": key}
    given = [part for flag, value in tls.items() if value for part in (flag, str(Path(value).absolute()))]
    return [
        *(sys.executable, "-P", "-m", "distributed.cli.dask_worker", scheduler),
        *("--resources", f"{resource}=1", "--nthreads", "1", "--memory-limit", "0", "--no-dashboard", *given),
    ]


def main() -> None:
    """Read the arguments and serve."""
    parser = argparse.ArgumentParser(prog="python -m hwbench.targets.serve", description=__doc__)
    parser.add_argument("--resource", required=True, help="what profiles name as target.resource")
    parser.add_argument("--scheduler", required=True, help="tcp://HOST:PORT or tls://HOST:PORT")
    parser.add_argument("--tls-ca-file", default="", help="the authority that signed the certificates, PEM")
    parser.add_argument("--tls-cert", default="", help="this machine's certificate")
    parser.add_argument("--tls-key", default="", help="its private key")
    given = parser.parse_args()
    try:
        serve(given.resource, given.scheduler, ca_file=given.tls_ca_file, cert=given.tls_cert, key=given.tls_key)
    except HwbenchError as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
