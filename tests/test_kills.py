"""Runs killed at random moments and resumed: the table is that of a run that nobody disturbed, and nothing is left behind."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import psutil
import pytest
from accidents import workers
from models import small_cnn
from polars.testing import assert_frame_equal

from hwbench.api import Run
from hwbench.targets.reruns import RERUNS

SEED = 20
MOMENTS = 20
# The later moments of a run are met once it has been resumed some times.
PART = 0.6
SPEC = """
model = "model.onnx"
profiles = ["cpu-int8"]
studies = ["accuracy", "noise", "bit_flips", "faults"]
seed = 3
[data]
source = "data.npz"
[settings.noise]
snr_db = [10]
impulse_rates = []
weight_sigmas = [0.02]
draws = 20
[settings.bit_flips]
rates = [0.001]
draws = 20
[settings.faults]
trials = 40
"""


@dataclass
class Command:
    """The command line of a run, with a build cache of its own.

    Attributes:
        folder: Where model, data, specification and cache are.
        out: The run directory.
        took: Seconds that each process of it ran.
    """

    folder: Path
    out: Path
    took: list[float] = field(default_factory=list)

    def start(self) -> subprocess.Popen[bytes]:
        """Begin the run, or go on with it."""
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        env = {**os.environ, "PYTHONPATH": path, "HWBENCH_CACHE": str(self.folder / "cache")}
        resume = ["--resume"] * (self.out / "run.json").exists()
        command = [sys.executable, "-m", "hwbench", "run", "study.toml", "--out", str(self.out), "--quiet", *resume]
        null = subprocess.DEVNULL
        return subprocess.Popen(command, cwd=self.folder, env=env, stdout=null, stderr=null)

    def finish(self) -> Run:
        """Go on to the end."""
        began = time.monotonic()
        assert self.start().wait(240) == 0
        self.took.append(time.monotonic() - began)
        return Run.open(self.out)

    def is_killed_after(self, seconds: float, number: signal.Signals) -> bool:
        """Go on for some time; then end it by a signal, and see that no worker of it survives. False if it was faster."""
        process = self.start()
        try:
            assert process.wait(seconds) == 0
            return False
        except subprocess.TimeoutExpired:
            busy = [psutil.Process(pid) for pid, _ in workers(process.pid)]
            process.send_signal(number)
            process.wait(60)
            _, alive = psutil.wait_procs(busy, timeout=20)
            assert not alive
            return True


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("kills")
    onnx.save(small_cnn(), folder / "model.onnx")
    x = np.random.default_rng(0).standard_normal((24, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.full(24, 2))  # the class the model gives for nearly all
    (folder / "study.toml").write_text(SPEC)
    return folder


@pytest.fixture(scope="module")
def undisturbed(folder: Path) -> tuple[Run, float]:
    """The run that nobody disturbed, and how long it took."""
    command = Command(folder, folder / "undisturbed")
    return command.finish(), command.took[0]


def check(run: Run, undisturbed: Run, *, details: bool = True) -> None:
    """Compare two runs bit for bit: the table, with or without its remarks, and every draw and trial."""
    tables = (run.table, undisturbed.table) if details else (one.table.drop("detail") for one in (run, undisturbed))
    assert_frame_equal(*tables)
    for kind in ("draws", "trials"):
        assert_frame_equal(*(pl.read_parquet(one.path / kind / "cpu-int8" / "*.parquet") for one in (run, undisturbed)))


def check_nothing_is_left(folder: Path, out: Path) -> None:
    left = [path for name in (".making-*", ".placing-*", "*.partial") for path in folder.rglob(name)]
    assert left == []
    assert list((folder / "cache" / "work").iterdir()) == []
    assert not (out / "jobs").exists()


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_run_killed_at_random_moments_and_resumed_gives_the_same_table(folder, undisturbed):
    expected, seconds = undisturbed
    moments = random.Random(SEED)  # noqa: S311  no secret
    kills = runs = 0
    while kills < MOMENTS:
        command, runs = Command(folder, folder / f"killed{runs}"), runs + 1
        while kills < MOMENTS and command.is_killed_after(
            moments.uniform(0, PART * seconds), moments.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGTERM])
        ):
            kills += 1
        check(command.finish(), expected)
        check_nothing_is_left(folder, command.out)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_run_whose_workers_are_killed_at_random_moments_gives_the_same_table(folder, undisturbed):
    expected, seconds = undisturbed
    moments, killed = random.Random(SEED), Counter[Path]()  # noqa: S311  no secret
    command = Command(folder, folder / "workers-killed")
    process = command.start()
    while process.poll() is None:
        time.sleep(moments.uniform(0, seconds / 8))
        for pid, job in list(workers(process.pid))[:1]:
            if killed[job] < RERUNS:  # once more, and it is an error
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
                killed[job] += 1
    assert process.returncode == 0
    assert killed
    check(Run.open(command.out), expected, details=False)
    check_nothing_is_left(folder, command.out)
