"""Launches: fresh processes that time a build, in blocks over all profiles, shared by the studies of time.

Launch k of every profile comes before launch k + 1 of any, in an order drawn anew for each block (a randomized complete block
design), so that what changes the machine's speed for minutes hits all profiles alike and cancels in their ratios. One
launch times the points of every study of time in the run.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from pydantic import Field

from hwbench import stats
from hwbench.bounds import LAUNCHES, WAIT_S
from hwbench.studies.base import LEVEL, Analysis, Case, Settings, Study
from hwbench.studies.launch_series import BASELINE, OWN, Array
from hwbench.worker.protocol import Job, JobResult

T = TypeVar("T")


class LaunchSettings(Settings):
    """Settings of a study of time."""

    launches: int = Field(5, ge=2, le=LAUNCHES, description="fresh processes per profile, in blocks over all profiles")
    max_launches: int = Field(
        20, ge=2, le=LAUNCHES, description="processes per profile at most, if the first ones do not give the precision"
    )
    precision: float = Field(
        0.05,
        gt=0,
        lt=1,
        description="wanted half-width of the interval, as a share of the figure",
    )
    windows: int = Field(3, ge=1, le=LAUNCHES, description="windows of runs in each process")
    window_s: float = Field(0.1, gt=0, le=WAIT_S, description="length of a window, in seconds")
    warm_up_s: float = Field(1.0, gt=0, le=WAIT_S, description="length of the warm-up at most, in seconds")


def point(settings: LaunchSettings, batch: int, options: Mapping[str, Any], runs: int) -> dict[str, Any]:
    """A point for the ``launch`` task.

    Args:
        settings: The study's.
        batch: Inputs per run.
        options: In place of the profile's own.
        runs: The fewest runs of a window.
    """
    timed = {"windows": settings.windows, "window_s": settings.window_s, "warm_up_s": settings.warm_up_s}
    return {"batch": batch, "options": dict(options), "runs": runs, **timed}


class LaunchStudy(Study):
    """Base of the studies whose figures come from launches."""

    timing = True

    def plan(self, case: Case, settings: LaunchSettings) -> dict[str, Job]:
        """The first launches, and the baseline's in the same blocks."""
        return _jobs(case, case.baseline, range(settings.launches))

    def extend(self, case: Case, settings: LaunchSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Further launches, once, where the spread of the first ones does not give the precision asked for.

        They time this study's points alone.
        """
        done = sum(label.startswith(OWN) for label in results)
        if done != settings.launches or any(not result.ok for result in results.values()):
            return {}
        most = max(done, settings.max_launches)
        needed = [
            stats.launches_needed(values, settings.precision, most, LEVEL) + done - len(values)
            for values in self.deciding(case, settings, results)
        ]
        own, baseline = (side and replace(side, points=self.points(side, settings)) for side in (case, case.baseline))
        return _jobs(own or case, baseline, range(done, min(most, max(needed, default=done))))

    def enough(self, case: Case, settings: LaunchSettings, results: Mapping[str, JobResult]) -> bool:
        """Two launches of the build, which have a spread."""
        return sum(label.startswith(OWN) and result.ok for label, result in results.items()) > 1

    def deciding(self, case: Case, settings: LaunchSettings, results: Mapping[str, JobResult]) -> Iterator[Array]:
        """The figures per launch, or ratios per block, whose spread decides on further launches.

        None for a build that others disturb too much: more launches would not end that.
        """
        raise NotImplementedError

    def measure(self, case: Case, settings: Any, results: Mapping[str, JobResult]) -> Analysis:
        """`Study.measure` on the build's own launches; a baseline that fails costs the ratios alone."""
        for label, result in results.items():
            if not result.ok and not label.startswith(BASELINE):
                return Analysis([self.missing(result.status, f"{label}: {result.detail}")])
        return self.analyse(case, settings, results)


def _jobs(case: Case, baseline: Case | None, blocks: Sequence[int]) -> dict[str, Job]:
    jobs = {f"{OWN}-{block}": launch(case, block) for block in blocks}
    if baseline is not None:
        jobs |= {f"{BASELINE}-{block}": launch(baseline, block) for block in blocks}
    return jobs


def launch(case: Case, block: int) -> Job:
    """The job of one launch, alone on the machine, under the limits of the profile's target."""
    quota = case.profile.target.cpu_quota is not None
    job = case.subject.job("launch", case, exclusive=True, launch=block, quota=quota, points=dict(case.points))
    return replace(on_target(job, case), variants=tuple(case.points), block=block)


def on_target(job: Job, case: Case) -> Job:
    """The job under the limits of the profile's target."""
    return replace(job, limits=case.profile.target.limits(case.timeout_s))


def in_blocks(jobs: Sequence[Job], seed: int) -> list[Job]:
    """Exclusive jobs in the order in which they run: those of no block as planned, then block by block, shuffled within each.

    Args:
        jobs: The jobs.
        seed: Seed of the order, which depends on nothing else but the jobs' keys.
    """
    ordered = [job for job in jobs if job.block is None]
    for block in sorted({job.block for job in jobs if job.block is not None}):
        members = sorted((job for job in jobs if job.block == block), key=lambda job: job.key)
        ordered += [members[index] for index in np.random.default_rng([seed, block]).permutation(len(members))]
    return ordered


def interleave(runs: Sequence[Generator[Job, None, T]], seed: int = 0) -> list[T]:
    """Carry out runs that pause before their exclusive jobs, so that blocks go over all of them.

    Args:
        runs: Each yields the exclusive job that it is about to carry out.
        seed: Seed of the order within a block.

    Returns:
        What each run returned.
    """
    order = np.random.default_rng(seed)
    waiting: dict[int, Job] = {}
    returned: dict[int, T] = {}

    def advance(index: int) -> None:
        waiting.pop(index, None)
        try:
            waiting[index] = next(runs[index])
        except StopIteration as end:
            returned[index] = end.value

    for index in range(len(runs)):
        advance(index)
    while waiting:
        blocks = {index: -1 if job.block is None else job.block for index, job in waiting.items()}
        ready = [index for index, block in blocks.items() if block == min(blocks.values())]
        advance(ready[order.integers(len(ready))])
    return [returned[index] for index in range(len(runs))]
