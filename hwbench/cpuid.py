"""What the processor says of itself, for emulated machines: there ``/proc/cpuinfo`` tells of the host's processor."""

from __future__ import annotations

import ctypes
import mmap
import os
import platform

# Set by the target for its workers: the processor model they are emulated on, and what emulates it.
EMULATED_CPU = "HWBENCH_EMULATED_CPU"
EMULATOR = "HWBENCH_EMULATOR"

# push rbx; mov eax, edi; mov ecx, esi; mov r8, rdx; cpuid; mov [r8], eax, ebx, ecx, edx; pop rbx; ret
_CPUID = bytes.fromhex("53 89f8 89f1 4989d0 0fa2 418900 41895804 41894808 4189500c 5b c3")
# Leaf, subleaf, register (eax, ebx, ecx, edx), then bit to the kernel's name of it: Intel SDM volume 2A, CPUID.
_X86 = (
    (1, 0, 2, {12: "fma", 19: "sse4_1", 20: "sse4_2", 28: "avx", 29: "f16c"}),
    (7, 0, 1, {5: "avx2", 16: "avx512f", 17: "avx512dq", 30: "avx512bw", 31: "avx512vl"}),
    (7, 0, 2, {11: "avx512_vnni"}),
    (7, 0, 3, {22: "amx_bf16", 23: "avx512_fp16", 24: "amx_tile", 25: "amx_int8"}),
    (7, 1, 0, {4: "avx_vnni", 5: "avx512_bf16", 21: "amx_fp16"}),
    (7, 1, 3, {4: "avx_vnni_int8"}),
)
# Auxiliary vector entry, then bit to name: arch/arm64/include/uapi/asm/hwcap.h.
_ARM = (
    (16, {1: "asimd", 9: "fphp", 10: "asimdhp", 20: "asimddp", 22: "sve", 23: "asimdfhm"}),
    (26, {1: "sve2", 9: "svei8mm", 12: "svebf16", 13: "i8mm", 14: "bf16", 23: "sme", 37: "sme2"}),
)


def emulated_cpu() -> str:
    """The processor model this process is emulated on; empty on a real processor."""
    return os.environ.get(EMULATED_CPU, "")


def emulator() -> dict[str, str]:
    """Name and version of what emulates this process's processor; empty on a real one."""
    name, _, version = os.environ.get(EMULATOR, "").partition(" ")
    return {name: version} if name else {}


def reported_flags() -> tuple[str, ...]:
    """The instruction-set extensions the processor itself reports, sorted, in the kernel's spelling.

    By CPUID on x86-64, from the auxiliary vector on Arm; nothing elsewhere.
    """
    if platform.machine() == "x86_64":
        found = {name for leaf, sub, at, bits in _X86 for name in _named(_cpuid(leaf, sub)[at], bits)}
    elif platform.machine() == "aarch64":
        library = ctypes.CDLL(None)
        library.getauxval.argtypes, library.getauxval.restype = [ctypes.c_ulong], ctypes.c_ulong
        found = {name for entry, bits in _ARM for name in _named(library.getauxval(entry), bits)}
    else:
        found = set()
    return tuple(sorted(found))


def _named(word: int, bits: dict[int, str]) -> list[str]:
    return [name for bit, name in bits.items() if word >> bit & 1]


def _cpuid(leaf: int, subleaf: int) -> tuple[int, ...]:
    """The registers eax, ebx, ecx and edx; zeros for a leaf beyond the processor's last."""
    with mmap.mmap(-1, mmap.PAGESIZE, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC) as page:
        page.write(_CPUID)
        place = ctypes.c_char.from_buffer(page)
        call = ctypes.CFUNCTYPE(None, ctypes.c_uint32, ctypes.c_uint32, ctypes.c_void_p)(ctypes.addressof(place))
        registers = (ctypes.c_uint32 * 4)()
        call(0, 0, registers)
        if leaf > registers[0]:
            registers = (ctypes.c_uint32 * 4)()
        else:
            call(leaf, subleaf, registers)
        del place, call  # the page cannot be unmapped while something points into it
    return tuple(registers)
