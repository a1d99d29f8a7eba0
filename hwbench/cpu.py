"""What the processor of this machine is, and which numeric instruction sets it has, read from ``/proc/cpuinfo``.

An emulated process would read its host's there, so that it asks the emulated processor itself.
"""

from __future__ import annotations

import platform
import re
from pathlib import Path

from hwbench.cpuid import emulated_cpu, reported_flags

CPUINFO = Path("/proc/cpuinfo")

# The extensions that decide how fast, and how exactly, a neural network's numbers are computed.
_X86 = (
    "sse4_1", "sse4_2", "avx", "f16c", "fma", "avx2", "avx_vnni", "avx_vnni_int8", "avx512f", "avx512bw", "avx512dq",
    "avx512vl", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_int8", "amx_bf16", "amx_fp16",
)  # fmt: skip
_ARM = (
    "neon", "asimd", "asimdhp", "fphp", "asimddp", "asimdfhm", "i8mm", "bf16", "sve", "sve2", "svei8mm", "svebf16",
    "sme", "sme2",
)  # fmt: skip
NUMERIC_FLAGS = frozenset(_X86 + _ARM)

_ARM_IMPLEMENTERS = {
    "0x41": "Arm",
    "0x42": "Broadcom",
    "0x4e": "NVIDIA",
    "0x51": "Qualcomm",
    "0x61": "Apple",
    "0xc0": "Ampere",
}


def cpu_flags(cpuinfo: str | None = None) -> tuple[str, ...]:
    """The numeric instruction-set extensions that every core has, sorted, in the kernel's spelling.

    Args:
        cpuinfo: The text of ``/proc/cpuinfo``; this machine's if left out.

    Returns:
        Names such as ``"avx2"``, ``"avx512_vnni"``, ``"asimddp"`` (Arm's int8 dot product); empty where the kernel
        tells none.
    """
    if cpuinfo is None and emulated_cpu():
        return tuple(sorted(NUMERIC_FLAGS.intersection(reported_flags())))
    cores = [set(line.split()) for line in _values(_text(cpuinfo), "flags", "Features")]
    return tuple(sorted(NUMERIC_FLAGS.intersection(*cores))) if cores else ()


def cpu_model(cpuinfo: str | None = None) -> str:
    """The processor's name, e.g. ``"Intel(R) Xeon(R) Platinum 8481C"`` or, on Arm, ``"Arm part 0xd0b"``.

    Args:
        cpuinfo: The text of ``/proc/cpuinfo``; this machine's if left out.
    """
    if cpuinfo is None and emulated_cpu():
        return emulated_cpu()
    text = _text(cpuinfo)
    for name in _values(text, "model name", "Model", "Hardware"):
        return name
    implementers, parts = _values(text, "CPU implementer"), _values(text, "CPU part")
    if implementers and parts:
        names = {
            f"{_ARM_IMPLEMENTERS.get(who, who)} part {part}": None
            for who, part in zip(implementers, parts, strict=False)
        }
        return " + ".join(names)  # big.LITTLE chips have two kinds of core
    return platform.processor() or platform.machine()


def _text(cpuinfo: str | None) -> str:
    if cpuinfo is not None:
        return cpuinfo
    return CPUINFO.read_text(encoding="utf-8") if CPUINFO.is_file() else ""


def _values(text: str, *keys: str) -> list[str]:
    """The values of the first of ``keys`` that occurs, one a line that holds it."""
    for key in keys:
        found = re.findall(rf"^{re.escape(key)}[ \t]*:[ \t]*(.+)$", text, re.MULTILINE)
        if found:
            return [value.strip() for value in found]
    return []
