"""Estimates of how long jobs take: from a timed batch of each build, corrected by what jobs took."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from hwbench.worker.perturb import WEIGHT_KINDS
from hwbench.worker.progress import Progress
from hwbench.worker.protocol import Job, JobResult

# Before anything was timed, in seconds: loading a build in a fresh worker, one input, and a job that measures time or memory.
_LOAD_S, _INPUT_S, _EXCLUSIVE_S = 1.0, 0.01, 5.0
# Part of a pass that a fault costs where only what comes after it is run: a guess until a job of the kind is done.
_SEGMENTED = 0.1


@dataclass(frozen=True)
class _Facts:
    """The facts of a job that an estimate needs."""

    session: str
    alike: str  # the session with other options: those of a job that has the machine for itself differ
    kind: str
    inputs: int
    compiled: int

    @classmethod
    def of(cls, job: Job) -> _Facts:
        """Look through a job and its variants."""
        rebuilt = "faults" in job.params and not job.params.get("plan")
        compiled = passes(job) if rebuilt or _changes_weights(job) else 0  # every change of weights is compiled
        build = [job.identity.get("model", job.params.get("model", "")), job.backend, dict(job.machine)]
        session, alike = (json.dumps([*build, options], sort_keys=True) for options in (dict(job.options), None))
        return cls(session, alike, _kind(job), inputs(job) if "n" in job.params else 0, compiled)


class Costs:
    """Estimates of the time that jobs take. A session is a build with its options on its machine."""

    def __init__(self) -> None:
        self._load_s: dict[str, float] = {}
        self._compile_s: dict[str, float] = {}
        self._input_s: dict[str, float] = {}
        self._factors: dict[tuple[str, str], float] = {}
        self._facts: dict[str, _Facts] = {}

    def timed(self, job: Job, *, load_s: float, compile_s: float, input_s: float) -> None:
        """Take what a timed batch of a job's session showed.

        Args:
            job: A job of the session.
            load_s: Seconds from a worker's start until the build is loaded.
            compile_s: Of that, the compilation.
            input_s: Seconds per input.
        """
        facts = self._of(job)
        for session in (facts.session, facts.alike):
            self._load_s[session], self._compile_s[session], self._input_s[session] = load_s, compile_s, input_s

    def learn(self, job: Job, result: JobResult, seconds: float) -> None:
        """Take how long a job took."""
        if not result.ok:
            return
        done = len(job.variants) - len(result.unfinished)
        progress, facts = Progress.read(result.folder), self._of(job)
        if job.variants == ("golden",) and progress.load_s:
            compile_s = min(progress.load_s, self._compile_s.get(facts.session, progress.load_s))
            input_s = sum(progress.seconds.values()) / facts.inputs
            self.timed(job, load_s=progress.load_s, compile_s=compile_s, input_s=input_s)
        expected = self._expected(job) - (self._expected(job, done) if result.unfinished else 0.0)
        self._factors[facts.session, facts.kind] = seconds / max(expected, 1e-6)

    def known(self, job: Job) -> bool:
        """True if the job's session was timed."""
        facts = self._of(job)
        return facts.alike in self._input_s or (facts.session, facts.kind) in self._factors

    def trusted(self, job: Job) -> bool:
        """True if the estimate rests on more than a guess."""
        kind = self._of(job).kind
        return self.known(job) and ("evaluate" in job.task or any(kind == one for _, one in self._factors))

    def of(self, job: Job, done: int = 0) -> float:
        """Seconds that a job takes, or takes still.

        Args:
            job: The job.
            done: How many of its variants are finished.
        """
        facts = self._of(job)
        alike = [factor for (_, kind), factor in self._factors.items() if kind == facts.kind]
        usual = sum(alike) / len(alike) if alike else 1.0
        return self._expected(job, done) * self._factors.get((facts.session, facts.kind), usual)

    def _of(self, job: Job) -> _Facts:
        if job.key not in self._facts:
            self._facts[job.key] = _Facts.of(job)
        return self._facts[job.key]

    def _expected(self, job: Job, done: int = 0) -> float:
        """Seconds by the timed batch alone."""
        facts = self._of(job)
        session = facts.session if facts.session in self._load_s else facts.alike
        load_s = self._load_s.get(session, _LOAD_S)
        compile_s = self._compile_s.get(session, load_s)
        if job.exclusive:
            points: Mapping[str, Mapping[str, Any]] = job.params.get("points", {})
            timed = (compile_s + point["warm_up_s"] + point["windows"] * point["window_s"] for point in points.values())
            return load_s + (sum(timed) or float(job.params.get("seconds", _EXCLUSIVE_S)))
        left = 1 - done / len(job.variants) if job.variants else 1.0
        part = _SEGMENTED if job.params.get("plan") else 1.0
        running = facts.inputs * self._input_s.get(session, _INPUT_S) * part
        return load_s * (not done) + left * (facts.compiled * compile_s + running)


def inputs(job: Job) -> int:
    """Number of times a job runs an input, over all its passes."""
    whole = int(job.params.get("n", 1))
    if "faults" in job.params:
        ranges = job.params.get("ranges")
        return sum(last - first for first, last in ranges) if ranges else len(job.params["faults"]) * whole
    if not job.variants:
        return whole
    variants = _variants(job)
    # A look inside the build takes its inputs through once, and once more to check.
    return sum(variants.get(name, {}).get("inputs") or whole for name in job.variants) if variants else 2 * whole


def passes(job: Job) -> int:
    """Number of times a job goes through its inputs: once per variant or trial."""
    return max(1, len(job.params.get("faults", job.variants)))


def _kind(job: Job) -> str:
    """Name of the kind of a job: jobs of one kind share the ratio of measured to expected time."""
    golden = job.variants == ("golden",)
    return json.dumps([job.task, golden, bool(job.params.get("plan")), _changes_weights(job)])


def _variants(job: Job) -> Mapping[str, Mapping[str, Any]]:
    found: Mapping[str, Mapping[str, Any]] = job.params.get("variants", {}) if "evaluate" in job.task else {}
    return found


def _changes_weights(job: Job) -> bool:
    return any(variant["kind"] in WEIGHT_KINDS for variant in _variants(job).values())
