from __future__ import annotations

import gc
import time

import numpy as np

from hwbench.worker import timing


def test_the_first_inputs_are_repeated_to_fill_a_batch(tmp_path):
    np.save(tmp_path / "x.npy", np.arange(6, dtype=np.float32).reshape(3, 2))
    (batch,) = timing.first_batch({"x": str(tmp_path / "x.npy")}, 5).values()
    assert batch.tolist() == [[0, 1], [2, 3], [4, 5], [0, 1], [2, 3]]
    assert batch.flags.c_contiguous
    (one,) = timing.first_batch({"x": str(tmp_path / "x.npy")}, 1).values()
    assert one.tolist() == [[0, 1]]


def test_a_time_limit_ends_the_runs_but_not_before_the_least():
    slow = timing.time_runs(lambda: time.sleep(0.002), 1000, limit_ns=1_000_000, least=5)
    assert len(slow) == 5
    assert len(timing.time_runs(lambda: None, 30, limit_ns=10**10)) == 30


def test_warm_up_goes_on_until_two_windows_agree():
    calls = []

    def cooling():
        calls.append(None)
        time.sleep(0.004 if len(calls) <= 10 else 0.001)

    runs, _ = timing.reach_steady_state(cooling, limit_s=5.0, window=10)
    assert runs == len(calls)
    assert runs >= 20


def test_the_collector_rests_between_two_clock_readings():
    assert gc.isenabled()
    with timing.uncollected():
        assert not gc.isenabled()
    assert gc.isenabled()


def test_warm_up_ends_at_its_limit_though_never_steady():
    calls = []

    def erratic():
        calls.append(None)
        time.sleep(0.0005 * (1 + 9 * (len(calls) % 2)))

    runs, steady = timing.reach_steady_state(erratic, limit_s=0.1)
    assert not steady
    assert runs == len(calls)
