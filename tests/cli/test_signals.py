"""Signals that end a command: real processes in the middle of their work."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest
from accidents import workers

from hwbench import demo
from hwbench.api import Run
from hwbench.cli.signals import Interrupted, Interruptions, interruptible

DEADLINE_S = 120.0
CODES = {signal.SIGINT: 130, signal.SIGTERM: 143, signal.SIGHUP: 129}
SPEC = f'model = "{demo.MODEL}"\nprofiles = ["cpu-int8", "cpu-fp32"]\nstudies = ["accuracy", "bit_flips"]\n'
FLIPS = "[settings.bit_flips]\nrates = [0.001]\ndraws = 3000\n"


def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)


def heed_signals() -> None:
    """Undo what nohup, or a shell that starts the tests in the background, makes their processes ignore."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a command with a build cache of its own, in which nothing is made yet."""
    started: list[subprocess.Popen[str]] = []

    def start(*arguments: object) -> subprocess.Popen[str]:
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        env = {**os.environ, "PYTHONPATH": path, "HWBENCH_CACHE": str(tmp_path / "cache")}
        command = [sys.executable, "-m", "hwbench", *map(str, arguments)]
        pipe = subprocess.PIPE
        started.append(
            subprocess.Popen(
                command, stdout=pipe, stderr=pipe, text=True, env=env, cwd=tmp_path, preexec_fn=heed_signals
            )
        )
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.communicate()


def interrupt(process: subprocess.Popen[str], number: signal.Signals, ready: Callable[[], object]) -> None:
    """Send a signal twice when a command's worker runs; and see that nothing of it is left."""

    def works() -> bool:
        assert process.poll() is None, process.communicate()
        return bool(ready() and list(workers(process.pid)))

    until(works)
    busy = [psutil.Process(pid) for pid, _ in workers(process.pid)]
    process.send_signal(number)
    time.sleep(0.05)
    process.send_signal(number)
    _, err = process.communicate(timeout=DEADLINE_S)
    assert process.returncode == CODES[number], err
    assert err.endswith("interrupted: finished work is kept; --resume continues from there\n")
    assert "Traceback" not in err
    gone, alive = psutil.wait_procs(busy, timeout=10)
    assert not alive, gone
    assert not list(Path("/sys/fs/cgroup").rglob(f"hwbench-{process.pid}-*"))


@pytest.mark.slow
@pytest.mark.parametrize("number", CODES, ids=lambda number: number.name)
def test_each_signal_ends_a_run_that_can_be_resumed(shared, begin, tmp_path, number):
    out, spec = tmp_path / "run", tmp_path / "study.toml"
    spec.write_text(f'{SPEC}jobs = 2\n[data]\nsource = "{shared.data}"\n{FLIPS}')
    interrupt(begin("run", spec, "--out", out), number, lambda: list(out.glob("jobs/*/done.json")))
    run = Run.open(out)
    assert run.record["state"] == "interrupted"
    assert "reference" in set(run.table["profile"])
    assert set(run.table["status"]) == {"ok"}
    assert not list((tmp_path / "cache" / "work").iterdir())


@pytest.mark.slow
@pytest.mark.parametrize("command", ["faults", "compare", "build"])
def test_sigterm_ends_every_command_that_runs_workers(shared, begin, tmp_path, command):
    spec = tmp_path / "study.toml"
    spec.write_text(f'{SPEC}[data]\nsource = "{shared.data}"\n{FLIPS}')
    out = tmp_path / "out"
    arguments: dict[str, list[object]] = {
        "faults": [demo.MODEL, "--data", shared.data, "--profile", "cpu-int8", "--trials", 5000, "--out", out],
        "compare": ["--interleave", spec, spec, "--out", out],
        "build": [demo.MODEL, "--profile", "cpu-int8", "--calibration", demo.CALIBRATION, "--out", out],
    }
    interrupt(begin(command, *arguments[command]), signal.SIGTERM, lambda: True)


@pytest.fixture
def handlers() -> Iterator[None]:
    """Puts back the handlers of signals."""
    before = {number: signal.getsignal(number) for number in CODES}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.usefixtures("handlers")
def test_a_signal_that_comes_again_while_the_command_ends_changes_nothing():
    with interruptible() as signals:
        with pytest.raises(Interrupted) as first:
            signal.raise_signal(signal.SIGTERM)
        for number in CODES:
            signal.raise_signal(number)
    for number in CODES:
        signal.raise_signal(number)  # while it exits
    assert (first.value.code, signals.first) == (143, signal.SIGTERM)


def test_a_command_that_does_not_end_can_be_interrupted_again(monkeypatch):
    handler = Interruptions()
    with pytest.raises(Interrupted):
        handler(signal.SIGHUP, None)
    monkeypatch.setattr("hwbench.cli.signals._PATIENCE_S", 0.0)
    with pytest.raises(Interrupted) as again:
        handler(signal.SIGTERM, None)
    assert again.value.code == 129  # the first is why it ends


@pytest.mark.usefixtures("handlers")
def test_signals_that_a_command_was_started_to_ignore_stay_ignored():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible() as signals:
        signal.raise_signal(signal.SIGHUP)
    assert signals.first is None
    assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN


def test_handlers_are_what_they_were_after_a_command():
    before = [signal.getsignal(number) for number in CODES]
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) not in before
    assert [signal.getsignal(number) for number in CODES] == before


def test_another_thread_takes_no_signals():
    found = []

    def work() -> None:
        with interruptible():
            found.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [signal.getsignal(signal.SIGTERM)]
