"""Sends cases to `fuzz_server` and holds each outcome against what every hostile input must end in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from hypothesis import HealthCheck, settings

MAX_CPU_S = 5.0
MAX_MIB = 700.0

SERVER = Path(__file__).with_name("fuzz_server.py")


def examples(count: int) -> settings:
    """Settings of a fuzz test: so many cases, the same at every run, without shrinking forever."""
    checks = [
        HealthCheck.too_slow,
        HealthCheck.function_scoped_fixture,
        HealthCheck.data_too_large,
        HealthCheck.large_base_example,
    ]
    return settings(max_examples=count, derandomize=True, deadline=None, database=None, suppress_health_check=checks)


@dataclass(frozen=True)
class Outcome:
    """How one case ended."""

    code: int
    message: str
    peak_mib: float
    cpu_s: float
    wrote: list[str]


@dataclass
class Fuzzer:
    """A server, and the folder in which its cases are. A context manager."""

    root: Path
    ended: Counter[int] = field(default_factory=Counter)
    _number: int = 0

    def __enter__(self) -> Self:
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        threads = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "POLARS_MAX_THREADS"), "1")
        self._log = (self.root.parent / "fuzz-server.log").open("wb")  # what libraries print, and those that abort
        self._server = subprocess.Popen(
            [sys.executable, str(SERVER)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env={**os.environ, **threads, "PYTHONPATH": path, "PYTHONWARNINGS": "ignore"},
            text=True,
        )
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._server.communicate(timeout=30)
        self._log.close()

    def run(self, kind: str, files: Mapping[str, bytes], links: Mapping[str, str] | None = None) -> Outcome:
        """Run one case on files that are written for it."""
        self._number += 1
        folder = self.root / f"case-{self._number}"
        for name, content in files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
        for name, target in (links or {}).items():
            (folder / name).symlink_to(target)
        self._server.stdin.write(json.dumps([kind, str(folder)]) + "\n")
        self._server.stdin.flush()
        answer = self._server.stdout.readline()
        assert answer, "the server died"
        outcome = Outcome(**json.loads(answer))
        self.ended[outcome.code] += 1
        return outcome


def check(outcome: Outcome, names: Iterable[str]) -> None:
    """Every input ends in success, or in exit 2 with a message of reasonable length that names the file at fault."""
    assert outcome.code in (0, 2), outcome
    assert outcome.cpu_s < MAX_CPU_S, outcome
    assert outcome.peak_mib < MAX_MIB, outcome
    assert not outcome.wrote, outcome
    if outcome.code == 2:
        assert any(name in outcome.message for name in names), outcome
        assert len(outcome.message) < 4000, outcome
        assert "Traceback" not in outcome.message
