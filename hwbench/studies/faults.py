"""Fault campaigns: the probability that one faulty stored bit changes an answer, and which layers and bits carry it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import onnx
import polars as pl
from pydantic import Field, model_validator

from hwbench.dataset import Dataset
from hwbench.errors import DataError, InputError
from hwbench.faults import bits
from hwbench.faults.cuts import GraphCutter
from hwbench.faults.fault import Kind
from hwbench.faults.listing import SCHEMA, open_list, read_faults
from hwbench.faults.sampler import Results, Sampler
from hwbench.faults.sampling import Exhaustive, Stratified, Uniform
from hwbench.faults.segments import write_segments
from hwbench.faults.space import FaultSpace
from hwbench.studies.base import Analysis, Case, Settings, Study
from hwbench.studies.campaign_rows import campaign_rows, verification_rows
from hwbench.worker.outcomes import COLUMNS
from hwbench.worker.perturb import stored_initializers
from hwbench.worker.protocol import Job, JobResult
from hwbench.worker.tasks.campaign import LOST

DEFAULT_TRIALS = 1000
_DEATHS = ("crash", "timeout", "oom")
Range = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class FaultsSettings(Settings):
    """What the study can be told."""

    sampler: Literal["uniform", "stratified", "exhaustive"] = "uniform"
    trials: int | None = Field(None, gt=0, description="faults to try; default 1,000")
    ci_half_width: float | None = Field(
        None, gt=0, lt=0.5, description="go on until the SDC rate's interval is this narrow"
    )
    confidence: float = Field(0.95, gt=0, lt=1)
    faults: str | None = Field(None, description="a CSV list of faults to replay instead of drawing them")
    kind: Kind = "flip"
    width: int = Field(1, ge=1, description="bits of a burst")
    tensors: str = Field("*", description="pattern of initializers' names")
    ops: tuple[str, ...] = ()
    roles: tuple[Literal["weight", "bias", "scale", "zero_point", "constant"], ...] = ()
    depth: Range | None = Field(None, description="first and last number of layers before the operator")
    bits: Range | None = Field(None, description="first and last bit of each element")
    only_correct: bool = Field(False, description="count only inputs that are right when fault-free")
    tolerance: float | None = Field(
        None, gt=0, description="for outputs that are no classifier's: the error that counts"
    )
    segmented: bool = Field(True, description="false: a full rebuild per trial")
    shard: int = Field(500, gt=0, description="trials per job")
    chunk: int = Field(64, gt=0, description="inputs held at a time")

    @model_validator(mode="after")
    def _consistent(self) -> FaultsSettings:
        chosen = [name for name in ("trials", "ci_half_width", "faults") if getattr(self, name) is not None]
        if len(chosen) > 1:
            raise ValueError(f"{chosen[0]} and {chosen[1]} both say which faults to try; give one of them")
        return self


@dataclass(frozen=True)
class Deployed:
    """A deployed model, parsed once: its graph, its stored numbers, its fault space."""

    model: onnx.ModelProto
    stored: Mapping[str, np.ndarray[Any, Any]]
    cutter: GraphCutter
    space: FaultSpace


@dataclass(frozen=True)
class Campaign:
    """The trials so far, and what became of them.

    Attributes:
        sampler: What decides on the trials; None where a list is replayed.
        trials: One line a trial, in the columns of a fault list and ``trial``.
        counts: int64 ``[trials, columns of hwbench.worker.outcomes.COLUMNS]``.
        errors: Largest absolute error of each trial.
        wanted: Jobs that must be done before anything more can be said.
        alone: Trials whose shard died, so that each was run by a full rebuild.
    """

    sampler: Sampler | None
    trials: pl.DataFrame
    counts: np.ndarray[Any, Any]
    errors: np.ndarray[Any, Any]
    wanted: dict[str, Job]
    alone: frozenset[int] = frozenset()

    @classmethod
    def empty(cls, sampler: Sampler | None) -> Campaign:
        """A campaign without trials."""
        trials = pl.DataFrame(schema={"trial": pl.Int64, **SCHEMA})
        return cls(sampler, trials, np.zeros((0, len(COLUMNS)), dtype=np.int64), np.zeros(0), {})

    def followed(
        self, case: Case, settings: FaultsSettings, stage: int, drawn: pl.DataFrame, results: Mapping[str, JobResult]
    ) -> Campaign:
        """The campaign after another stage, or with the jobs that it waits for."""
        numbered = drawn.with_row_index("trial", offset=self.trials.height).cast({"trial": pl.Int64})
        trials = pl.concat([self.trials, numbered])
        counts = np.concatenate([self.counts, np.zeros((drawn.height, len(COLUMNS)), dtype=np.int64)])
        errors = np.concatenate([self.errors, np.zeros(drawn.height)])
        wanted: dict[str, Job] = {}
        alone = set(self.alone)
        for at, part in enumerate(_shards(case, settings, numbered)):
            name = f"stage-{stage}-shard-{at:05d}"
            places = part["trial"].to_numpy()
            if f"alone-{name}" in results:
                alone |= set(places.tolist())
                if LOST in results[f"alone-{name}"].data.get("variants", {}):
                    counts[places], errors[places] = _counted_alone(results[f"alone-{name}"], part.height)
            elif name not in results:
                wanted[name] = _shard(case, settings, part)
            elif results[name].status in _DEATHS:
                wanted[f"alone-{name}"] = _alone(case, settings, part)
            elif results[name].ok:
                counts[places], errors[places] = results[name].array("counts"), results[name].array("max_abs_error")
        return Campaign(self.sampler, trials, counts, errors, wanted, frozenset(alone))

    def results(self) -> Results:
        """What the sampler is told."""
        strata = list(zip(self.trials["tensor"].to_list(), self.trials["bit"].to_list(), strict=True))
        inputs = np.maximum(self.counts[:, 0], 1)  # a trial without an input that counts is one without an event
        return Results(strata, inputs, self.counts[:, 1], self.counts[:, 2])

    def asked(self) -> Counter[tuple[str, int]]:
        """How many trials each stratum has had."""
        return Counter(zip(self.trials["tensor"].to_list(), self.trials["bit"].to_list(), strict=True))


class FaultsStudy(Study):
    """Single faults in the build's stored numbers, each run over all inputs."""

    name = "faults"
    headline = "sdc_rate"
    settings_type = FaultsSettings
    default = False

    def check(self, settings: FaultsSettings, data: Dataset, *, classifies: bool) -> None:
        """Labels where only right answers count, a tolerance where there is no best class, a list that can be read."""
        if settings.only_correct and data.labels is None:
            raise DataError(f"{data.source}: there are no labels, and only_correct counts only inputs that are right")
        if settings.only_correct and not classifies:
            raise InputError(
                "this output is no classifier's, so that no input is right or wrong; leave only_correct out"
            )
        if settings.tolerance is None and not classifies:
            raise InputError(
                "this output is no classifier's: say which error counts as a changed answer, with --tolerance"
            )
        if settings.faults is not None:
            open_list(Path(settings.faults))

    def plan(self, case: Case, settings: FaultsSettings) -> dict[str, Job]:
        """A job for every shard of the first stage's trials."""
        return self._campaign(case, settings, {}).wanted

    def extend(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Trials of shards that died, one by one; the next stage's trials; then a sample of all, run by a full rebuild."""
        campaign = self._campaign(case, settings, results)
        if campaign.wanted or "verify" in results or not settings.segmented:
            return campaign.wanted
        sample, rebuilt = _sample(case, campaign), settings.model_copy(update={"segmented": False})
        return {"verify": _shard(case, rebuilt, sample)} if sample.height else {}

    def measure(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> Analysis:
        """As `Study.measure`, but that shards which died count through their trials run alone."""
        kept = {name: result for name, result in results.items() if f"alone-{name}" not in results}
        for name, result in kept.items():
            for trial, (status, detail) in result.failed.items():
                if status not in _DEATHS or trial == LOST:  # the fault-free build's own end is no trial's outcome
                    return Analysis([self.missing(status, f"{name}, trial {trial}: {detail}")])
        return super().measure(case, settings, kept)

    def analyse(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> Analysis:
        """Rates with intervals, and one line a trial."""
        campaign = self._campaign(case, settings, results)
        table = _table(campaign.trials, campaign.counts, campaign.errors)
        if not campaign.counts[:, 0].any():
            why = "no input counts: fault-free, not one gives a finite output" + (
                ", and a right one" * settings.only_correct
            )
            return Analysis([self.missing("unavailable", why)], parts={"trials": table})
        space = _selected(deployed(case.subject.build.model).space, settings)
        rows = campaign_rows(case, settings.confidence, space, table, campaign.counts, campaign.sampler)
        problem = self._disagreement(case, campaign, results)
        if problem is not None:
            rows = [self.missing("error", problem)]
        return Analysis([*rows, *verification_rows(results)], parts={"trials": table})

    def _campaign(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> Campaign:
        """How far a campaign has come: it is followed stage by stage, each decided on by the results of those before."""
        build = deployed(case.subject.build.model)
        if settings.faults is not None:
            listed = read_faults(Path(settings.faults), build.stored)
            return Campaign.empty(None).followed(case, settings, 0, listed, results)
        space = _selected(build.space, settings)
        campaign, stage = Campaign.empty(_sampler(space, settings, case.seed)), 0
        while campaign.sampler is not None and not campaign.wanted:
            more = campaign.sampler.next(campaign.results())
            if more is None:
                break
            drawn = _drawn(space, more, campaign.asked(), case.seed, settings)
            campaign, stage = campaign.followed(case, settings, stage, drawn, results), stage + 1
        return campaign

    def _disagreement(self, case: Case, campaign: Campaign, results: Mapping[str, JobResult]) -> str | None:
        """What is wrong with the campaign, in words: a trial that a full rebuild tells otherwise, or faults left behind."""
        for result in results.values():
            checks = result.data.get("checks", {})
            if checks.get("segmented") and not checks["golden_restored"]:
                return "the golden output after the campaign was not the same, bit for bit, as before"
        if "verify" not in results:
            return None
        sample = _sample(case, campaign)
        again = results["verify"].array("counts")
        wrong = np.flatnonzero((campaign.counts[sample["trial"].to_numpy()][:, :3] != again[:, :3]).any(axis=1))
        if not len(wrong):
            return None
        first = sample.row(int(wrong[0]), named=True)
        return (
            f"{len(wrong)} of {sample.height} trials run again by a full rebuild had another outcome, the first in "
            f"{first['tensor']!r}, element {first['element']}, bit {first['bit']}; run with segmented = false"
        )


@lru_cache(maxsize=4)
def deployed(path: Path) -> Deployed:
    """Parse a deployed model."""
    model = onnx.load(path)
    stored = stored_initializers(model)
    return Deployed(model, stored, GraphCutter(model), FaultSpace.of(model, stored))


def _selected(space: FaultSpace, settings: FaultsSettings) -> FaultSpace:
    return space.select(
        tensors=settings.tensors, ops=settings.ops, roles=settings.roles, depth=settings.depth, bit_range=settings.bits
    )


def _sampler(space: FaultSpace, settings: FaultsSettings, seed: int) -> Sampler:
    strata = list(space.strata())
    if settings.sampler == "exhaustive":
        return Exhaustive(strata, settings.confidence)
    kind = Uniform if settings.sampler == "uniform" else Stratified
    n = None if settings.ci_half_width is not None else min(settings.trials or DEFAULT_TRIALS, space.size)
    return kind(strata, n=n, half_width=settings.ci_half_width, level=settings.confidence, seed=seed)


def _drawn(
    space: FaultSpace, more: Mapping[Any, int], before: Mapping[Any, int], seed: int, settings: FaultsSettings
) -> pl.DataFrame:
    """Faults of some strata, uniform and without replacement, the first so many of each stratum's own order."""
    sizes = {tensor.name: tensor for tensor in space.tensors}
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA}
    for (name, bit), count in sorted(more.items()):
        tensor, start = sizes[name], before[name, bit]
        words = bits.random_words("fault", seed, bit, name)
        elements = _order(words, tensor.elements, start + count)[start:]
        values = bits.random_words("fault_value", seed, bit, name).random_raw(start + count)[start:]
        columns["tensor"] += [name] * count
        columns["element"] += elements
        columns["bit"] += [bit] * count
        columns["kind"] += [settings.kind] * count
        columns["width"] += [settings.width if settings.kind == "burst" else 1] * count
        mask = (1 << tensor.width) - 1 if settings.kind == "random_value" else 0
        columns["value"] += [int(value) & mask for value in values]
    return pl.DataFrame(columns, schema=SCHEMA)


def _order(words: np.random.Philox, elements: int, count: int) -> list[int]:
    """The first ``count`` elements of a random order of all, which does not depend on ``count``."""
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        chosen.update(dict.fromkeys((words.random_raw(max(16, count)) % np.uint64(elements)).tolist()))
    return list(chosen)[:count]


def _shards(case: Case, settings: FaultsSettings, trials: pl.DataFrame) -> list[pl.DataFrame]:
    """The trials in the order of their layers, cut into shards; what a shard runs does not depend on the number of workers."""
    build = deployed(case.subject.build.model)
    place = {tensor.name: (tensor.depth, at) for at, tensor in enumerate(build.space.tensors)}
    order = sorted(range(trials.height), key=lambda at: (place[trials["tensor"][at]], at))
    return [trials[order[first : first + settings.shard]] for first in range(0, len(order), settings.shard)]


def _shard(case: Case, settings: FaultsSettings, part: pl.DataFrame) -> Job:
    build, subject = deployed(case.subject.build.model), case.subject
    plan: dict[str, Any] = {}
    homes = build.cutter.homes
    touched = {homes[name].out for name in set(part["tensor"]) & homes.keys()}
    layers = [layer for layer in build.cutter.layers if layer.out in touched]
    if settings.segmented and layers:
        plan = write_segments(build.cutter, layers, case.work / "segments" / subject.build.key, case.output)
    labels = case.data.labels
    job = subject.job(
        "campaign",
        case,
        labels=str(labels.path.resolve()) if labels is not None and case.classifies else "",
        n=case.data.n,
        chunk=settings.chunk,
        output=case.output,
        outcome={"kind": "top1"} if case.classifies else {"kind": "tolerance", "tolerance": settings.tolerance},
        plan=plan,
        faults=[list(row) for row in part.select(list(SCHEMA)).iter_rows()],
        exact=_is_integer(case),
        only_correct=settings.only_correct,
        batch=case.model.batch,
    )
    identity = {
        **job.identity,
        "labels": labels.sha256 if labels is not None else "",
        "plan": "segmented" if plan else "",
    }
    return replace(job, identity=identity)


def _alone(case: Case, settings: FaultsSettings, part: pl.DataFrame) -> Job:
    job = _shard(case, settings.model_copy(update={"segmented": False}), part)
    return replace(job, variants=(LOST, *(str(at) for at in range(part.height))))


def _counted_alone(result: JobResult, n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Counts of trials run one by one; one that killed its worker is DUE on every input."""
    done = result.data["variants"]
    records = [done.get(str(trial), done[LOST]) for trial in range(n)]
    errors = [np.inf if record["max_abs_error"] is None else record["max_abs_error"] for record in records]
    return np.array([record["counts"] for record in records]), np.array(errors)


def _sample(case: Case, campaign: Campaign) -> pl.DataFrame:
    """The trials that are run again by a full rebuild: 1 %, but at least 5 and at most 50; none that was run by one."""
    trials = campaign.trials.filter(~pl.col("trial").is_in(campaign.alone))
    count = min(trials.height, max(5, min(50, trials.height // 100)))
    rng = np.random.Generator(np.random.Philox(key=[case.seed, 0x5A3]))
    return trials[np.sort(rng.choice(trials.height, count, replace=False))] if count else trials


def _is_integer(case: Case) -> bool:
    """Whether the build's segments must reproduce it bit for bit: all it multiplies is quantized."""
    compute = case.subject.build.manifest["contents"]["compute"]
    return set(compute) == {"int8"} and not case.subject.build.manifest["asked"].get("dynamic")


def _table(trials: pl.DataFrame, counts: np.ndarray[Any, Any], errors: np.ndarray[Any, Any]) -> pl.DataFrame:
    """One line a trial, in the columns of ``trials/<profile>/part-*.parquet``."""
    at = {name: counts[:, place] for place, name in enumerate(COLUMNS)}
    outcome = np.where(at["n_due"] > 0, "due", np.where(at["n_changed"] > 0, "sdc", "masked"))
    return trials.with_columns(
        n_inputs=at["n_inputs"], n_changed=at["n_changed"], n_due=at["n_due"], outcome=outcome, max_abs_error=errors
    )
