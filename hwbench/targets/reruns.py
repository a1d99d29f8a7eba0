"""Reruns of workers that died: a death is an outcome only if it recurs and the fault-free build then runs."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from hwbench.targets.ending import Ending
from hwbench.worker.progress import Progress
from hwbench.worker.protocol import CONTROL, PROGRESS_FILE, WORKER, Job, JobResult, JobStatus

RERUNS = 2
# Time-outs after which a variant is not run again.
_TIMEOUTS = 2
# A time-out is a fault's outcome only if the fault-free build reports progress within this share of the time limit.
_WELL_WITHIN = 0.25

# The signal that ends a worker beyond the processor time of `hwbench.worker.patience`, which counts as a time-out.
_OUT_OF_PATIENCE = "SIGPROF"

Worker = Callable[[Sequence[str]], Ending]


def run_whole(job: Job, folder: Path, worker: Worker) -> JobResult:
    """Run a job without variants, with up to `RERUNS` further workers if one dies.

    Args:
        job: The job.
        folder: Its folder.
        worker: Runs one worker to its end, for the variants given.
    """
    deaths: list[Ending] = []
    while True:
        ending = worker(())
        if not ending.died:
            break
        deaths.append(ending)
        if not _is_worth_another(deaths, job):
            break
        (folder / PROGRESS_FILE).unlink(missing_ok=True)
    detail = _summary(deaths) if ending.died else ending.detail
    return JobResult(ending.status, folder, ending.data, detail, usage=ending.usage, deaths=_recorded({WORKER: deaths}))


class VariantRuns:
    """The workers of a job with variants, until every variant is finished or has failed.

    A variant whose worker dies runs again at once, alone, up to `RERUNS` times. If each of these workers dies and the
    disturbance of the variant may be the cause, its control, the fault-free build, runs: if that succeeds, the disturbance is
    the cause.

    Args:
        job: The job.
        folder: Its folder.
        worker: Runs one worker to its end, for the variants given.
    """

    def __init__(self, job: Job, folder: Path, worker: Worker) -> None:
        self._job, self._folder, self._worker = job, folder, worker
        self._finished: dict[str, Any] = {}
        self._failed: dict[str, tuple[JobStatus, str]] = {}
        self._caused: list[str] = []
        self._deaths: dict[str, list[Ending]] = {}
        self._idle: list[Ending] = []  # deaths outside any variant since one was last finished
        self._data: dict[str, Any] = {}
        self._usage: dict[str, Any] = {}
        self._ending = Ending("ok")

    def run(self) -> JobResult:
        """Run all workers."""
        while (left := self._left()) and not self._ending.stopped:
            before = len(self._finished)
            ending, current = self._run(left), Progress.read(self._folder).current
            lost = self._left()
            if ending.stopped or (ending.status == "ok" and lost and self._job.limits.stop_s is not None):
                break
            if ending.died and current in lost:
                self._alone(str(current), ending)
            elif ending.died:
                self._outside(ending, lost, advanced=len(self._finished) > before)
            else:
                self._failed |= _failures(ending, lost, current, advanced=len(self._finished) > before)
        return self._result(self._left())

    def _result(self, unfinished: Sequence[str]) -> JobResult:
        variants = {name: data for name, data in self._finished.items() if name in self._job.variants}
        status: JobStatus = "ok"
        detail = ""
        if not variants and not self._caused:
            status, detail = ("unavailable", self._ending.detail) if unfinished else next(iter(self._failed.values()))
        data, deaths = {**self._data, "variants": variants}, _recorded(self._deaths)
        return JobResult(
            status, self._folder, data, detail, self._failed, self._caused, deaths, self._usage, unfinished
        )

    def _left(self) -> list[str]:
        return [name for name in self._job.variants if name not in self._failed and name not in self._finished]

    def _run(self, variants: Sequence[str]) -> Ending:
        """Run one worker, and collect its results."""
        self._ending = ending = self._worker(variants)
        self._finished = {**Progress.read(self._folder).finished, **ending.data.get("variants", {})}
        self._data = _merged(self._data, ending.data)
        self._usage = _highest(self._usage, ending.usage)
        return ending

    def _alone(self, name: str, ending: Ending) -> None:
        """Repeat, alone, a variant whose worker died."""
        deaths = self._deaths[name] = [ending]
        self._idle.clear()
        while _is_worth_another(deaths, self._job):
            ending = self._run([name])
            if name in self._finished:
                return
            if ending.stopped:
                self._fail(name, deaths, "the time ended before its rerun")
                return
            if not ending.died:
                self._failed |= _failures(ending, [name], name, advanced=False)
                return
            deaths.append(ending)
        self._fail(name, deaths, self._other_cause(name, deaths) if self._job.control else _ADVICE[ending.status])

    def _fail(self, name: str, deaths: Sequence[Ending], other_cause: str) -> None:
        """Record the death of a variant, and its cause unless that is the disturbance."""
        self._failed[name] = deaths[-1].status, _summary(deaths, other_cause)
        if not other_cause:
            self._caused.append(name)

    def _other_cause(self, name: str, deaths: Sequence[Ending]) -> str:
        """Evidence that something else than the disturbance ended a variant's workers; empty if there is none."""
        control = CONTROL + name
        ending = self._run([control])
        if ending.stopped:
            return "the time ended before the fault-free build could run for comparison"
        if control not in self._finished:
            return f"the fault-free build failed too: {ending.reason}; {_ADVICE.get(ending.status, _ADVICE['crash'])}"
        limit, silence = self._job.limits.timeout_s, Progress.read(self._folder).silence[control]
        if deaths[-1].status == "timeout" and silence > _WELL_WITHIN * limit:
            return f"the fault-free build took {silence:.3g} s; {_ADVICE['timeout']}"
        return ""

    def _outside(self, ending: Ending, lost: Sequence[str], *, advanced: bool) -> None:
        """Record a death outside any variant; another worker continues, unless several in a row finished nothing."""
        self._deaths.setdefault(WORKER, []).append(ending)
        if advanced:
            self._idle.clear()
            return
        self._idle.append(ending)
        if not _is_worth_another(self._idle, self._job):
            failure = ending.status, _summary(self._idle, _ADVICE[ending.status])
            self._failed |= dict.fromkeys(lost, failure)


# Advice on deaths that are not outcomes.
_ADVICE: Mapping[str, str] = {
    "crash": "unless the runtime itself crashes, find what ends processes on this machine, then run again",
    "error": "find what ends processes on this machine, then run again",
    "oom": "free memory, then run again",
    "timeout": "run again with a higher --timeout",
}


def _is_worth_another(deaths: Sequence[Ending], job: Job) -> bool:
    """True if one more worker may show whether deaths recur."""
    late = sum(ending.status == "timeout" or _OUT_OF_PATIENCE in ending.reason for ending in deaths)
    if late and job.may_time_out:
        return False
    return len(deaths) <= RERUNS and late < _TIMEOUTS


def _summary(deaths: Sequence[Ending], remark: str = "") -> str:
    """Reasons of deaths with their counts, then the output of the last worker."""
    reasons = [ending.reason for ending in deaths]
    counts = {reason: reasons.count(reason) for reason in reasons}
    said = ", ".join(f"{reason} ({count} times)" if count > 1 else reason for reason, count in counts.items())
    first = "; ".join(part for part in (said, remark) if part)
    return "\n".join([first, *deaths[-1].detail.splitlines()[1:]])


def _recorded(deaths: Mapping[str, Sequence[Ending]]) -> dict[str, list[str]]:
    return {name: [ending.reason for ending in endings] for name, endings in deaths.items() if endings}


def _failures(
    ending: Ending, lost: Sequence[str], current: str | None, *, advanced: bool
) -> dict[str, tuple[JobStatus, str]]:
    """Failures of variants that a worker left unfinished when it ended by itself or exceeded its cap.

    Args:
        ending: How the worker ended.
        lost: The variants it left unfinished.
        current: The variant it was in, if it was in one.
        advanced: Whether it finished any.
    """
    if ending.status == "ok":
        return dict.fromkeys(lost, ("error", "the task ended without finishing it"))
    failure = (ending.status, ending.detail)
    if ending.status != "unavailable" and current is not None and current in lost:
        return {current: failure}
    if ending.status != "unavailable" and advanced:
        return {}
    return dict.fromkeys(lost, failure)  # the next worker would end the same way


def _merged(before: Mapping[str, Any], now: Mapping[str, Any]) -> dict[str, Any]:
    """The data of several workers as one: the last of everything, but a check holds only if it held in all of them."""
    merged = {**before, **now}
    for name in before.keys() & now.keys():
        if isinstance(before[name], bool):
            merged[name] = before[name] and now[name]
    return merged


def _highest(*usages: Mapping[str, Any]) -> dict[str, Any]:
    """Resource usage of several workers as one: the highest of every figure, the last of everything else."""
    merged: dict[str, Any] = {}
    for name, value in (item for usage in usages for item in usage.items()):
        merged[name] = max(merged[name], value) if name in merged and not isinstance(value, str) else value
    return merged
