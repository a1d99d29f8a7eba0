from __future__ import annotations

import threading

import pytest

from hwbench.cli.progress import LiveProgress, describe
from hwbench.progress import Progress, Silent
from hwbench.studies import Interim


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


def some(done):
    return lambda: Interim(done, 2000, "trials", "SDC 1.000% [0.500%, 2.000%]")


def test_on_a_pipe_figures_are_a_line_now_and_then(capsys):
    with LiveProgress() as progress:
        progress.plan(4)
        progress.figures("cpu-fp32: accuracy", lambda: None)
        for done in (500, 1000, 1500):
            progress.figures("cpu-fp32: faults", some(done))
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 1  # the others came too soon after it
    assert lines[0].startswith("cpu-fp32: faults: 500 of 2,000 trials, ")
    assert lines[0].endswith(" left, SDC 1.000% [0.500%, 2.000%]")


def test_on_a_terminal_figures_stay_while_the_study_goes_on(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "120")
    with LiveProgress() as progress:
        progress.plan(2)
        progress.figures("cpu-fp32: faults", some(500))
        capsys.readouterr()
        progress.step("cpu-fp32: faults")
        progress.advance()
    assert "500 of 2,000 trials" in capsys.readouterr().err


def test_figures_are_not_computed_for_nobody():
    def fail():
        raise AssertionError

    LiveProgress(quiet=True).figures("cpu-fp32: faults", fail)
    Silent().figures("cpu-fp32: faults", fail)


@pytest.mark.parametrize(
    ("done", "before", "seconds", "text"),
    [
        (500, 0, 10, "500 of 2,000 trials, 50/s, 30 s left"),
        (1500, 1400, 200, "1,500 of 2,000 trials, 0.5/s, 16 min 40 s left"),
        (1, 0, 4, "1 of 2,000 trials, 0.25/s, 2 h 13 min left"),
        (0, 0, 10, "0 of 2,000 trials"),
    ],
)
def test_rate_and_remaining_time(done, before, seconds, text):
    assert describe(Interim(done, 2000, "trials", ""), before, seconds) == text


@pytest.mark.parametrize("listener", [Silent(), LiveProgress(quiet=True)])
def test_both_listeners_keep_the_protocol(listener, capsys):
    tell(listener)
    assert capsys.readouterr().out == ""


def test_on_a_pipe_passes_and_remaining_time_are_a_line_now_and_then(capsys):
    with LiveProgress() as progress:
        progress.plan(3)
        for done in (34, 35):
            progress.passes("cpu-int8: bit_flips", done, 121, 200.0)
    assert capsys.readouterr().err.splitlines() == [
        "cpu-int8: bit_flips: 34 of 121 passes, about 3 min 20 s left for the run"
    ]


def test_on_a_terminal_passes_are_the_bars_text_and_it_never_counts_to_nothing(capsys, monkeypatch):
    monkeypatch.setenv("FORCE_COLOR", "1")
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    with LiveProgress() as progress:
        progress.step("reference: accuracy")
        progress.plan(3)
        progress.passes("cpu-int8: bit_flips", 34, 121, None)
    err = capsys.readouterr().err
    assert "cpu-int8: bit_flips: 34 of 121 passes" in err
    assert "0/3" in err
    assert "0/0" not in err
