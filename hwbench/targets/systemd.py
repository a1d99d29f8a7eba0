"""Caps held by the user's own service manager: for users who may make no control group, but whose login session may."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hwbench.errors import UnavailableError
from hwbench.worker.protocol import Limits

MECHANISM = "systemd-run"
_MIB = 1 << 20
_WAIT_S = 30.0
_ROOT = "/sys/fs/cgroup"
# Prints what the kernel holds the process to: a manager that may not use a controller takes the property and ignores it.
_HELD = f'cd "{_ROOT}$(sed -n s/^0:://p /proc/self/cgroup)" && cat "$@"'
_numbers = itertools.count(1)


class Scope:
    """A transient scope of the user's service manager, in which one worker and its children run.

    Args:
        limits: What to enforce.

    Raises:
        UnavailableError: There is no such manager, or it does not hold processes to these limits.
    """

    def __init__(self, limits: Limits) -> None:
        self._unit = f"hwbench-{os.getpid()}-{next(_numbers)}.scope"
        self._properties: list[str] = []
        expected = {}
        if limits.memory_mib is not None:
            self._properties += [f"--property=MemoryMax={limits.memory_mib * _MIB}", "--property=MemorySwapMax=0"]
            expected["memory.max"] = str(limits.memory_mib * _MIB)
        if limits.cpu_quota is not None:
            self._properties.append(f"--property=CPUQuota={limits.cpu_quota * 100:.1f}%")
            expected["cpu.max"] = f"{round(limits.cpu_quota * 100_000)} 100000"
        self._try(expected)

    def wrap(self, command: Sequence[str]) -> list[str]:
        """The command line that runs ``command`` in the scope; systemd-run becomes the command, so that its number stays."""
        return self._run(command, f"--unit={self._unit}")

    def usage(self) -> dict[str, Any]:
        """``oom_kills``: 1 if the manager saw processes killed for lack of memory (systemd 253 and later)."""
        shown = _systemctl("show", "--property=Result", "--value", self._unit)
        return {"oom_kills": int(shown == "oom-kill")}

    def remove(self) -> None:
        """Kill what is left in the scope, and have it forgotten."""
        _systemctl("kill", "--signal=SIGKILL", self._unit)
        _systemctl("reset-failed", self._unit)

    def _run(self, command: Sequence[str], *options: str) -> list[str]:
        return ["systemd-run", "--user", "--scope", "--quiet", *options, *self._properties, "--", *command]

    def _try(self, expected: dict[str, str]) -> None:
        if shutil.which("systemd-run") is None:
            raise UnavailableError("systemd-run: not installed")
        command = self._run(["/bin/sh", "-c", _HELD, "sh", *expected])
        try:
            done = subprocess.run(
                command, check=False, capture_output=True, encoding="utf-8", errors="replace", timeout=_WAIT_S
            )
        except subprocess.TimeoutExpired as error:
            raise UnavailableError(f"systemd-run --user --scope: no answer within {_WAIT_S:g} s") from error
        if done.returncode:
            raise UnavailableError(
                f"systemd-run --user --scope: {done.stderr.strip() or f'exit status {done.returncode}'}"
            )
        held = done.stdout.split("\n")[: len(expected)]
        if held != list(expected.values()):
            raise UnavailableError(f"systemd-run --user --scope: the limits do not hold there: {held}")


def sweep() -> None:
    """Remove the scopes of parents that no longer run: those of which processes are left."""
    if shutil.which("systemctl") is None:
        return
    listed = _systemctl("list-units", "--plain", "--no-legend", "hwbench-*.scope")
    for unit in (line.split()[0] for line in listed.splitlines() if line.strip()):
        name = re.fullmatch(r"hwbench-(\d+)-\d+\.scope", unit)
        if name and not Path("/proc", name[1]).exists():
            _systemctl("kill", "--signal=SIGKILL", unit)
            _systemctl("reset-failed", unit)


def _systemctl(*arguments: str) -> str:
    """What ``systemctl --user`` prints; empty if it fails, as it does for a unit that is gone."""
    command = ["systemctl", "--user", *arguments]
    done = subprocess.run(
        command, check=False, capture_output=True, encoding="utf-8", errors="replace", timeout=_WAIT_S
    )
    return done.stdout.strip() if done.returncode == 0 else ""
