"""Repeats of the demo's latency: how often the interval of a ratio holds the truth, and finds a planted slow-down.

    python tests/benchmarks/timing_trust.py same --repeats 40
    python tests/benchmarks/timing_trust.py same --repeats 40 --neighbor
    python tests/benchmarks/timing_trust.py slow --repeats 40
    python tests/benchmarks/timing_trust.py compare --repeats 20

``same`` measures one build twice, under two names, in the same blocks: its ratio is 1. ``slow`` measures it beside one that
is a tenth slower. ``compare`` measures the same thing in two runs, one after the other, and compares them with gates of
10 %. The neighbor burns one core in spells of 0.2 to 2 s with rests as long.
"""

from __future__ import annotations

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

if __name__ == "__main__":
    here = Path(__file__).parent
    sys.path[:0] = [str(here), str(here.parent.parent), str(here.parent.parent / "backends")]

import numpy as np
import slowed_backend

import hwbench
from hwbench import demo
from hwbench.comparison import compare_runs, evaluate_gates, parse_gate
from hwbench.table import Row, condition

SLOW_DOWN = 1.10


def measure(folder: Path, seed: int, other: str, **settings: Any) -> Row:
    """The ratio of the demo's latency on another backend to that on ONNX Runtime."""
    slowed_backend.register()
    profile = folder / f"{other}.toml"
    profile.write_text(f'extend = "cpu-fp32"\nbackend = "{other}"\n')
    run = hwbench.run(
        demo.MODEL, data=demo.DATA, profiles=["cpu-fp32", str(profile)], studies=["latency"], seed=seed,
        settings={"latency": settings}, out=folder / "run", overwrite=True,
    )  # fmt: skip
    setting = condition(batch=1, to="cpu-fp32")
    return next(row for row in run.rows if (row.metric, row.condition) == ("p50_ratio", setting))


def regressions(folder: Path, seed: int, **settings: Any) -> list[str]:
    """Gates of 10 % on two runs of the same thing, made one after the other: those that fail."""
    runs = [
        hwbench.run(
            demo.MODEL, data=demo.DATA, profiles=["cpu-fp32"], studies=["latency"], seed=seed,
            settings={"latency": settings}, out=folder / name, overwrite=True,
        )
        for name in ("a", "b")
    ]  # fmt: skip
    outcomes = evaluate_gates([parse_gate("p50_ms:10%"), parse_gate("p99_ms:10%")], compare_runs(*runs))
    return [
        f"{outcome.gate.text} {outcome.profile}: {outcome.detail}" for outcome in outcomes if outcome.outcome == "fail"
    ]


@contextmanager
def neighbor(rest: float = 2.0) -> Iterator[None]:
    """A process that burns one core in spells, with rests of up to some seconds between them."""
    process = subprocess.Popen([sys.executable, __file__, "burn", "--rest", str(rest)], start_new_session=True)
    try:
        yield
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def burn(rest: float) -> None:
    """Burn and rest in turn, each for a random time."""
    spells = np.random.default_rng(0)
    while True:
        until = time.monotonic() + spells.uniform(0.2, 2)
        while time.monotonic() < until:
            pass
        time.sleep(spells.uniform(min(0.2, rest), rest))


def main() -> None:
    """Repeat and count."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("kind", choices=["same", "slow", "compare", "burn"])
    parser.add_argument("--repeats", type=int, default=40)
    parser.add_argument("--neighbor", action="store_true")
    parser.add_argument("--rest", type=float, default=2.0)
    parser.add_argument("--launches", type=int, default=5)
    parser.add_argument("--max-launches", type=int, default=20)
    chosen = parser.parse_args()
    if chosen.kind == "burn":
        burn(chosen.rest)
    settings = {"launches": chosen.launches, "max_launches": chosen.max_launches}
    good = noisy = 0
    with tempfile.TemporaryDirectory() as name, neighbor() if chosen.neighbor else tempfile.TemporaryDirectory():
        for seed in range(chosen.repeats):
            if chosen.kind == "compare":
                failed = regressions(Path(name), seed, **settings)
                good += not failed
                print(f"{seed}: {'; '.join(failed) or 'no regression'}", flush=True)
                continue
            row = measure(Path(name), seed, "twin" if chosen.kind == "same" else "slow", **settings)
            low, high = float(row.ci_low or 0), float(row.ci_high or 0)
            holds = low <= 1 <= high if chosen.kind == "same" else low > 1
            good, noisy = good + holds, noisy + row.detail.startswith("noisy")
            print(
                f"{seed}: {row.value:.3f} [{low:.3f}, {high:.3f}] n={row.n} {row.detail} {'yes' if holds else 'NO'}",
                flush=True,
            )
    what = {"same": "hold 1", "slow": "find the slow-down", "compare": "report no regression"}[chosen.kind]
    print(f"{good} of {chosen.repeats} {what}; {noisy} noisy")


if __name__ == "__main__":
    main()
