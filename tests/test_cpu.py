"""Reading the processor's name and instruction sets."""

import platform

import pytest

from hwbench.cpu import NUMERIC_FLAGS, cpu_flags, cpu_model

X86 = """\
processor\t: 0
model name\t: Example(R) CPU 9000 @ 3.00GHz
flags\t\t: fpu sse4_1 sse4_2 avx avx2 avx512f avx512_vnni hypervisor

processor\t: 1
model name\t: Example(R) CPU 9000 @ 3.00GHz
flags\t\t: fpu sse4_1 sse4_2 avx avx2 avx512f hypervisor
"""
ARM = """\
processor\t: 0
BogoMIPS\t: 100.00
Features\t: fp asimd evtstrm crc32 asimddp i8mm
CPU implementer\t: 0x41
CPU part\t: 0xd03

processor\t: 1
Features\t: fp asimd evtstrm crc32 asimddp
CPU implementer\t: 0x41
CPU part\t: 0xd0b
"""
RASPBERRY = ARM + "\nHardware\t: BCM2835\nModel\t\t: Raspberry Pi 4 Model B Rev 1.4\n"


@pytest.mark.parametrize(
    ("text", "flags", "model"),
    [
        (X86, ("avx", "avx2", "avx512f", "sse4_1", "sse4_2"), "Example(R) CPU 9000 @ 3.00GHz"),
        (ARM, ("asimd", "asimddp"), "Arm part 0xd03 + Arm part 0xd0b"),
        (RASPBERRY, ("asimd", "asimddp"), "Raspberry Pi 4 Model B Rev 1.4"),
        ("", (), platform.processor() or platform.machine()),
    ],
)
def test_a_known_cpuinfo(text, flags, model):
    assert cpu_flags(text) == flags  # only what every core has
    assert cpu_model(text) == model


def test_this_machine():
    assert set(cpu_flags()) <= NUMERIC_FLAGS
    assert cpu_model()
