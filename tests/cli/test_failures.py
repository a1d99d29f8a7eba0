"""Every exception ends in a message and a documented exit code."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from hwbench.cli import failures, main
from hwbench.cli.failures import Failure, explain, write_report
from hwbench.errors import DataError, JobError, UnavailableError, UnsupportedError


def raised(error):
    try:
        raise error
    except BaseException as caught:  # noqa: BLE001
        return caught


@pytest.fixture
def state(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "state"))
    return tmp_path / "state" / "hwbench"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (DataError("d"), 2),
        (UnsupportedError("u"), 2),
        (UnavailableError("u", "h"), 2),
        (JobError("j"), 1),
        (KeyboardInterrupt(), 130),
        (BrokenPipeError(errno.EPIPE, "Broken pipe"), 141),
        (PermissionError(errno.EACCES, "Permission denied", "f"), 2),
        (OSError(errno.ENOSPC, "No space left on device"), 2),
        (OSError(errno.EROFS, "Read-only file system", b"f\xff"), 2),
        (OSError("no number"), 70),
        (OSError(errno.EBADF, "Bad file descriptor"), 70),
        (MemoryError(), 70),
        (RecursionError("deep"), 70),
        (UnicodeEncodeError("ascii", "–", 0, 1, "no"), 70),
        (ValueError("a\nb"), 70),
        (SystemError(), 70),
        (GeneratorExit(), 70),
    ],
)
def test_every_exception_has_a_code_and_a_message_of_one_line(state, error, code):
    failure = explain(raised(error))
    assert failure.code == code
    assert "\n" not in failure.message
    assert bool(failure.message) == (code != 141)
    assert len(list(state.glob("*.txt"))) == (code == 70)


def test_the_systems_errors_name_the_file_and_what_to_do(state):
    failure = explain(OSError(errno.ENOSPC, "No space left on device", "/cache/build"))
    assert failure == Failure(
        2, "error: /cache/build: No space left on device; free some space, or name a folder on another disk"
    )


def test_a_report_holds_traceback_versions_and_command_and_none_is_overwritten(state, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["hwbench", "run", "a b"])
    files = [write_report(raised(ValueError(f"{number} \udcff"))) for number in range(3)]
    assert len(set(files)) == 3
    assert {file.parent for file in files} == {state}
    text = files[2].read_text(encoding="utf-8")
    assert "command: hwbench run 'a b'\n" in text
    assert "numpy: " in text
    assert "Traceback" in text
    assert text.endswith("ValueError: 2 \\udcff\n")


def test_without_a_state_folder_the_report_is_in_the_temporary_one(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path / "file"))
    monkeypatch.setattr(failures.tempfile, "tempdir", str(tmp_path))
    assert write_report(raised(ValueError())).parent == tmp_path
    monkeypatch.setattr(failures.tempfile, "tempdir", str(tmp_path / "file"))
    assert write_report(raised(ValueError())) is None


def test_an_unexpected_error_is_one_sentence_with_a_report(hw, state, monkeypatch):
    def broken():
        raise ZeroDivisionError("of \x1b[2J ours")

    monkeypatch.setattr("hwbench.profile.profile_names", broken)
    ended = hw("profiles")
    assert ended.code == 70
    assert re.fullmatch(
        r"error: unexpected ZeroDivisionError: of \\x1b\[2J ours \(\w+\.py:\d+\)\. This is a bug in hwbench; "
        r"details in \S+/state/hwbench/hwbench-error-\S+\.txt\n",
        ended.err,
    )
    debug = hw("--debug", "profiles")
    assert "Traceback" in debug.err
    assert debug.code == 70


def test_a_full_disk_behind_standard_output_is_an_error(process):
    with Path("/dev/full").open("wb") as full:
        ended = process("profiles", stdout=full)
    assert ended.returncode == 2
    assert ended.stderr.startswith(b"error: the system refused: No space left on device")


def test_a_reader_that_closes_the_output_is_no_error(process, tmp_path):
    reader, writer = os.pipe()
    os.close(reader)
    ended = process("profiles", stdout=writer)
    os.close(writer)
    assert (ended.returncode, ended.stderr) == (141, b"")


@pytest.mark.parametrize("closed", [">&-", "2>&-", ">&- 2>&- <&-"])
def test_closed_streams_do_not_matter(tmp_path, closed):
    command = f"{sys.executable} -m hwbench profiles {closed}"
    path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
    ended = subprocess.run(
        ["sh", "-c", command], env={**os.environ, "PYTHONPATH": path}, capture_output=True, check=False, timeout=60
    )
    assert (ended.returncode, ended.stderr) == (0, b"")


def test_a_command_that_is_interrupted_says_so(monkeypatch, hw):
    def interrupted():
        raise KeyboardInterrupt

    monkeypatch.setattr("hwbench.profile.profile_names", interrupted)
    ended = hw("profiles")
    assert ended.code == 130
    assert ended.err == "interrupted: finished work is kept; --resume continues from there\n"


def test_exit_codes_in_the_documentation_are_those_of_the_code():
    readme = (Path(main.__globals__["__file__"]).parents[2] / "README.md").read_text(encoding="utf-8")
    from hwbench import errors

    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")} | {0, 3, 4}
    documented = {int(code) for code in re.findall(r"^\| (\d+) \|", readme, flags=re.MULTILINE)}
    assert documented == codes
    assert {int(code) for code in re.findall(r"^    (\d+) ", errors.__doc__ or "", flags=re.MULTILINE)} == codes
