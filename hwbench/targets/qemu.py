"""QEMU user mode: where it is, which processor models it emulates, and what of one it leaves out."""

from __future__ import annotations

import platform
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, get_args

import numpy as np

from hwbench.cpuid import EMULATED_CPU, EMULATOR
from hwbench.errors import UnavailableError, UnknownNameError

Arch = Literal["x86_64", "aarch64"]
ARCHITECTURES: tuple[Arch, ...] = get_args(Arch)
HINT = "apt-get install qemu-user-static"
_TIMEOUT_S = 30.0
_AVX2 = {"AVX2", "FMA3", "X86_V3"}  # numpy's names: before 2.4, and since


@dataclass(frozen=True)
class Qemu:
    """QEMU's user-mode emulator of one instruction set.

    Attributes:
        arch: The instruction set.
        path: The program.
        version: As it says itself.
        cpus: The processor models it knows.
    """

    arch: Arch
    path: str
    version: str
    cpus: tuple[str, ...]

    def require(self, cpu: str) -> None:
        """Raise `UnknownNameError`, which lists them, unless ``cpu`` is one of its models."""
        if cpu not in self.cpus:
            raise UnknownNameError(f"{self.arch} processor model", cpu, self.cpus)

    def left_out(self, cpu: str) -> tuple[str, ...]:
        """What of an x86-64 model QEMU does not emulate, sorted, in QEMU's spelling; programs find it missing there."""
        if self.arch != "x86_64":
            return ()
        told = _said(self.path, "-cpu", cpu, shutil.which("true") or "/bin/true")
        features = re.findall(r"doesn't support requested feature: \S+?\.([a-z0-9_-]+) \[bit", told)
        return tuple(sorted(set(features)))

    def command(self, cpu: str, left_out: Sequence[str]) -> list[str]:
        """The command in front of a program that runs on an emulated model.

        ``left_out`` is switched off by name, or every program would begin with warnings about it.
        """
        return [self.path, "-cpu", ",".join((cpu, *(f"-{feature}" for feature in left_out)))]

    def environment(self, cpu: str) -> dict[str, str]:
        """Variables that an emulated Python is given: the mark that `hwbench.cpu` reads, and numpy without its AVX2 code.

        QEMU 7.2 now and then dies in that code, in the sort behind `numpy.unique`.
        """
        simd = np.show_config(mode="dicts")["SIMD Extensions"]
        dispatched = {*simd.get("found", ()), *simd.get("not found", ())}
        switched_off = " ".join(sorted(dispatched & _AVX2)) if self.arch == platform.machine() else ""
        numpy = {"NPY_DISABLE_CPU_FEATURES": switched_off} if switched_off else {}
        return {EMULATED_CPU: cpu, EMULATOR: f"qemu {self.version}", **numpy}


@lru_cache
def find_qemu(arch: Arch) -> Qemu:
    """The emulator of one instruction set.

    Raises:
        UnavailableError: It is not installed, with the command that installs it.
    """
    path = shutil.which(f"qemu-{arch}-static") or shutil.which(f"qemu-{arch}")
    if path is None:
        raise UnavailableError(
            f"emulating {arch} needs QEMU's user mode, and there is no qemu-{arch}-static here", HINT
        )
    version = re.search(r"version (\S+)", _said(path, "--version"))
    listed = _said(path, "-cpu", "help").partition("Recognized CPUID flags")[0]
    # "x86 Haswell-v4  Intel Core ..." on x86-64, "  cortex-a53" on Arm; the heading stands at the line's start, with a colon
    cpus = re.findall(r"^(?:x86 +| +)([\w.+-]+)(?:\s|$)", listed, re.MULTILINE)
    return Qemu(arch, path, version[1] if version else "", tuple(cpus))


def _said(*command: str) -> str:
    ended = subprocess.run(
        command, capture_output=True, encoding="utf-8", errors="replace", timeout=_TIMEOUT_S, check=False
    )
    return ended.stdout + ended.stderr
