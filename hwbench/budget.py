"""The wall time that a run may take, and what it was spent on."""

from __future__ import annotations

import math
import threading
import time
from collections import Counter
from dataclasses import replace
from typing import Any

from hwbench.durations import format_duration
from hwbench.worker.protocol import Job

# Kept for what comes after the last job, analysis, table and reports: a part of the budget but not more than this, and as much
# as analysis has taken so far, which tells how fast the machine is; in all not more than another part.
_FINISH_S, _FINISH_SHARE, _MOST_SHARE = 10.0, 0.08, 0.25

ANALYSIS = "analysis"


class Budget:
    """The wall time of a run, on the monotonic clock. May be used from several threads.

    Args:
        seconds: How long the run may take; None for as long as it takes.
    """

    def __init__(self, seconds: float | None = None) -> None:
        self.seconds = seconds
        self._began = time.monotonic()
        self._lock = threading.Lock()
        self._spent: Counter[str] = Counter()
        self._declined: dict[tuple[str, str], list[str]] = {}

    @property
    def limited(self) -> bool:
        """True if there is a budget."""
        return self.seconds is not None

    @property
    def left(self) -> float:
        """Seconds that jobs may still take; infinite without a budget."""
        if self.seconds is None:
            return math.inf
        finish = min(_FINISH_S, _FINISH_SHARE * self.seconds) + self._spent[ANALYSIS]
        finish = min(finish, _MOST_SHARE * self.seconds)
        return max(0.0, self._began + self.seconds - finish - time.monotonic())

    @property
    def over(self) -> bool:
        """True once it is spent."""
        return self.left <= 0

    @property
    def name(self) -> str:
        """The budget in words."""
        return f"the budget of {format_duration(self.seconds or 0)}"

    def within(self, job: Job, stop_s: float = math.inf) -> Job:
        """A job that ends when the budget is spent, or ``stop_s`` seconds after its start.

        Args:
            job: The job.
            stop_s: Its share of the budget.
        """
        limit = min(self.left, stop_s)
        return replace(job, limits=replace(job.limits, stop_s=limit)) if limit < math.inf else job

    def charge(self, purpose: str, seconds: float) -> None:
        """Account seconds of a job to a study, or to what else they were for."""
        with self._lock:
            self._spent[purpose] += seconds  # type: ignore[assignment]  # a Counter of seconds

    def decline(self, profile: str, study: str, job: str) -> None:
        """Record a job that was not done for lack of time, by the study's label."""
        self._declined.setdefault((profile, study), []).append(job)

    def record(self) -> dict[str, Any]:
        """Its entry in ``run.json``; ``job_s`` adds up the time of jobs that ran at once."""
        return {
            "seconds": self.seconds,
            "wall_s": round(time.monotonic() - self._began, 3),
            "job_s": {purpose: round(seconds, 3) for purpose, seconds in sorted(self._spent.items())},
            "declined": [
                {"profile": profile, "study": study, "jobs": jobs} for (profile, study), jobs in self._declined.items()
            ],
        }
