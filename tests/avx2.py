"""Runs the tests marked ``isa`` once more, on an emulated processor with AVX2 and nothing newer: `make test-avx2`.

Int8 kernels of such processors saturate, and are others than those of AVX-512, VNNI and AMX. The interpreter itself is
emulated, and so is every child process that is started by ``sys.executable``: workers, and pytest-xdist's. Arguments are
pytest's; without paths among them, the modules that name the mark are collected, and no others, because importing all takes
minutes there.
"""

from __future__ import annotations

import platform
import shlex
import subprocess
import sys
from pathlib import Path

from hwbench.cpu import cpu_flags
from hwbench.errors import UnavailableError
from hwbench.targets.emulated import OF_THIS_PROCESSOR
from hwbench.targets.qemu import Qemu, find_qemu

TESTS = Path(__file__).parent
CPU = "Haswell"
NEWER = {"avx_vnni", "avx_vnni_int8", "avx512f", "amx_tile"}


def launcher(qemu: Qemu) -> Path:
    """The emulated interpreter: a script beside this one's, so that it belongs to the same virtual environment."""
    python = Path(sys.executable)
    made = python.with_name(f"python-{CPU.lower()}")
    variables = " ".join(f"{name}={shlex.quote(value)}" for name, value in qemu.environment(CPU).items())
    command = shlex.join(qemu.command(CPU, qemu.left_out(CPU)))
    lines = [
        "#!/bin/sh",
        f"unset {' '.join(sorted(OF_THIS_PROCESSOR))}",
        f"export {variables}",
        f'exec {command} -0 "$0" {shlex.quote(str(python))} "$@"',
    ]
    made.write_text("\n".join([*lines, ""]))
    made.chmod(0o755)
    return made


def reason_to_skip() -> str:
    """Why there is nothing to emulate here, or nothing to emulate it with; empty if there is."""
    if platform.machine() != "x86_64":
        return "this is no x86-64 machine"
    if not NEWER.intersection(cpu_flags()):
        return "this processor has nothing newer than AVX2, so that the suite itself shows what AVX2 gives"
    try:
        find_qemu("x86_64")
    except UnavailableError as error:
        return f"{error.reason} ({error.hint})"
    return ""


def marked() -> list[str]:
    """The modules that name the mark."""
    return [str(file) for file in sorted(TESTS.rglob("test_*.py")) if "pytest.mark.isa" in file.read_text()]


def main() -> int:
    """Run pytest, and return its exit status."""
    if reason := reason_to_skip():
        print(f"The tests marked isa are not repeated on an emulated {CPU}: {reason}.")
        return 0
    arguments = sys.argv[1:]
    if not any(Path(argument.partition("::")[0]).exists() for argument in arguments):
        arguments += marked()
    command = [str(launcher(find_qemu("x86_64"))), "-m", "pytest", "-m", "isa and not alone", *arguments]
    return subprocess.run(command, check=False).returncode


if __name__ == "__main__":
    sys.exit(main())
