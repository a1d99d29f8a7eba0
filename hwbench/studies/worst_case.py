"""The worst case: how few stored bits somebody has to choose and flip until a build is no better than chance."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import polars as pl
from pydantic import Field

from hwbench.bounds import CANDIDATES, FLIPS, INPUTS, REPEATS
from hwbench.dataset import Dataset
from hwbench.errors import DataError, InputError
from hwbench.faults.listing import check_lines, read_faults, with_formats
from hwbench.faults.search import sign_flips
from hwbench.faults.space import Role
from hwbench.studies.base import GOLDEN, Analysis, Case, NamesFile, Settings, Study
from hwbench.studies.deployed import coverage_rows, deployed, numbers_obstacle
from hwbench.studies.greedy_search import Flip, Pool, flip_at, flips_frame, ranked, round_job
from hwbench.studies.outputs import estimate, per_sample, row
from hwbench.table import Row, condition
from hwbench.worker.protocol import Job, JobResult

Array = np.ndarray[Any, np.dtype[Any]]
Results = Mapping[str, JobResult]
Search = Literal["greedy", "greedy_weights", "data_free"]


class WorstCaseSettings(Settings):
    """What the study can be told."""

    searches: tuple[Search, ...] = Field(("greedy", "greedy_weights", "data_free"), min_length=1)
    level: float | None = Field(
        None, description="the primary metric's figure to get to; default, for classifiers: 1 / number of classes"
    )
    max_flips: int = Field(50, gt=0, le=FLIPS, description="flips after which a search gives up")
    tensors: str = Field("*", description="pattern of the names of stored numbers that may be changed")
    roles: tuple[Literal["weight", "bias", "scale", "zero_point", "threshold", "structure", "constant"], ...] = Field(
        ("weight", "bias", "scale", "zero_point", "threshold"), min_length=1, description="what greedy may change"
    )
    candidates: int = Field(
        8, gt=0, le=CANDIDATES, description="flips of each weight tensor that are tried before one is chosen"
    )
    inputs: int = Field(128, gt=0, le=INPUTS, description="how many of the inputs a greedy search sees")
    silent: bool = Field(True, description="greedy searches leave out flips that make an output NaN or infinite")
    early_layers: int = Field(3, gt=0, le=REPEATS, description="layers, from the first one on, that data_free changes")
    faults: Annotated[str | None, NamesFile()] = Field(
        None, description="instead of a search: a CSV list of faults, added one after the other"
    )


@dataclass
class _Found:
    """How far a search has come.

    Attributes:
        name: The search.
        flips: The flips chosen, one after the other; all stay.
        wanted: Jobs that must be done before it goes on.
        ended: Why there are no more flips, where that is not because the level was reached or the most flips were made.
    """

    name: str
    flips: list[Flip] = field(default_factory=list)
    wanted: dict[str, Job] = field(default_factory=dict)
    ended: str = ""


class WorstCaseStudy(Study):
    """Chosen flips, each added to those before it, until the build's accuracy is gone.

    ``greedy`` tries, round by round, some flips of every tensor on top of those already chosen, through the engine of the
    fault campaigns, and keeps the one after which the loss on some of the inputs is largest: progressive bit search (Rakin,
    He and Fan 2019, "Bit-flip attack", ICCV) without gradients. ``greedy_weights`` leaves biases, scales and zero points
    alone. ``data_free`` flips the highest bits of the largest weights of the first layers. What a search chooses is measured on
    all inputs, by rebuilding the whole build.
    """

    name = "worst_case"
    headline = "flips_needed"
    settings_type = WorstCaseSettings
    default = False
    checks_builds = True

    def check(self, settings: WorstCaseSettings, data: Dataset, *, classifies: bool) -> None:
        """Labels; a level where chance is not defined; a list that can be read."""
        if data.labels is None:
            raise DataError(f"{data.source}: there are no labels, and worst_case measures what becomes of the accuracy")
        if settings.level is None and not classifies:
            raise InputError(
                "worst_case: this output is no classifier's, so that there is no chance level; say with "
                "settings.worst_case.level which figure to get to"
            )
        if settings.faults is not None:
            check_lines(Path(settings.faults))

    def check_build(self, case: Case, settings: WorstCaseSettings) -> None:
        """A list of faults that the build can have, or a pattern that selects something."""
        build = deployed(case.subject.build.model)
        if settings.faults is not None:
            read_faults(Path(settings.faults), build.stored)
        elif build.stored:
            build.space.select(tensors=settings.tensors)

    def obstacle(self, case: Case, settings: WorstCaseSettings) -> str:
        """Reason why no bit can be flipped; empty if one can."""
        return numbers_obstacle(case)

    def plan(self, case: Case, settings: WorstCaseSettings) -> dict[str, Job]:
        """The fault-free build, the flips that need no search, the first round of the others."""
        return {"golden": case.evaluation(GOLDEN), **self._wanted(case, settings, {})}

    def extend(self, case: Case, settings: WorstCaseSettings, results: Results) -> dict[str, Job]:
        """The next round of each search, and the measurement of what its last one chose."""
        return self._wanted(case, settings, results) if all(result.ok for result in results.values()) else {}

    def analyse(self, case: Case, settings: WorstCaseSettings, results: Results) -> Analysis:
        """Flips needed, accuracy after each flip, and the flips as lists."""
        problem = _problem(results)
        if problem:
            return Analysis([self.missing("error", problem)])
        needed: list[Row] = []
        curves: list[Row] = []
        lists: dict[str, pl.DataFrame] = {}
        for found in self._searches(case, settings, results):
            values = dict(_measured(case, found, results))
            needed.append(_needed(case, settings, found, values))
            for k, one in values.items():
                where = condition(flips=k, search=found.name)
                figure = estimate(case, case.primary, one)
                curves.append(row(self.name, case.primary.name, figure, case.primary.unit, where))
            stored = deployed(case.subject.build.model).stored
            lists[f"worst_case-{found.name}"] = with_formats(flips_frame(found.flips[: max(values)]), stored)
        fewest = min(needed, key=lambda one: np.inf if one.value is None else one.value)
        rows = [replace(fewest, condition="{}"), *needed, *curves, *coverage_rows(self.name, case)]
        return Analysis(rows, lists=lists)

    def _wanted(self, case: Case, settings: WorstCaseSettings, results: Results) -> dict[str, Job]:
        searches = self._searches(case, settings, results)
        return {label: job for found in searches for label, job in found.wanted.items()}

    def _searches(self, case: Case, settings: WorstCaseSettings, results: Results) -> list[_Found]:
        """Every search as far as results tell."""
        build = deployed(case.subject.build.model)
        if settings.faults is not None:
            listed = read_faults(Path(settings.faults), build.stored)
            return [_listed(case, _Found("list", list(listed.iter_rows()), ended="the list ends there"), results)]
        found = []
        for search in dict.fromkeys(settings.searches):
            if search == "data_free":
                space = replace(build.space, tensors=tuple(
                    tensor for tensor in build.space.tensors if fnmatchcase(tensor.name, settings.tensors)
                ))  # fmt: skip
                places = sign_flips(space, build.cutter.nodes, build.stored, settings.early_layers, settings.max_flips)
                flips = [flip_at(*place) for place in places]
                found.append(_listed(case, _Found(search, flips, ended="its layers have no more weights"), results))
            else:
                found.append(_greedy(case, settings, search, results))
        return found


def _listed(case: Case, found: _Found, results: Results) -> _Found:
    """Flips that are known beforehand: one job measures the build after each of them."""
    after = dict(_after(found.flips, k) for k in range(1, len(found.flips) + 1))
    if after and found.name not in results:
        found.wanted[found.name] = case.evaluation(after, top=case.classifies)
    return found


def _greedy(case: Case, settings: WorstCaseSettings, search: str, results: Results) -> _Found:
    """Round by round: a campaign tells the next flip, then it is measured beside the campaign of the round after it."""
    roles: Collection[Role] = settings.roles if search == "greedy" else ("weight",)
    names = tuple(
        tensor.name
        for tensor in deployed(case.subject.build.model).space.tensors
        if tensor.role in roles and fnmatchcase(tensor.name, settings.tensors)
    )
    pool = Pool(ranked(case.subject.build.model, names, settings.candidates, settings.max_flips + 1, case.seed))
    found = _Found(search)
    while len(found.flips) < settings.max_flips:
        k = len(found.flips)
        if _label(search, k) in results:
            values = _values(case, results, found, k)
            if values is None or _reached(case, settings, values):
                return found
        tried = pool.round(found.flips)
        label = f"{search}-round-{k}"
        if label not in results:
            if tried:
                found.wanted[label] = round_job(case, _seen(case, settings), search, found.flips, tried)
            found.ended = "no flip is left to try"
            return found
        best = pool.told(tried, results[label], silent=settings.silent)
        if best is None:
            found.ended = "each flip tried next made an output NaN or infinite"
            return found
        found.flips.append(best)
        if _label(search, k + 1) not in results:
            after = dict([_after(found.flips, k + 1)])
            found.wanted[_label(search, k + 1)] = case.evaluation(after, top=case.classifies)
    return found


def _label(search: str, k: int) -> str:
    """The job that measures the build after k flips."""
    return f"{search}-{k}" if k and search.startswith("greedy") else search if k else "golden"


def _after(flips: Sequence[Flip], k: int) -> tuple[str, dict[str, Any]]:
    """The variant of an evaluation that has the first k flips."""
    return f"flips-{k}", {"kind": "faults", "faults": [list(flip) for flip in flips[:k]]}


def _seen(case: Case, settings: WorstCaseSettings) -> Array:
    """Which inputs a greedy search sees, drawn at random because data may be sorted."""
    rng = np.random.Generator(np.random.Philox(key=[case.seed, 0x3C]))
    seen = np.zeros(case.data.n, dtype=bool)
    seen[rng.choice(case.data.n, min(case.data.n, settings.inputs), replace=False)] = True
    return seen


def _values(case: Case, results: Results, found: _Found, k: int) -> Array | None:
    """The primary metric of every input after k flips; None where that build could not be run."""
    result, variant = results[_label(found.name, k)], f"flips-{k}" if k else "golden"
    record = result.data["variants"].get(variant)
    if record is None or "failed" in record:
        return None
    return per_sample(case, case.primary, result, variant, top=case.classifies and k > 0)


def _measured(case: Case, found: _Found, results: Results) -> Iterator[tuple[int, Array]]:
    """The primary metric of every input after 0, 1, 2, ... flips, as far as the build could be run."""
    for k in range(len(found.flips) + 1):
        values = _values(case, results, found, k)
        if values is None:
            return
        yield k, values


def _problem(results: Results) -> str:
    """What shows that the measurement itself cannot be trusted; empty if nothing does."""
    for label, result in results.items():
        for variant, (status, detail) in result.unexplained.items():
            return f"{label}, {variant}: {status}: {detail}"
        checks = result.data.get("checks", {})
        restored = result.data.get("restored", True) and (
            checks.get("golden_restored", True) or not checks["segmented"]
        )
        if not restored:
            return f"{label}: the golden output was not the same, bit for bit, after the flips were undone"
    return ""


def _level(case: Case, settings: WorstCaseSettings) -> float:
    """The figure to get to."""
    if settings.level is not None:
        return settings.level
    output = next(one for one in case.model.outputs if one.name == case.output)
    classes = output.shape[1] if len(output.shape) > 1 else None
    return 1 / (classes or int(case.data.labels_array().max()) + 1)


def _reached(case: Case, settings: WorstCaseSettings, values: Array) -> bool:
    figure = case.primary.aggregate(values, case.data.labels_array())
    return case.primary.worsening(_level(case, settings), figure) >= 0


def _needed(case: Case, settings: WorstCaseSettings, found: _Found, values: Mapping[int, Array]) -> Row:
    """How many flips a search needed, or that it did not get there."""
    metric, level, labels = case.primary, _level(case, settings), case.data.labels_array()
    k = next((k for k, one in values.items() if _reached(case, settings, one)), None)
    last = max(values) if k is None else k
    bits = deployed(case.subject.build.model).space.size
    said = [f"{metric.name} {metric.aggregate(values[last], labels):.4g} after {last} of {bits:,} stored bits"]
    seen = _seen(case, settings)
    if found.name.startswith("greedy") and not seen.all():
        unseen = metric.aggregate(values[last][~seen], labels[~seen])
        said.append(f"chosen by {int(seen.sum())} of {case.data.n} inputs; on the others {metric.name} is {unseen:.4g}")
    where, sign = condition(search=found.name), "<=" if metric.higher_is_better else ">="
    goal = f"{found.name}: {metric.name} {sign} {level:.4g}"
    if k is not None:
        return Row(
            "worst_case", "flips_needed", where, float(k), "count", n=case.data.n, detail="; ".join([goal, *said])
        )
    if last < len(found.flips):
        why = " (the build could not be run after one more)"
    else:
        why = f" ({found.ended})" if found.ended and last < settings.max_flips else ""
    goal = f"{goal} not reached within {last} flips{why}"
    return Row("worst_case", "flips_needed", where, status="unavailable", detail="; ".join([goal, *said]))
