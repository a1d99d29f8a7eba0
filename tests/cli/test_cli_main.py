from __future__ import annotations

import pytest

from hwbench import __version__

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
