"""The ratio of timings at work: a build of half the speed is found, and a machine that is never quiet gives no figure.

`timing_trust.py` repeats such measurements by the dozen.
"""

from __future__ import annotations

import math
import os
from contextlib import ExitStack

import pytest
from timing_trust import measure, neighbor

SETTINGS = {"launches": 5, "max_launches": 10}


def test_a_build_of_half_the_speed_is_found(benchmark, tmp_path):
    row = benchmark.pedantic(measure, args=(tmp_path, 0, "half"), kwargs=SETTINGS, rounds=1)
    benchmark.extra_info |= {"ratio": [row.value, row.ci_low, row.ci_high]}
    print(f"half the speed: ratio {row.value:.2f} [{row.ci_low:.2f}, {row.ci_high:.2f}] {row.detail}")
    assert 1 < row.ci_low < row.value < 3 or row.detail.startswith("noisy")


@pytest.mark.slow
def test_a_machine_that_is_never_quiet_gives_no_ratio(benchmark, tmp_path):
    with ExitStack() as stack:
        for _ in range(2 * (os.cpu_count() or 1)):
            stack.enter_context(neighbor(rest=0.0))
        row = benchmark.pedantic(measure, args=(tmp_path, 0, "half"), kwargs=SETTINGS, rounds=1)
    assert (row.ci_low, row.ci_high) == (0.0, math.inf)
    assert row.detail.startswith("noisy: ")
