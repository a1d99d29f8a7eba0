"""The rounds of the greedy search for the worst case: candidates of every tensor, and a campaign that measures them."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hwbench.build import MODEL_FILE, Build
from hwbench.faults.fault import Fault, Kind
from hwbench.faults.listing import SCHEMA
from hwbench.faults.search import Place, most_changing
from hwbench.patching import InitializerPatcher
from hwbench.studies.base import Case
from hwbench.studies.campaign_jobs import shard_job
from hwbench.studies.deployed import deployed
from hwbench.studies.faults_settings import FaultsSettings
from hwbench.worker.outcomes import COLUMNS, MAX_LOSS
from hwbench.worker.protocol import Job, JobResult

Array = np.ndarray[Any, np.dtype[Any]]
Flip = tuple[str, int, int, Kind, int, int]
_CAMPAIGN = FaultsSettings(tolerance=1e-3)  # only says how exactly the cut graph must give the fault-free output
_LESS = 4  # by which numbers that are no weights, many tensors of few elements, get fewer candidates


class Pool:
    """The candidates of every tensor: up to half of a round are the best that were measured before, the others are new.

    Args:
        ranked: Tensor to its flips, the most promising first, and how many of them are tried in one round.
    """

    def __init__(self, ranked: Mapping[str, tuple[Sequence[Place], int]]) -> None:
        self._ranked = ranked
        self._next = dict.fromkeys(ranked, 0)
        self._score: dict[str, dict[Flip, float]] = {name: {} for name in ranked}

    def round(self, chosen: Sequence[Flip]) -> list[Flip]:
        """What to try on top of the flips chosen so far."""
        tried: list[Flip] = []
        for name, (places, size) in self._ranked.items():
            known = self._score[name]
            for flip in chosen:
                known.pop(flip, None)
            start = self._next[name]
            kept = sorted(known, key=lambda flip: -known[flip])[: max(size // 2, size - len(places[start:]))]
            fresh = [flip_at(name, *place) for place in places[start : start + size - len(kept)]]
            self._next[name] = start + len(fresh)
            tried += [*kept, *fresh]
        return tried

    def told(self, tried: Sequence[Flip], result: JobResult, *, silent: bool) -> Flip | None:
        """Take in what a round measured.

        Args:
            tried: The round's candidates.
            result: The campaign's.
            silent: Whether flips after which an output is not finite are left out.

        Returns:
            The flip after which the loss is largest; None if all are left out.
        """
        due = result.array("counts")[:, COLUMNS.index("n_due")]
        scores = np.where((due > 0) & silent, -np.inf, result.array("loss_change") + MAX_LOSS * due)
        for flip, score in zip(tried, scores.tolist(), strict=True):
            self._score[flip[0]][flip] = score
        errors = result.array("max_abs_error")  # decides where the loss does not
        best = max(range(len(tried)), key=lambda at: (scores[at], errors[at]))
        return tried[best] if scores[best] > -np.inf else None


def flip_at(tensor: str, element: int, bit: int) -> Flip:
    """A flip as a line of a fault list."""
    return tensor, element, bit, "flip", 1, 0


def flips_frame(flips: Sequence[Flip]) -> pl.DataFrame:
    """Flips as a fault list."""
    return pl.DataFrame(list(flips), schema=SCHEMA, orient="row")


@lru_cache(maxsize=8)
def ranked(
    model: Path, names: tuple[str, ...], size: int, rounds: int, seed: int
) -> dict[str, tuple[list[Place], int]]:
    """Each tensor's candidates for all rounds, in the order of the graph, and how many of them are tried in one.

    Args:
        model: The deployed model.
        names: Its stored numbers that may be changed.
        size: Candidates of a weight tensor in one round.
        rounds: How many rounds there may be.
        seed: The run's seed.
    """
    build = deployed(model)
    chosen = [tensor for tensor in build.space.tensors if tensor.name in set(names)]
    found: dict[str, tuple[list[Place], int]] = {}
    for tensor in sorted(chosen, key=lambda one: one.depth):
        some = size if tensor.role == "weight" else max(1, size // _LESS)
        places = most_changing(tensor.name, build.cutter.nodes, build.stored, some * rounds, seed)
        found |= {tensor.name: (places, some)} if places else {}
    return found


def round_job(case: Case, seen: Array, search: str, chosen: Sequence[Flip], tried: Sequence[Flip]) -> Job:
    """A campaign of candidates on the build with the chosen flips in it, over the inputs that the search sees.

    Args:
        case: The build and its data.
        seen: The inputs the search sees, bool ``[n]``.
        search: The search's name; what its round before wrote is removed.
        chosen: The flips that stay.
        tried: One of these more in each trial.
    """
    place = case.work / "worst_case" / case.profile.name / search
    shutil.rmtree(place, ignore_errors=True)
    name = hashlib.sha256(json.dumps([case.subject.build.key, list(chosen)]).encode()).hexdigest()[:16]
    folder = place / name
    folder.mkdir(parents=True)
    write_flipped(case.subject.build.model, chosen, folder / MODEL_FILE)
    build = Build(name, folder, {**case.subject.build.manifest, "sha256": name})
    data = case.data if seen.all() else case.data.subset(np.flatnonzero(seen))
    flipped = replace(case, subject=replace(case.subject, build=build), data=data, work=folder)
    return shard_job(flipped, _CAMPAIGN, flips_frame(tried))


def write_flipped(source: Path, flips: Sequence[Flip], target: Path) -> None:
    """Write a copy of a deployed model with flips in its stored numbers."""
    stored, changed = deployed(source).stored, dict[str, Array]()
    for flip in flips:
        changed[flip[0]] = Fault(*flip).apply(changed.get(flip[0], stored[flip[0]]))
    target.write_bytes(InitializerPatcher(source, changed).patched(changed))
