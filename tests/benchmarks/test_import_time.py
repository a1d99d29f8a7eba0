"""Importing hwbench, and asking for help, cost little more than the interpreter's own start.

The aim is 0.15 s for ``import hwbench`` and 0.4 s for ``hwbench --help``, the interpreter's start included. Seconds differ
between machines, so both are held against what importing numpy takes in processes started in turn with them. Where that
is 0.1 s and the bare interpreter starts in 0.015 s, the limits below stand for 0.065 s and 0.215 s.
"""

from __future__ import annotations

import subprocess
import sys
from statistics import median
from time import perf_counter

import pytest

ROUNDS = 15
HELP = "import sys; from hwbench.cli import main; sys.argv = ['hwbench', '--help']; main()"
PROGRAMS = {"nothing": "pass", "numpy": "import numpy", "import hwbench": "import hwbench", "hwbench --help": HELP}


def started(code: str) -> float:
    """Seconds from starting an interpreter on ``code`` to its end."""
    begin = perf_counter()
    subprocess.run([sys.executable, "-c", code], check=True, stdout=subprocess.DEVNULL)
    return perf_counter() - begin


@pytest.fixture(scope="module")
def seconds() -> dict[str, float]:
    """The median duration of each program, all started in turn, so that whatever slows the machine slows all."""
    for code in PROGRAMS.values():
        started(code)  # compiles what is not compiled yet
    rounds = [{name: started(code) for name, code in PROGRAMS.items()} for _ in range(ROUNDS)]
    return {name: median(one[name] for one in rounds) for name in PROGRAMS}


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        pytest.param("import hwbench", 0.5, id="import"),
        pytest.param("hwbench --help", 2.0, id="help"),
    ],
)
def test_start_in_units_of_importing_numpy(benchmark, seconds, name, limit):
    numpy_alone = seconds["numpy"] - seconds["nothing"]
    ratio = (seconds[name] - seconds["nothing"]) / numpy_alone
    benchmark.extra_info |= {"ratio_to_numpy": ratio, "median_seconds": seconds}
    benchmark.pedantic(started, args=(PROGRAMS[name],), rounds=3)
    print(f"{name}: {seconds[name]:.3f} s, of which the interpreter {seconds['nothing']:.3f} s; {ratio:.2f} × numpy")
    assert ratio < limit
