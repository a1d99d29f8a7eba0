"""What the tests of emulated processors need of the machine: QEMU, and the system root of aarch64."""

from __future__ import annotations

import platform
import shutil
from pathlib import Path

import pytest

from hwbench.errors import UnavailableError
from hwbench.host import cache_home
from hwbench.targets import sysroot

_USERS = cache_home()  # before the tests have a cache of their own

needs_x86 = pytest.mark.skipif(
    platform.machine() != "x86_64" or shutil.which("qemu-x86_64-static") is None,
    reason="needs an x86-64 machine with qemu-user-static",
)


def lend_aarch64(shared: Path) -> None:
    """Place the system root of aarch64 in the tests' cache: the user's, or one installed in ``shared`` from the mirrors.

    Skips the test where there are none.
    """
    for cache in (_USERS, shared):
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv("HWBENCH_CACHE", str(cache))
            try:
                if cache == shared:
                    sysroot.install("aarch64", lambda _: None)
                found = sysroot.system_root("aarch64").path
            except UnavailableError as error:
                if cache == shared:
                    pytest.skip(f"no system root of aarch64: {error}")
                continue
        link = cache_home() / "targets" / found.name
        link.parent.mkdir(parents=True, exist_ok=True)
        if not link.exists():
            link.symlink_to(found)
        return
