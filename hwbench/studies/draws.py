"""Sampling of a sweep: the jobs that its draws need, look after look, and what they gave."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import groupby, pairwise, product
from typing import Any

import numpy as np

from hwbench.stats.unseen import Sampled
from hwbench.studies.base import Case, Interim
from hwbench.studies.design import PILOT, UPDATE_COST, Design, Look
from hwbench.studies.sweep import Drawn, Golden, Sweep, bounds, gather, mean_loss, own_golden, share
from hwbench.table import Row
from hwbench.worker.protocol import Job, JobResult, JobStatus

_BYTES_PER_JOB = 1 << 32
"""Bytes of stored numbers that one job's passes read, about: the draws of a large model are cut into more jobs, so that a run
can end between them."""
_LEAST_PASSES = 512

NO_DRAWS = "the run ended before a draw was made"


@dataclass(frozen=True)
class Level:
    """One setting of a sweep.

    Attributes:
        name: Its name; with the number of a draw, the variant's.
        variant: What is perturbed (`hwbench.worker.perturb`), without seed and draw.
        certain: Whether nothing can be disturbed.
        group: Settings of a group go on together, on the same draws, until all of them are decided.
    """

    name: str
    variant: Mapping[str, Any]
    group: str
    certain: bool = False

    def of_draw(self, draw: int) -> str:
        """The variant's name."""
        return f"draw{draw}-{self.name}"


@dataclass(frozen=True)
class Round:
    """The draws between two looks.

    Attributes:
        look: The look after them.
        first: Number of the first of them.
        inputs: How many inputs each runs on; None for all.
        levels: The settings that get them.
        jobs: Label to job.
    """

    look: Look
    first: int
    inputs: int | None
    levels: Sequence[Level]
    jobs: Mapping[str, Job]


@dataclass(frozen=True)
class Sampling:
    """The draws of a sweep's settings.

    Attributes:
        case: The build and its data.
        label: What the labels of its jobs start with.
        levels: The settings, in the order in which a draw goes through them.
        design: How many draws they get.
    """

    case: Case
    label: str
    levels: Sequence[Level]
    design: Design

    @property
    def batch(self) -> int:
        """Inputs per run: no more than a draw has, where the graph takes any number."""
        return self.case.model.batch or min(self.case.batch, self.design.first_inputs)

    def wanted(self, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """The jobs that the results so far ask for; none when nothing is left to decide."""
        jobs: Mapping[str, Job] = {}
        for jobs in self._progress(results).wanted:
            if any(label not in results for label in jobs):
                break
        return {label: job for label, job in jobs.items() if label not in results}

    def concluding(self, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """The golden outputs of the sweep's own session, where they are not the build's."""
        first = next((label for label in self.labels(results)), None)
        if first is None or "golden" not in results:
            return {}
        return own_golden(self.case, {**results, self.label: results[first]}, self.label, self.batch)

    def labels(self, results: Mapping[str, JobResult]) -> list[str]:
        """The labels of this sweep's finished jobs, in the order of their draws."""
        start = f"{self.label}-round"
        return sorted(label for label in results if label.startswith(start))

    def golden(self, results: Mapping[str, JobResult]) -> Golden:
        """The golden outputs to compare with: the sweep's own, where its session has its own, or the build's."""
        own = f"{self.label}-golden"
        return Golden.of(self.case, results.get(own, results["golden"]))

    def restored(self, results: Mapping[str, JobResult]) -> bool:
        """True if every job's golden output was the same, bit for bit, after its disturbances were undone."""
        # Absent where a worker died of its last fault, and memory with it.
        return all(results[label].data.get("restored", True) for label in self.labels(results))

    def sweeps(self, results: Mapping[str, JobResult], golden: Golden) -> dict[str, Sweep]:
        """The draws of every setting that has any, by its name, even if its sampling did not reach its goal."""
        return _Progress(self, results, golden).sweeps()

    def failures(self, results: Mapping[str, JobResult]) -> dict[str, tuple[JobStatus, str]]:
        """The settings without figures, because workers died or failed in a draw and its disturbance is not the reason."""
        return _Progress(self, results, None).failures

    def failure_rows(self, study: str, metric: str, results: Mapping[str, JobResult]) -> Iterator[Row]:
        """The rows of `failures`, for levels that are named by their condition."""
        for setting, (status, detail) in self.failures(results).items():
            yield Row(study, metric, setting, status=status, detail=detail)

    def measure(self, sweep: Sweep) -> Sampled | None:
        """The figure that decides when a setting has enough draws; None where none of its figures is bounded."""
        if sweep.losses is not None:
            return mean_loss(self.case, sweep) if bounds(self.case.primary) else None
        return share(self.case, sweep, sweep.due if sweep.changed is None else sweep.changed)

    def enough(self, results: Mapping[str, JobResult]) -> bool:
        """True if every setting has draws to compare with the golden outputs."""
        if (
            "golden" not in results
            or not results["golden"].ok
            or not any(results[label].ok for label in self.labels(results))
        ):
            return False
        return len(self.sweeps(results, self.golden(results))) + len(self.failures(results)) == len(self.levels)

    def interim(self, results: Mapping[str, JobResult]) -> Interim:
        """Draws done and planned."""
        jobs = {label: result for label, result in results.items() if label in self.labels(results)}
        done = sum(len(result.data.get("variants", {})) + len(result.failed) for result in jobs.values())
        planned = sum(len(job.variants) for job in self.wanted(results).values()) if "golden" in results else 0
        return Interim(done, done + planned, "draws", "")

    def detail(self, sweep: Sweep) -> str:
        """A setting's numbers of draws and inputs, and a remark if they did not decide the limit."""
        counts = [
            f"{len(list(group)):,} draws of {size:,} inputs"
            for size, group in groupby(sorted(sweep.sizes, reverse=True))
        ]
        found, text = self.measure(sweep), " and ".join(counts)
        if found is None or self.design.limit is None:
            return text
        estimate, limit = found.estimate, self.design.limit
        if estimate.high <= limit or estimate.low > limit:
            return text
        needed = self.design.draws_needed(found)
        more = (
            f"about {needed:,} draws would decide"
            if needed is not None and needed > len(sweep.numbers)
            else f"{self.case.data.n:,} inputs are too few to decide with any number of draws"
            if needed is None
            else "the sampling ended before its goal"
        )
        return f"{text}: inconclusive at {limit:g}; {more}"

    def _progress(self, results: Mapping[str, JobResult]) -> _Progress:
        return _Progress(self, results, None)


@dataclass(frozen=True)
class _Progress:
    """The progress of a sampling."""

    sampling: Sampling
    results: Mapping[str, JobResult]
    given: Golden | None

    @cached_property
    def golden(self) -> Golden:
        return self.given or self.sampling.golden(self.results)

    @property
    def wanted(self) -> Iterator[Mapping[str, Job]]:
        """Jobs that have to be done one set after the other."""
        for number, one in enumerate(self.rounds()):
            yield one.jobs
            if not number:
                (first, *_) = one.jobs
                yield own_golden(
                    self.sampling.case,
                    {**self.results, self.sampling.label: self.results[first]},
                    self.sampling.label,
                    self.sampling.batch,
                )

    def rounds(self) -> Iterator[Round]:
        """The rounds, each decided on by the results of those before it."""
        sampling, design = self.sampling, self.sampling.design
        levels, inputs = list(sampling.levels), design.first_inputs
        looks, done, number = design.looks(inputs), 0, 0
        past: list[Round] = []
        while levels and number < len(looks):
            past.append(self._round(number, looks[number], done, inputs, levels))
            yield past[-1]
            done, number = looks[number].draws, number + 1
            if number == len(looks):
                return
            sweeps = {level.name: self._sweep(level, past) for level in levels}
            found = {name: sweep for name, sweep in sweeps.items() if sweep is not None}
            levels = self._undecided(levels, found)
            if number == 1 and levels:
                inputs = design.inputs([_losses(found[level.name]) for level in levels])
                looks = [looks[0], *(look for look in design.looks(inputs)[1:] if look.draws > done)]

    def sweeps(self) -> dict[str, Sweep]:
        """The results of every setting's draws, including those of an incomplete round."""
        past = []
        for one in self.rounds():
            if not any(label in self.results for label in one.jobs):
                break
            past.append(one)
            if not all(label in self.results for label in one.jobs):
                break
        found = {level.name: self._sweep(level, past) for level in self.sampling.levels if past}
        return {name: sweep for name, sweep in found.items() if sweep is not None}

    def _undecided(self, levels: Sequence[Level], found: Mapping[str, Sweep]) -> list[Level]:
        going = set()
        for level in (level for level in levels if level.name in found):
            measured = self.sampling.measure(found[level.name])
            if measured is not None and not self.sampling.design.decided(measured):
                going.add(level.group)
        return [level for level in levels if level.group in going and level.name in found]

    @cached_property
    def failures(self) -> dict[str, tuple[JobStatus, str]]:
        found: dict[str, tuple[JobStatus, str]] = {}
        for label in self.sampling.labels(self.results):
            failed = self.results[label].unexplained
            for draw, level in product(_draws_of(label), self.sampling.levels) if failed else ():
                if (name := level.of_draw(draw)) in failed:
                    status, detail = failed[name]
                    found.setdefault(level.name, (status, f"{name}: {detail}"))
        return found

    def _sweep(self, level: Level, rounds: Sequence[Round]) -> Sweep | None:
        """One setting's draws in some rounds, with the error probabilities of the last look that it had; None without any."""
        if level.name in self.failures:
            return None
        drawn, tails = [], rounds[0].look.tails
        for one in rounds:
            if level not in one.levels:
                continue
            for label in one.jobs:
                for draw in _draws_of(label) if label in self.results and self.results[label].ok else ():
                    if level.of_draw(draw) not in self.results[label].unfinished:
                        drawn.append(Drawn(draw, self.results[label], level.of_draw(draw), one.inputs))
                        tails = one.look.tails
        if not drawn:
            return None
        return gather(
            self.sampling.case,
            drawn,
            self.golden,
            tails,
            shared=self.sampling.design.shared,
            certain=level.certain,
        )

    def _round(self, number: int, look: Look, first: int, inputs: int, levels: Sequence[Level]) -> Round:
        some = inputs if inputs < self.sampling.case.data.n else None
        size = max(1, self._passes() // (inputs * len(levels)))
        edges = [*range(first, look.draws, size), look.draws]
        jobs = {
            f"{self.sampling.label}-round{number}-{start:06d}-{stop:06d}": self._job(range(start, stop), some, levels)
            for start, stop in pairwise(edges)
        }
        return Round(look, first, some, levels, jobs)

    def _passes(self) -> int:
        stored = int(self.sampling.case.subject.build.manifest["contents"]["bytes"])
        return max(_LEAST_PASSES, _BYTES_PER_JOB // max(1, stored))

    def _job(self, draws: range, inputs: int | None, levels: Sequence[Level]) -> Job:
        case = self.sampling.case
        some = {} if inputs is None else {"inputs": inputs}
        # One batch without a disturbance, so that a job whose every draw kills its worker is still carried out.
        golden = {"kind": "golden", "seed": case.seed, "draw": draws[0], "inputs": self.sampling.batch}
        variants = {"golden": golden} | {
            level.of_draw(draw): {**level.variant, "seed": case.seed, "draw": draw, **some}
            for draw in draws
            for level in levels
        }
        return case.evaluation(variants, top=case.classifies, batch=self.sampling.batch)


def design_of(
    case: Case,
    *,
    usual: int,
    effort: int,
    limit: float | None,
    half_width: float,
    draws: int | None,
    per_draw: int | None,
    shared: bool = True,
) -> Design:
    """The design of a sweep.

    A metric that is not bounded has no interval for unseen draws; its draws are as many as usual, over all inputs.

    Args:
        case: The build and its data.
        usual: Draws over all inputs of a metric that is not bounded.
        effort: Draws over all inputs that a setting may cost at most.
        limit: Mean loss to decide on.
        half_width: Wanted half-width.
        draws: A fixed number of draws.
        per_draw: A fixed number of inputs per draw.
        shared: Whether a draw does the same to all inputs.
    """
    n, step = case.data.n, case.model.batch or PILOT
    stored = max(1, int(case.subject.build.manifest["contents"]["bytes"]))
    update = max(UPDATE_COST, case.subject.backend_type.compile_bytes / stored)
    if case.data.labels is not None and bounds(case.primary) is None:
        return Design(n, None, half_width, effort, draws or usual, None, step, shared, update)
    decided = limit if case.data.labels is not None else None
    return Design(n, decided, half_width, effort, draws, per_draw, step, shared, update)


def _losses(sweep: Sweep) -> np.ndarray[Any, Any]:
    """The values that decide on a setting, ``[draws, inputs]``."""
    if sweep.losses is not None:
        return sweep.matrix(sweep.losses)
    return sweep.matrix((sweep.due if sweep.changed is None else sweep.changed).astype(np.float64))


def _draws_of(label: str) -> range:
    """The draws of a job, from its label."""
    *_, start, stop = label.split("-")
    return range(int(start), int(stop))
