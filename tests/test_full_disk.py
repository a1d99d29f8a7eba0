"""Runs whose disk is full: named with its path, nothing that was there is damaged, and resumed once there is room."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from polars.testing import assert_frame_equal
from shared_run import figures, some_digits

import hwbench
from hwbench import demo
from hwbench.api import Run
from hwbench.errors import RunDirectoryError


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return some_digits(tmp_path_factory.mktemp("data") / "digits.npz", n=64)[0]


@pytest.fixture
def disk(tmp_path) -> Iterator[Path]:
    """A mount point for small file systems."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system takes root")
    made = mount(place, 1000)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


def mount(place: Path, kib: int, *options: str) -> subprocess.CompletedProcess[str]:
    command = ["mount", "-t", "tmpfs", "-o", ",".join((*options, f"size={kib}k")), "tmpfs", str(place)]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def small_run(data: Path, out: Path, **how: bool) -> Run:
    return hwbench.run(
        demo.MODEL, data=data, out=out, profiles=["cpu-fp32", "cpu-int8"], studies=["accuracy", "fidelity"], **how
    )


@pytest.mark.parametrize("kib", [300, 600])
def test_a_run_on_a_full_disk_names_it_and_goes_on_once_there_is_room(disk, data, tmp_path, kib):
    """Full when builds are placed, or when results are written."""
    assert mount(disk, kib, "remount").returncode == 0
    with pytest.raises(RunDirectoryError, match=f"{disk}/.*: the disk is full"):
        small_run(data, disk / "run")
    assert Run.open(disk / "run").record["state"] in ("running", "interrupted")
    assert mount(disk, 40_000, "remount").returncode == 0
    resumed = small_run(data, disk / "run", resume=True)
    assert resumed.record["repairs"] == []
    assert_frame_equal(figures(resumed), figures(small_run(data, tmp_path / "elsewhere")))
