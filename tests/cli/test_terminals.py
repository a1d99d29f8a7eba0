"""Terminals that lack most signs: ASCII stand-ins, and every command works."""

from __future__ import annotations

import json
import os
import pty

import numpy as np
import pytest
from run_files import write_run

from hwbench.cli.console import adapt_streams, printable

POOR = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
ENCODINGS = {
    "ascii": {**POOR, "PYTHONIOENCODING": "ascii"},
    "latin-1": {**POOR, "PYTHONIOENCODING": "latin-1"},
    "ascii:strict": {**POOR, "PYTHONIOENCODING": "ascii:strict"},
    "C": POOR,
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize(
    "command",
    [
        ("profiles",),
        ("profiles", "edge-int8-128m"),
        ("report", "run", "-o", "report.md"),
        ("compare", "run", "run", "--all", "--fail-on", "accuracy.top1:0.5"),
        ("report", "µ–≥"),
    ],
)
def test_commands_print_what_the_terminal_has(process, tmp_path, encoding, command):
    write_run(tmp_path / "run")
    ended = process(*command, environment=ENCODINGS[encoding])
    assert ended.returncode == (2 if "µ–≥" in command else 0), ended.stderr
    assert b"Traceback" not in ended.stderr
    text = (ended.stdout + ended.stderr).decode("latin-1" if encoding == "latin-1" else "ascii")
    assert text
    assert "\x1b" not in text
    if "report.md" in command:
        assert "x pass" not in text
        assert ">=" in text or "<=" in text
        assert not (tmp_path / "report.md").read_text(encoding="utf-8").isascii()


@pytest.mark.parametrize(
    "command", ["", "demo", "run", "export", "build", "faults", "compare", "report", "profiles", "backends", "targets"]
)
def test_help_is_ascii(hw, command):
    ended = hw(*filter(None, [command]), "--help")
    assert ended.code == 0
    assert ended.out.isascii()


@pytest.mark.parametrize(
    "command", [("backends",), ("targets",), ("targets", "remove", "aarch64"), ("profiles", "--schema")]
)
def test_machines_are_listed_in_ascii(process, command):
    ended = process(*command, environment=ENCODINGS["ascii"])
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.isascii()


def test_json_is_ascii_and_valid_whatever_it_holds(process, tmp_path):
    write_run(tmp_path / "run")
    ended = process("report", "run", "--json", "-o", "junit.xml", environment=ENCODINGS["ascii"])
    assert ended.returncode == 0, ended.stderr
    told = json.loads(ended.stdout.decode("ascii"), parse_constant=pytest.fail)
    assert told["run"]["model"]["name"].startswith("</script>")
    assert any(row["metric"] == "sqnr_db" and row["value"] is None for row in told["measurements"])


@pytest.mark.slow
def test_a_run_without_asserts_and_unicode_gives_the_same(process, data, model):
    common = ("run", model, "--data", data, "--profiles", "cpu-fp32,cpu-int8", "--studies", "accuracy,lint,fidelity")
    for python in ((), ("-O",)):
        ended = process(*common, "-o", f"out{len(python)}", python=python, environment=ENCODINGS["ascii"])
        assert ended.returncode in (0, 1), ended.stderr
        assert (ended.stdout + ended.stderr).isascii()
        assert b"Accuracy drop" in ended.stdout
    first, second = (process("report", name, "--json", "-o", "x.xml") for name in ("out0", "out1"))
    assert json.loads(first.stdout)["measurements"] == json.loads(second.stdout)["measurements"]


def test_python_without_docstrings_is_refused_before_any_work(process, data, model, tmp_path):
    ended = process("run", model, "--data", data, "--profiles", "cpu-fp32", "-o", "out", python=("-OO",))
    assert ended.returncode == 2
    assert b"use python -O" in ended.stderr
    assert not (tmp_path / "out").exists()
    assert process("--help", python=("-OO",)).returncode == 0


@pytest.mark.parametrize(
    "environment", [{"TERM": "dumb"}, {"COLUMNS": "20"}, {"TERM": "xterm-256color", "COLUMNS": "20"}, {"NO_COLOR": "1"}]
)
def test_narrow_and_dumb_terminals(process, tmp_path, environment):
    write_run(tmp_path / "run")
    leader, follower = pty.openpty()
    ended = process("report", "run", "-o", "junit.xml", environment=environment, stdout=follower, stderr=follower)
    os.close(follower)
    told = b""
    try:
        while chunk := os.read(leader, 1 << 16):
            told += chunk
    except OSError:  # how Linux says that nobody writes any more
        pass
    os.close(leader)
    assert ended.returncode == 0
    assert b"Traceback" not in told
    assert told


def test_names_that_would_change_the_terminal_are_escaped():
    assert printable("a\x1b[2J\u202eb\udcffc\n\td – µ") == "a\\x1b[2J\\u202eb\\udcffc\n\td – µ"


def test_stand_ins(capsys):
    import sys

    sys.stdout.reconfigure(encoding="ascii")
    adapt_streams()
    sys.stdout.write("1.02 ±5% ≥ 3 → µs – ∞ ✓ é 中")
    assert capsys.readouterr().out == "1.02 +-5% >= 3 -> us - inf + \\xe9 \\u4e2d"


def test_data_with_names_that_are_not_utf8_are_read_and_models_refused(process, model, tmp_path):
    odd = os.fsdecode(b"m\xff.onnx")
    (tmp_path / odd).write_bytes(model.read_bytes())
    x = np.random.default_rng(0).standard_normal((12, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / os.fsdecode(b"d\xff.npz"), x=x)
    arguments = ("--data", os.fsdecode(b"d\xff.npz"), "--profiles", "cpu-fp32", "--studies", "accuracy")
    for ended in (process("run", odd, *arguments), process("run", model, *arguments, "-o", os.fsdecode(b"o\xff"))):
        assert ended.returncode == 2
        assert b"not UTF-8" in ended.stderr
