"""What all tests share: hypothesis without a deadline, a build cache of their own, runtimes that do not report their use."""

import os
import sys
from pathlib import Path

import pytest
from emulation import lend_aarch64
from hypothesis import settings

from hwbench.cpuid import emulated_cpu
from hwbench.targets.emulated import EmulatedTarget
from hwbench.telemetry import silence_telemetry

settings.register_profile("hwbench", deadline=None)
settings.load_profile("hwbench")
silence_telemetry()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


@pytest.fixture(scope="session", autouse=True)
def program_to_emulate():
    """Where this interpreter is emulated itself, it is a script (`avx2.launcher`), which QEMU cannot run."""
    with pytest.MonkeyPatch.context() as patch:
        if emulated_cpu():
            patch.setattr(EmulatedTarget, "python", str(Path(sys.executable).with_name("python")))
        yield


@pytest.fixture(scope="session")
def aarch64(own_cache, tmp_path_factory):
    """The system root of aarch64, one for all the processes of a test run."""
    base = tmp_path_factory.getbasetemp()
    lend_aarch64((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "system-roots")
