"""Execution of a run's jobs: several at once, or one alone; each once, within the budget, and resumable."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from hwbench.budget import Budget
from hwbench.costs import Costs
from hwbench.disk import require_space
from hwbench.integrity import DamagedError
from hwbench.scratch import remove
from hwbench.targets import Targets
from hwbench.worker.progress import count_finished
from hwbench.worker.protocol import STOPPED, Job, JobResult

# Between two looks at what the running jobs have finished.
_LOOK_S = 1.0


@dataclass(frozen=True)
class Running:
    """A job in the works.

    Attributes:
        job: The job.
        finished: How many of its variants are done.
        left_s: Estimate of the seconds it still takes.
    """

    job: Job
    finished: int
    left_s: float


class Scheduler:
    """Runs jobs on their targets.

    Args:
        targets: The machines.
        folder: Where results are kept until the run is complete.
        at_once: How many jobs that measure no time run at once.
        budget: The time there is.
        results: Results there are already, by the jobs' keys.
        say: Receiver of a sentence about each damaged result whose job is done again.
    """

    def __init__(
        self,
        targets: Targets,
        folder: Path,
        at_once: int,
        budget: Budget,
        results: dict[str, JobResult],
        say: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.targets, self.budget, self.results, self.costs = targets, budget, results, Costs()
        self._folder, self._at_once, self._say = folder, at_once, say

    @property
    def at_once(self) -> int:
        """Number of jobs that run at once, here or on a cluster, if they measure no time."""
        return max(self._at_once, self.targets.helping)

    def run(self, job: Job, purpose: str) -> JobResult:
        """Run a job once: studies and profiles that ask for the same work share it.

        Args:
            job: The work.
            purpose: What its time is accounted to.
        """
        if job.key in self.results:
            return self.results[job.key]
        result = self._carry_out(job, purpose)
        self._keep(job, result)
        return result

    def make(self, job: Job, folder: Path) -> JobResult:
        """Run a job that makes a build, in the folder given. Called from several threads."""
        began = time.monotonic()
        result = self.targets.run(self.budget.within(job), folder)
        self.budget.charge("builds", time.monotonic() - began)
        return result

    def together(
        self,
        pick: Callable[[list[Running]], tuple[Job, str, float] | None],
        look: Callable[[list[Running]], None],
        done: Callable[[Job], None],
    ) -> None:
        """Run jobs that measure no time, several at once; their numbers do not depend on how many.

        Args:
            pick: Names the next job, given those that run, what its time is accounted to and after how many seconds it has to
                end; None where there is none for now.
            look: Called now and then with the jobs that run.
            done: Called after each job; there is no result of one that the budget ended with nothing to show.
        """
        with self.pool(self.at_once) as pool:
            running: dict[Future[JobResult], tuple[Job, float]] = {}
            while True:
                while len(running) < self.at_once and (picked := pick(self._running(running))) is not None:
                    job, purpose, stop_s = picked
                    future = pool.submit(self._carry_out, job, purpose, stop_s, anywhere=True)
                    running[future] = job, time.monotonic()
                if not running:
                    return
                ended, _ = wait(running, _LOOK_S, FIRST_COMPLETED)
                if not ended:
                    look(self._running(running))
                for future in ended:
                    job, _ = running.pop(future)
                    self._keep(job, future.result())
                    done(job)

    @contextmanager
    def pool(self, threads: int) -> Iterator[ThreadPoolExecutor]:
        """Threads that wait for workers."""
        pool = ThreadPoolExecutor(threads)
        try:
            yield pool
            pool.shutdown()
        except BaseException:  # also an interruption: the workers must not outlive the wait for them
            pool.shutdown(wait=False, cancel_futures=True)
            self.targets.stop()
            raise
        finally:
            pool.shutdown()

    def _keep(self, job: Job, result: JobResult) -> None:
        """Keep a result; there is none of a job that the budget ended with nothing to show, or of a timing cut in two."""
        if result.detail != STOPPED and not (job.exclusive and result.unfinished):
            self.results[job.key] = result

    def _running(self, running: dict[Future[JobResult], tuple[Job, float]]) -> list[Running]:
        return [self._state(job, began) for job, began in running.values()]

    def _state(self, job: Job, began: float) -> Running:
        finished = count_finished(self._folder / job.key) if job.variants else 0
        left_s = self.costs.of(job, finished)
        return Running(job, finished, left_s if finished else max(0.0, left_s - (time.monotonic() - began)))

    def _carry_out(self, job: Job, purpose: str, stop_s: float = math.inf, *, anywhere: bool = False) -> JobResult:
        """Run a job unless an interrupted run has left its result. Called from several threads.

        Args:
            job: The work.
            purpose: What its time is accounted to.
            stop_s: Seconds after which it has to end with what it has.
            anywhere: Whether a cluster's worker may do what is for the local machine.
        """
        folder = self._folder / job.key
        result = self._stored(folder)
        if result is None:
            remove(folder)  # what an interrupted attempt left
            began = time.monotonic()
            result = self.targets.run(self.budget.within(job, stop_s), folder, anywhere=anywhere)
            seconds = time.monotonic() - began
            self.budget.charge(purpose, seconds)
            self.costs.learn(job, result, seconds)
            if job.machine["kind"] != "remote":
                _require_space(result)
            if result.is_final:
                result.store()
        return result

    def _stored(self, folder: Path) -> JobResult | None:
        """The result that an interrupted run left in a folder, if it is undamaged."""
        try:
            return JobResult.load(folder)
        except DamagedError as error:
            self._say(f"the finished job {folder} was done again: {error}")
            return None


def _require_space(result: JobResult) -> None:
    """Raise `RunDirectoryError` where a full disk, and not the work, ended a job or one of its variants."""
    ends = [(result.status, result.detail), *result.failed.values()]
    for status, detail in ends:
        if status in ("error", "crash"):
            require_space(result.folder, detail, "free some space and go on with --resume")
