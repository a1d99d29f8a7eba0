"""Fault campaigns: the probability that one faulty stored bit changes an answer, and which layers and bits carry it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import onnx
import polars as pl
from pydantic import Field

from hwbench.faults.cuts import GraphCutter
from hwbench.faults.fault import Kind
from hwbench.faults.listing import SCHEMA, read_faults
from hwbench.faults.segments import write_segments
from hwbench.faults.space import FaultSpace
from hwbench.studies.base import Analysis, Case, Settings, Study
from hwbench.studies.campaign_rows import campaign_rows, verification_rows
from hwbench.worker.outcomes import COLUMNS
from hwbench.worker.perturb import stored_initializers
from hwbench.worker.protocol import Job, JobResult

DEFAULT_TRIALS = 1000
Range = tuple[Annotated[int, Field(ge=0)], Annotated[int, Field(ge=0)]]


class FaultsSettings(Settings):
    """What the study can be told."""

    trials: int | None = Field(None, gt=0, description="faults, drawn uniformly over the selected stored bits")
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


@dataclass(frozen=True)
class Deployed:
    """A deployed model, parsed once: its graph, its stored numbers, its fault space."""

    model: onnx.ModelProto
    stored: Mapping[str, np.ndarray[Any, Any]]
    cutter: GraphCutter
    space: FaultSpace


class FaultsStudy(Study):
    """Single faults in the build's stored numbers, each run over all inputs."""

    name = "faults"
    headline = "sdc_rate"
    settings_type = FaultsSettings
    default = False

    def plan(self, case: Case, settings: FaultsSettings) -> dict[str, Job]:
        """A job for every shard of the trials, in the order of the layers they are in."""
        trials = self._trials(case, settings)
        return {
            f"shard-{at:05d}": _shard(case, settings, part) for at, part in enumerate(_shards(case, settings, trials))
        }

    def extend(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Trials of shards that died, one by one; then a sample of all trials by a full rebuild, to hold the engine against."""
        trials = self._trials(case, settings)
        shards = {f"shard-{at:05d}": part for at, part in enumerate(_shards(case, settings, trials))}
        dead = {
            f"alone-{name}": _alone(case, settings, part)
            for name, part in shards.items()
            if results[name].status in ("crash", "timeout", "oom") and f"alone-{name}" not in results
        }
        if dead or "verify" in results or not settings.segmented:
            return dead
        sample = _sample(case, trials)
        return {"verify": _shard(case, settings.model_copy(update={"segmented": False}), trials[sample])}

    def tolerated(self) -> frozenset[str]:
        """Nothing: a shard that died has been run again, trial by trial."""
        return frozenset()

    def measure(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> Analysis:
        """As `Study.measure`, but that shards which died count through their trials run alone."""
        kept = {name: result for name, result in results.items() if f"alone-{name}" not in results}
        return super().measure(case, settings, kept)

    def analyse(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> Analysis:
        """Rates with intervals, and one line a trial."""
        trials = self._trials(case, settings)
        counts = np.zeros((trials.height, len(COLUMNS)), dtype=np.int64)
        errors = np.zeros(trials.height)
        for at, part in enumerate(_shards(case, settings, trials)):
            name = f"shard-{at:05d}"
            places = part["trial"].to_numpy()
            if name in results:
                counts[places], errors[places] = results[name].array("counts"), results[name].array("max_abs_error")
            else:
                counts[places], errors[places] = _counted_alone(case, results[f"alone-{name}"], part.height)
        table = _table(trials, counts, errors)
        problem = self._disagreement(case, trials, counts, results)
        rows = campaign_rows(case, settings.confidence, deployed(case.subject.build.model).space, table, counts)
        if problem is not None:
            rows = [self.missing("error", problem)]
        rows += verification_rows(results)
        return Analysis(rows, parts={"trials": table})

    def _trials(self, case: Case, settings: FaultsSettings) -> pl.DataFrame:
        """The faults of the campaign, in the columns of a fault list and ``trial``."""
        build = deployed(case.subject.build.model)
        if settings.faults is not None:
            faults = read_faults(Path(settings.faults), build.stored)
        else:
            space = _selected(build.space, settings)
            faults = _uniform(space, settings.trials or DEFAULT_TRIALS, case.seed, settings)
        return faults.with_row_index("trial").cast({"trial": pl.Int64})

    def _disagreement(
        self, case: Case, trials: pl.DataFrame, counts: np.ndarray[Any, Any], results: Mapping[str, JobResult]
    ) -> str | None:
        """What is wrong with the campaign, in words: a trial that a full rebuild tells otherwise, or faults left behind."""
        for result in results.values():
            checks = result.data.get("checks", {})
            if checks.get("segmented") and not checks["golden_restored"]:
                return "the golden output after the campaign was not the same, bit for bit, as before"
        if "verify" not in results:
            return None
        sample = _sample(case, trials)
        again = results["verify"].array("counts")
        wrong = np.flatnonzero((counts[sample][:, :3] != again[:, :3]).any(axis=1))
        if not len(wrong):
            return None
        first = trials.row(int(sample[wrong[0]]), named=True)
        return (
            f"{len(wrong)} of {len(sample)} trials run again by a full rebuild had another outcome, the first in "
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


def _uniform(space: FaultSpace, n: int, seed: int, settings: FaultsSettings) -> pl.DataFrame:
    """Distinct stored bits drawn uniformly; a random value is drawn for the element the bit is in."""
    rng = np.random.Generator(np.random.Philox(key=[seed, 0xFA017]))
    n = min(n, space.size)
    chosen: dict[int, None] = {}
    while len(chosen) < n:
        chosen.update(dict.fromkeys(rng.integers(0, space.size, n).tolist()))
    which, elements, places = space.locate(np.array(list(chosen)[:n]))
    values = rng.integers(0, 2**63, n, dtype=np.uint64)
    widths = np.array([tensor.width for tensor in space.tensors])[which]
    mask = (np.uint64(1) << np.minimum(widths, 63).astype(np.uint64)) - np.uint64(1)
    columns = {
        "tensor": [space.tensors[at].name for at in which],
        "element": elements,
        "bit": places,
        "kind": [settings.kind] * n,
        "width": [settings.width if settings.kind == "burst" else 1] * n,
        "value": values & mask if settings.kind == "random_value" else np.zeros(n, dtype=np.uint64),
    }
    return pl.DataFrame(columns, schema=SCHEMA)


def _shards(case: Case, settings: FaultsSettings, trials: pl.DataFrame) -> list[pl.DataFrame]:
    """The trials in the order of their layers, cut into shards; what a shard runs does not depend on the number of workers."""
    build = deployed(case.subject.build.model)
    place = {tensor.name: (tensor.depth, at) for at, tensor in enumerate(build.space.tensors)}
    order = sorted(range(trials.height), key=lambda at: (place[trials["tensor"][at]], at))
    return [trials[order[first : first + settings.shard]] for first in range(0, len(order), settings.shard)]


def _shard(case: Case, settings: FaultsSettings, part: pl.DataFrame) -> Job:
    build, subject = deployed(case.subject.build.model), case.subject
    plan: dict[str, Any] = {}
    touched = set(part["tensor"])
    layers = [layer for layer in build.cutter.layers if touched & layer.parameters.keys()]
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
    return replace(job, variants=tuple(str(at) for at in range(part.height)))


def _counted_alone(case: Case, result: JobResult, n: int) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    """Counts of trials run one by one; one that killed its worker is DUE on every input."""
    counts, errors = np.zeros((n, len(COLUMNS)), dtype=np.int64), np.full(n, np.inf)
    counts[:, COLUMNS.index("n_inputs")] = counts[:, COLUMNS.index("n_due")] = case.data.n
    for name, data in result.data["variants"].items():
        counts[int(name)] = data["counts"]
        errors[int(name)] = np.inf if data["max_abs_error"] is None else data["max_abs_error"]
    return counts, errors


def _sample(case: Case, trials: pl.DataFrame) -> np.ndarray[Any, Any]:
    """The trials that are run again by a full rebuild: 1 %, but at least 5 and at most 50."""
    count = min(trials.height, max(5, min(50, trials.height // 100)))
    rng = np.random.Generator(np.random.Philox(key=[case.seed, 0x5A3]))
    return np.sort(rng.choice(trials.height, count, replace=False))


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
