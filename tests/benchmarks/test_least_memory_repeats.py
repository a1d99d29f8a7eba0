"""The least memory of the embedded model: the same answer within 4 MiB each time it is asked for, and how long that takes.

LEAST_MEMORY_REPEATS=5 asks five times; once is what CI has time for, which still holds the figures against each other.
"""

from __future__ import annotations

import os
from pathlib import Path
from time import perf_counter

import pytest

import hwbench
from hwbench import demo
from hwbench.api import Run

REPEATS = int(os.environ.get("LEAST_MEMORY_REPEATS", "1"))
TOLERANCE_MIB = 4


def asked(out: Path) -> Run:
    return hwbench.run(demo.MODEL, data=str(demo.DATA), profiles=["cpu-int8"], studies=["least_memory"], out=out)


@pytest.mark.slow
@pytest.mark.timeout(600 * REPEATS)
def test_the_figures_fit_each_other_and_each_answer_the_others(benchmark, tmp_path):
    answers, seconds = [], []

    def once() -> None:
        start = perf_counter()
        run = asked(tmp_path / str(len(answers)))
        seconds.append(perf_counter() - start)
        rows = {(row.metric, row.condition): row for row in run.rows if row.study == "least_memory"}
        least = rows["least_mib", "{}"]
        assert least.status == "ok", least.detail
        answers.append(least.value)
        assert rows["least_mib", '{"phase": "load"}'].value <= least.value
        assert rows["least_mib", '{"phase": "run"}'].value <= least.value + TOLERANCE_MIB
        assert rows["least_mib", '{"kind": "anonymous"}'].value < least.value
        accuracy = [row for (metric, _), row in rows.items() if metric == "top1"]
        assert len(accuracy) == 5
        assert len({row.value for row in accuracy}) == 1  # a cap takes time, never answers

    benchmark.pedantic(once, rounds=REPEATS)
    benchmark.extra_info |= {"least_mib": answers, "seconds": seconds}
    print(f"least memory: {answers} MiB, in {', '.join(f'{one:.0f}' for one in seconds)} s")
    assert max(answers) - min(answers) <= TOLERANCE_MIB
