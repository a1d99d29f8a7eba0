from __future__ import annotations

import signal
import subprocess
import sys
import time

import pytest

from hwbench import __version__, demo
from hwbench.api import Run

COMMANDS = ["demo", "run", "export", "build", "faults", "compare", "report", "profiles", "backends", "targets"]


def test_version(hw):
    ended = hw("--version")
    assert (ended.code, ended.out) == (0, f"hwbench {__version__}\n")


def test_help_lists_every_command(hw):
    ended = hw("--help")
    assert ended.code == 0
    assert all(f"  {command}" in ended.out for command in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(hw, command):
    ended = hw(command, "-h")
    assert ended.code == 0
    assert f" {command} [OPTIONS]" in ended.out.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["runn"], "No such command 'runn'"),
        (["run", "model.onnx", "--profile", "cpu-fp32"], "--profiles"),
        (["run"], "Missing argument"),
        (["run", "m.onnx", "--seed", "abc"], "--seed"),
    ],
)
def test_wrong_usage_exits_with_2_and_a_hint(hw, arguments, said):
    ended = hw(*arguments)
    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.err


def test_an_error_is_one_line_and_debug_adds_the_traceback(hw):
    plain = hw("report", "nowhere")
    assert plain.code == 2
    assert plain.err == "error: nowhere: no run here (run.json is missing)\n"
    debug = hw("--debug", "report", "nowhere")
    assert debug.code == 2
    assert "Traceback" in debug.err
    assert debug.err.endswith(plain.err)


def test_what_the_system_refuses_is_told_with_the_files_name(hw, shared):
    ended = hw("report", shared.run.path, "-o", "/nonexistent/report.md")
    assert ended.code == 2
    assert ended.err == "error: /nonexistent/report.md: No such file or directory\n"


@pytest.mark.slow
def test_ctrl_c_exits_with_130_and_what_is_finished_can_be_read(shared, tmp_path):
    out, spec = tmp_path / "run", tmp_path / "study.toml"
    spec.write_text(
        f'model = "{demo.MODEL}"\nprofiles = ["cpu-fp32", "cpu-int8"]\nstudies = ["accuracy", "bit_flips"]\njobs = 1\n'
        f'[data]\nsource = "{shared.data}"\n[settings.bit_flips]\nrates = [0.001]\ndraws = 1000\n'
    )
    program = "from hwbench.cli import main; main()"
    command = [sys.executable, "-c", program, "run", str(spec), "--out", str(out)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        deadline = time.monotonic() + 60
        while not list(out.glob("jobs/*/done.json")):
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < deadline
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=30)
    assert process.returncode == 130
    assert "interrupted" in err
    assert "--resume" in err
    assert "Traceback" not in err
    run = Run.open(out)
    assert run.record["state"] == "interrupted"
    assert "reference" in set(run.table["profile"])
    assert set(run.table["status"]) == {"ok"}
