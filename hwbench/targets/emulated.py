"""Another processor's instruction set, emulated by QEMU's user mode: the numbers it would give, never its time or memory."""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any, ClassVar

from hwbench.backend import backends
from hwbench.errors import InputError, UnavailableError, UnknownNameError
from hwbench.host import cache_home
from hwbench.targets.local import LocalTarget
from hwbench.targets.qemu import ARCHITECTURES, find_qemu
from hwbench.targets.sysroot import SystemRoot, system_root
from hwbench.telemetry import NO_TELEMETRY
from hwbench.worker.protocol import Job, JobResult

# Of a worker's environment in a system root, what is the host's; everything else there is about the host's own programs.
_KEPT = ("PATH", "HOME", "LANG", "LC_ALL", "TMPDIR", "TZ")
# Settings of libraries that choose code for this machine's processor, which the emulated one may not be able to run.
OF_THIS_PROCESSOR = frozenset(
    {
        "OPENBLAS_CORETYPE",
        "OPENBLAS_L2_SIZE",
        "ONEDNN_MAX_CPU_ISA",
        "DNNL_MAX_CPU_ISA",
        "MKL_ENABLE_INSTRUCTIONS",
        "NPY_ENABLE_CPU_FEATURES",
        "NPY_DISABLE_CPU_FEATURES",
    }
)


class EmulatedTarget(LocalTarget):
    """Runs jobs in child processes on an emulated processor.

    Programs of this machine's own instruction set run as they are: the worker has the same Python and packages. For another
    one it has those of an installed system root, and hwbench's own modules from here.

    Args:
        arch: The instruction set, ``"x86_64"`` or ``"aarch64"``.
        cpu: The processor model, as QEMU calls it.
        sandboxed: See `LocalTarget`.

    Raises:
        UnknownNameError: QEMU knows no such model; the message lists those it knows.
        UnavailableError: QEMU or the system root is not installed, with the command that installs it.
    """

    kind = "emulated"
    python: ClassVar[str] = sys.executable  # QEMU runs programs, no scripts

    def __init__(self, arch: str, cpu: str, sandboxed: bool = True) -> None:
        known = [name for name in ARCHITECTURES if name == arch]
        if not known:
            raise UnknownNameError("architecture", arch, ARCHITECTURES)
        self._qemu = find_qemu(known[0])
        self._qemu.require(cpu)
        self._cpu = cpu
        self._left_out = self._qemu.left_out(cpu)
        self._root: SystemRoot | None = None if arch == platform.machine() else system_root(arch)
        super().__init__(sandboxed)

    def command(self, folder: Path) -> list[str]:
        """See `LocalTarget.command`: this machine's Python enters the sandbox, then becomes the emulator."""
        entering = [sys.executable, "-P", "-S", "-m", "hwbench.worker.sandbox", str(folder), "--exec"]
        emulator = self._qemu.command(self._cpu, self._left_out)
        python = [self.python]
        if self._root is not None:
            python = ["-L", str(self._root.path), str(self._root.python)]
        return [*entering, *emulator, *python, "-P", "-m", "hwbench.worker", str(folder), str(os.getpid())]

    def programs(self) -> list[str]:
        """See `LocalTarget.programs`: the emulator and the system root."""
        root = [] if self._root is None else [str(self._root.path), str(_worker_code()), *_sources().values()]
        return [self._qemu.path, self.python, *root]

    def environment(self) -> dict[str, str]:
        """See `LocalTarget.environment`."""
        mark = self._qemu.environment(self._cpu)
        if self._root is None:
            own = {name: value for name, value in super().environment().items() if name not in OF_THIS_PROCESSOR}
            return own | mark
        kept = {name: os.environ[name] for name in _KEPT if name in os.environ}
        path = os.pathsep.join([str(_worker_code()), str(self._root.packages)])
        return kept | NO_TELEMETRY | mark | {"PYTHONPATH": path, "PYTHONNOUSERSITE": "1"}

    def run(self, job: Job, folder: Path) -> JobResult:
        """See `Target.run`.

        Raises:
            InputError: The job is to be held to a memory cap or a processor quota.
        """
        if job.limits.memory_mib is not None or job.limits.cpu_quota is not None:
            raise InputError(
                "an emulated target enforces no memory cap and no processor quota: both would measure QEMU"
            )
        return super().run(job, folder)

    def describe(self) -> dict[str, Any]:
        """See `Target.describe`: the emulator, what of the model it lacks, and the system root's versions."""
        about: dict[str, Any] = {"emulator": f"qemu {self._qemu.version}", "arch": self._qemu.arch, "cpu": self._cpu}
        if self._left_out:
            about["not_emulated"] = list(self._left_out)
        if self._root is not None:
            about["system_root"] = dict(self._root.versions)
        return about


def _sources() -> dict[str, str]:
    """The folders of hwbench and its backends, by package."""
    names = {"hwbench", *(backends.reference(name).partition(":")[0].partition(".")[0] for name in backends.names())}
    specs = {name: find_spec(name) for name in sorted(names)}
    return {name: str(Path(spec.origin).parent) for name, spec in specs.items() if spec and spec.origin}


def _worker_code() -> Path:
    """A folder through which a foreign Python finds hwbench and its backends, and nothing else that is installed here."""
    sources = _sources()
    digest = hashlib.sha256(json.dumps(sources).encode()).hexdigest()[:12]
    folder = cache_home() / "targets" / f"code-{digest}"
    for name, source in sources.items():
        folder.mkdir(parents=True, exist_ok=True)
        link = folder / name
        if not link.is_symlink():
            partial = folder / f".{name}-{os.getpid()}"
            partial.symlink_to(source)
            partial.replace(link)
    return folder


@dataclass(frozen=True)
class Emulation:
    """What of one instruction set this machine can emulate.

    Attributes:
        available: Whether a worker can run there.
        reason: Why not; empty if it can.
        hint: The command that would help.
        emulator: QEMU's version; empty without it.
        cpus: The processor models, as QEMU calls them.
        system_root: Versions of what is installed for it; empty where this machine's own packages serve.
    """

    available: bool
    reason: str = ""
    hint: str = ""
    emulator: str = ""
    cpus: tuple[str, ...] = ()
    system_root: Mapping[str, str] = field(default_factory=dict)


def emulations() -> dict[str, Emulation]:
    """Instruction set to what of it this machine can emulate."""
    found: dict[str, Emulation] = {}
    for arch in ARCHITECTURES:
        known: dict[str, Any] = {}
        try:
            qemu = find_qemu(arch)
            known = {"emulator": f"qemu {qemu.version}", "cpus": qemu.cpus}
            if arch != platform.machine():
                known["system_root"] = system_root(arch).versions
            found[arch] = Emulation(True, **known)
        except UnavailableError as error:
            found[arch] = Emulation(False, error.reason, error.hint, **known)
    return found
