from __future__ import annotations

import threading

import pytest

from hwbench.cli.progress import LiveProgress
from hwbench.progress import Progress, Silent


def tell(progress: Progress) -> None:
    progress.step("reference: accuracy")
    progress.plan(2)
    progress.step("cpu-fp32: accuracy")
    progress.advance()
    progress.note("cpu-fp32", "ok")
    progress.note("gpu", "unavailable")
    progress.advance()
    progress.note("broken [bold]", "error")


def test_on_a_pipe_there_is_a_line_a_profile(capsys):
    with LiveProgress() as progress:
        tell(progress)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == ["✓ cpu-fp32 (ok)", "– gpu (unavailable)", "✗ broken [bold] (error)"]


def test_quiet_says_nothing(capsys):
    with LiveProgress(quiet=True) as progress:
        tell(progress)
    assert capsys.readouterr() == ("", "")


def test_on_a_terminal_it_draws_a_bar_and_no_thread_beside_a_measurement(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    before = threading.active_count()
    with LiveProgress() as progress:
        tell(progress)
        assert threading.active_count() == before
    err = capsys.readouterr().err
    assert "cpu-fp32: accuracy" in err
    assert "2/2" in err
    assert "✓ cpu-fp32 (ok)" in err


@pytest.mark.parametrize("listener", [Silent(), LiveProgress(quiet=True)])
def test_both_listeners_keep_the_protocol(listener, capsys):
    tell(listener)
    assert capsys.readouterr().out == ""
