"""Asking the processor itself."""

import os
import platform
import subprocess
import sys

import pytest

from hwbench.cpu import NUMERIC_FLAGS, cpu_flags, cpu_model
from hwbench.cpuid import EMULATED_CPU, EMULATOR, emulator, reported_flags


@pytest.mark.skipif(platform.machine() not in ("x86_64", "aarch64"), reason="asks these two kinds of processor only")
def test_a_real_processor_reports_what_the_kernel_says_of_it():
    reported = set(reported_flags())
    assert reported <= NUMERIC_FLAGS
    # The kernel may hide an extension that the processor has, and never the other way round.
    assert set(cpu_flags()) - {"neon"} <= reported


def test_an_emulated_process_is_told_by_its_environment(monkeypatch):
    assert emulator() == {}
    monkeypatch.setenv(EMULATED_CPU, "Haswell")
    monkeypatch.setenv(EMULATOR, "qemu 7.2.22")
    assert cpu_model() == "Haswell"
    assert emulator() == {"qemu": "7.2.22"}


def test_asking_many_times_leaves_nothing_mapped():
    program = (
        "from hwbench.cpuid import reported_flags; import pathlib\n"
        "count = lambda: len(pathlib.Path('/proc/self/maps').read_text().splitlines())\n"
        "reported_flags(); before = count()\n"
        "for _ in range(50): reported_flags()\n"
        "print(count() - before)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, env=environment)
    assert int(ended.stdout) < 10
