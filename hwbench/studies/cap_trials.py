"""The trials behind the least memory: which are still wanted, what each of them says, and the jobs that make them."""

from __future__ import annotations

import hashlib
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import psutil
from pydantic import Field

from hwbench.backend import backends
from hwbench.bounds import POINTS, REPEATS, WAIT_S
from hwbench.studies.base import Case, Settings
from hwbench.studies.cap_search import CapSearch, Trials
from hwbench.table import Row
from hwbench.targets.limits import RLIMIT
from hwbench.targets.own_copy import OwnCopy
from hwbench.targets.sandbox import code_folders
from hwbench.worker.progress import Progress
from hwbench.worker.protocol import Job, JobResult

_MIB = 1 << 20
_FEWEST, _MOST = 20, 20_000
# A trial that has taken too long is killed a little later, so that one which is just ending says so itself.
_GRACE_S = 0.2
# How often each edge is tried: the answer's is confirmed twice, those of loading and of running once.
_EDGE_OF_ANSWER, _EDGE_OF_PHASE = 3, 2
# What a worker may have mapped of other people's: the loader, and what the kernel counts in batches.
_UNCHARGED_MIB = 4
FREE = ("free-0", "free-1", "free-2")
# Kinds of trials: capped from the start, through to the last run; only until it has loaded; capped from then on.
_START, _LOAD, _AFTER = "start", "load", "after"
# Under a multiple of the answer, all inputs are run. It counts as a trial too.
_AT = "at"
UNCAPPED = f"{_AT}-none"
# Over all inputs a trial may be so many times slower still, since time on the clock is all there is to end it by.
_PATIENCE = 2


class LeastMemorySettings(Settings):
    """Study settings."""

    slowdown: float = Field(
        3.0, gt=1, le=1000, description="a trial so many times slower than without a cap is thrashing, and has failed"
    )
    seconds: float = Field(
        0.2, gt=0, le=WAIT_S, description="a trial makes as many runs at batch 1 as take this long without a cap"
    )
    factors: tuple[Annotated[float, Field(ge=1, le=1000)], ...] = Field(
        (1.1, 1.5, 2.0),
        max_length=POINTS,
        description="multiples of the least cap at which accuracy and latency are measured, besides it",
    )
    samples: int = Field(500, ge=20, le=REPEATS, description="runs timed at each of them, at most")
    sample_seconds: float = Field(5.0, gt=0, le=WAIT_S, description="time spent timing at each of them, at most")


@dataclass(frozen=True)
class Search:
    """One of the three searches, as far as it has come.

    Attributes:
        kind: Of its trials' labels.
        search: The bisection.
        trials: Cap to whether each of its trials succeeded.
        reasons: Cap to why trials failed.
    """

    kind: str
    search: CapSearch
    trials: Trials
    reasons: Mapping[int, Sequence[str]]

    @property
    def next(self) -> int | None:
        """The cap to try next, in MiB; None when there is an answer, or can be none."""
        return self.search.next(self.trials)

    @property
    def bracket(self) -> tuple[int, int | None]:
        """The caps on both sides of the edge, in MiB: see `CapSearch.bracket`."""
        return self.search.bracket(self.trials)

    def made(self, cap: int) -> int:
        """How many trials there are of a cap."""
        return len(self.trials.get(cap, ()))

    def row(self, study: str, setting: str, said: str) -> Row:
        """The answer, and how both of its edges are known."""
        low, high = self.bracket
        below = self.trials.get(low, ())
        why = "; ".join(dict.fromkeys(self.reasons.get(low, ())))
        failed = f"{below.count(False)} of {len(below)} trials failed at {low} MiB ({why})" if below else ""
        if high is None:
            return Row(study, "least_mib", setting, status="oom", detail=failed)
        n = len(self.trials[high])
        detail = "; ".join(filter(None, (f"{n} of {n} trials ran at {high} MiB", failed, said)))
        return Row(study, "least_mib", setting, float(high), "MiB", n=n, detail=detail)


@dataclass(frozen=True)
class CapTrials:
    """What all trials so far say, and the jobs of further ones."""

    case: Case
    settings: LeastMemorySettings
    results: Mapping[str, JobResult]

    @cached_property
    def own_copy(self) -> OwnCopy:
        """The files that workers run from; made when it is first asked for."""
        used = self.results["survey"].data
        name = hashlib.sha256("\n".join(used["mapped"]).encode()).hexdigest()[:16]
        model = self.case.subject.build.model
        read = [*used["read"], *map(str, model.parent.glob("*")), *self.case.input_files.values()]
        return OwnCopy.make(self.case.work / "own-copy" / name, used["mapped"], read, self._code_folders)

    @property
    def _code_folders(self) -> list[str]:
        """Where libraries are, without folders in which the survey's worker could write."""
        written, reference = self.results["survey"].folder.resolve(), backends.reference(self.case.profile.backend)
        return [folder for folder in code_folders(reference) if not written.is_relative_to(Path(folder).resolve())]

    @property
    def usage(self) -> Mapping[str, Any]:
        """What a free trial's limits accounted."""
        return self.results[FREE[0]].usage

    @property
    def mechanism(self) -> str:
        """What enforces caps; empty if nothing does."""
        return str(self.usage.get("mechanism", ""))

    @property
    def charged(self) -> float | None:
        """What a free trial is charged, MiB; None where nothing keeps an account."""
        peaks = [self.results[name].usage.get("cap_peak_mib") for name in FREE]
        return max((float(peak) for peak in peaks if peak is not None), default=None)

    @property
    def stated(self) -> str:
        """Under which circumstances trials were made."""
        own, reason = self.own_copy, self.usage.get("mechanism_reason")
        if self.mechanism == RLIMIT:
            held = "private writable memory of each process, touched or not; no page cache"
            return f"enforced by {self.mechanism} ({reason}), which bounds {held}"
        said, missing = f" ({reason})" if reason else "", self.usage["peak_mib"] - (self.charged or math.inf)
        elsewhere = f"; {missing:.0f} MiB of them were in memory all the same: put HWBENCH_CACHE on a disk"
        return (
            f"enforced by {self.mechanism}{said}, without swap; page cache: {len(own.copied)} files "
            f"({own.bytes / _MIB:.0f} MiB) copied for this alone, and dropped with the model before every trial"
            + (elsewhere if missing > _UNCHARGED_MIB else "")
        )

    @property
    def runs(self) -> int:
        """How many runs a trial makes."""
        one: float = self.results["survey"].data["run_s"]
        return min(_MOST, max(_FEWEST, math.ceil(self.settings.seconds / one)))

    @property
    def load_s(self) -> float:
        """From the start of the interpreter to a session, without a cap."""
        return self.free_figure("load_s")

    @property
    def run_s(self) -> float:
        """All runs of a trial, without a cap."""
        return self.runs * self.free_figure("run_s")

    def free_figure(self, name: str, pick: Any = statistics.median) -> float:
        """A figure of the free trials: of their results, or of their loading."""
        found: list[Mapping[str, Any]] = [{**_loading(self.results[one]), **self.results[one].data} for one in FREE]
        return float(pick([one[name] for one in found]))

    @cached_property
    def searches(self) -> tuple[Search, Search, Search]:
        """For the whole, for loading, for running after it. The second starts from the first one's trials."""
        resident = max(self.results[name].usage["peak_mib"] for name in FREE)
        loaded = min(_loading(self.results[name])["anonymous_mib"] for name in FREE)
        lows = self.free_figure("anonymous_mib", min), loaded, self.free_figure("held_mib", min)
        if self.mechanism == RLIMIT:  # what is bounded then is not what is resident
            resident, lows = self.free_figure("data_mib", max), (0.0, 0.0, 0.0)
        whole = self._search(_START, lows[0], resident)
        first = whole.bracket[1] or resident
        return whole, self._search(_LOAD, lows[1], first), self._search(_AFTER, lows[2], first)

    @property
    def possible(self) -> Sequence[Search]:
        """The searches that this machine can make."""
        return self.searches[:2] if self.mechanism == RLIMIT else self.searches

    def _search(self, kind: str, low: float, first: float) -> Search:
        edge = _EDGE_OF_ANSWER if kind == _START else _EDGE_OF_PHASE
        search = CapSearch(math.floor(low), math.ceil(first), self.machine_mib, edge)
        trials: dict[int, list[bool]] = {}
        reasons: dict[int, list[str]] = {}
        counted = {_START: (_START, _AT), _LOAD: (_START, _LOAD), _AFTER: (_AFTER,)}[kind]
        for label, result in self.results.items():
            made, _, cap = label.partition("-")
            if made in counted and label != UNCAPPED:
                why = self._failure(result, made, loading=kind == _LOAD)
                trials.setdefault(int(cap.partition("-")[0]), []).append(not why)
                reasons.setdefault(int(cap.partition("-")[0]), []).extend([why] if why else [])
        return Search(kind, search, trials, reasons)

    def _failure(self, result: JobResult, made: str, *, loading: bool) -> str:
        """Why a trial failed, in words; empty if it succeeded."""
        loaded, limit = _loading(result), self.settings.slowdown
        if loading and loaded:
            if made == _START and not self._failure(result, made, loading=False):
                return ""  # what the whole was quick enough for, its part was
            slower = loaded["load_s"] / self.load_s
            return f"thrashing: loading took {slower:.1f} times as long" if slower > limit else ""
        if not result.ok:
            return _ending(result)
        if made == _AT:
            return ""
        took, usual = self.runs * result.data["run_s"], self.run_s
        if made == _START:
            took, usual = took + loaded["load_s"], usual + self.load_s
        return f"thrashing: it took {took / usual:.1f} times as long" if took > limit * usual else ""

    @property
    def lacking_control(self) -> dict[str, Job]:
        """A free trial after every end that need not come from the cap: what happens there too is an error of its own."""
        unclear = [
            f"control-{label}"
            for label, result in self.results.items()
            if may_fail(label) and result.status in ("crash", "error", "unavailable")
        ]
        return {label: self.free(label) for label in unclear if label not in self.results}

    @property
    def caps(self) -> list[int | None]:
        """Where accuracy and latency are measured: None for no cap, the answer, its multiples, in MiB."""
        least = self.searches[0].bracket[1] or 0
        return [None, *sorted({least, *(math.ceil(least * factor) for factor in self.settings.factors)})]

    @property
    def measurements(self) -> dict[str, Job]:
        """The jobs at multiples of the answer; first the one without a cap, which says how long they may take."""
        job = _job(self.case, runs=self.settings.samples, limit_s=self.settings.sample_seconds, n=self.case.data.n)
        free = self.results.get(UNCAPPED)
        if free is None:
            return {UNCAPPED: self._own(job, self.machine_mib, self.case.timeout_s)}
        limit = _PATIENCE * self.settings.slowdown * free.data["wall_s"]
        jobs = {label_of(cap): self._own(job, cap, limit) for cap in self.caps if cap is not None}
        least = next(iter(jobs))  # if the answer does not hold over all inputs, the search goes on
        return jobs if least in self.results else {least: jobs[least]}

    def free(self, label: str) -> Job:
        """A trial without a cap, in a group of its own all the same."""
        job = _job(self.case, runs=self.runs, limit_s=self.case.timeout_s, watch=True, trial=label)
        return self._own(job, self.machine_mib, self.case.timeout_s)

    def capped(self, kind: str, cap: int, count: int) -> dict[str, Job]:
        """A trial under a cap, ended when it has taken too long to count."""
        label, slowdown = f"{kind}-{cap}-{count}", self.settings.slowdown
        load = slowdown * self.free_figure("load_wall_s")
        runs = slowdown * self.runs * self.free_figure("run_wall_s")
        if kind == _AFTER:
            job = _job(self.case, runs=self.runs, limit_s=runs, trial=label, cap_mib=cap)
            return {label: self._own(job, self.machine_mib, load + runs)}
        if kind == _LOAD:
            return {label: self._own(_job(self.case, runs=1, limit_s=runs, trial=label), cap, load + _GRACE_S)}
        job = _job(self.case, runs=self.runs, limit_s=load + runs, trial=label)
        return {label: self._own(job, cap, load + runs + _GRACE_S)}

    @property
    def machine_mib(self) -> int:
        """All there is, as the cap of what shall have none."""
        total: int = psutil.virtual_memory().total
        return total // _MIB

    def _own(self, job: Job, cap: int, timeout_s: float) -> Job:
        limits = replace(self.case.profile.target.limits(min(timeout_s, self.case.timeout_s)), memory_mib=cap)
        return replace(job, limits=limits, own_copy=str(self.own_copy.folder), may_time_out=True)


def survey(case: Case, settings: LeastMemorySettings) -> Job:
    """The job that lists the files in use, and says how long a run takes."""
    return _job(case, runs=_MOST, limit_s=settings.seconds, survey=True)


def _job(case: Case, **params: Any) -> Job:
    given = {"batch": case.model.batch or 1, "output": case.output, "n": 0, **params}
    return case.subject.job("capped", case, exclusive=True, **given)


def may_fail(label: str) -> bool:
    """Whether a job is a trial under a cap, whose bad end is an answer."""
    return label.partition("-")[0] in (_START, _LOAD, _AFTER, _AT) and label != UNCAPPED


def label_of(cap: int | None) -> str:
    """The label of the job that measures accuracy and latency under a cap."""
    return UNCAPPED if cap is None else f"{_AT}-{cap}"


def _loading(result: JobResult) -> Mapping[str, Any]:
    """What a trial said when it had loaded; empty if it did not come that far."""
    loaded: Mapping[str, Any] = Progress.read(result.folder).finished.get("load", {})
    return loaded


def _ending(result: JobResult) -> str:
    """How a trial ended, by its kind."""
    if result.status == "timeout":
        again = result.usage.get("cap_refaults", 0)
        return f"thrashing: not done when the time was up, {again} file pages read again"
    if result.status == "oom":
        if result.usage.get("oom_kills", 0):
            return "OOM kill"
        return next(
            (word for word in ("bad_alloc", "MemoryError") if word in result.detail), "an allocation was refused"
        )
    return f"{result.status}, and not without the cap: {result.detail.splitlines()[0]}"
