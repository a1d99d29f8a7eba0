"""The job that times one batch of a build, from which the time of other jobs is estimated."""

from __future__ import annotations

from hwbench.studies.base import Case
from hwbench.worker.protocol import Job


def timed_batch(case: Case) -> Job:
    """Load the build and run one batch of the size at which accuracy is measured."""
    return case.subject.job("timed_batch", case, n=case.data.n, batch=case.batch)
