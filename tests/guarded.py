"""The command line in a process of its own, under guards on time and memory."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

# Not ru_maxrss: a child begins with its parent's.
_CHILD = """
import contextlib, faulthandler, io, json, sys, time
from hwbench.cli.main import main

def peak():
    return int(next(line for line in open("/proc/self/status") if line.startswith("VmHWM")).split()[1]) / 1024

seconds, commands = json.load(sys.stdin)
for arguments in commands:
    faulthandler.dump_traceback_later(seconds, exit=True)
    sys.argv, started, status = ["hwbench", *arguments], time.monotonic(), 0
    output, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(output), contextlib.redirect_stderr(errors):
        try:
            main()
        except SystemExit as ended:
            status = ended.code
    print(json.dumps([status, output.getvalue(), errors.getvalue(), peak(), time.monotonic() - started]), flush=True)
"""


@dataclass(frozen=True)
class Ended:
    """How a command ended.

    Attributes:
        status: Its exit status.
        output: Standard output.
        errors: Standard error.
        peak_mib: Largest resident memory of the process so far; that of workers is not part of it.
        seconds: Time it took.
    """

    status: int
    output: str
    errors: str
    peak_mib: float
    seconds: float


def hwbench(*commands: Sequence[str | Path], seconds: float) -> list[Ended]:
    """Run commands one after the other in one process.

    Args:
        commands: Arguments of each.
        seconds: Time that each may take; with one that takes longer, the test fails and shows where the command is.
    """
    work = json.dumps([seconds, [list(map(str, command)) for command in commands]])
    child = [sys.executable, "-c", _CHILD]
    done = subprocess.run(child, input=work, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{commands[len(done.stdout.splitlines())]}: {done.stderr}"
    return [Ended(*json.loads(line)) for line in done.stdout.splitlines()]
