"""The jobs of a fault campaign: trials cut into shards, each for a worker."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import polars as pl

from hwbench.faults import names
from hwbench.faults.listing import SCHEMA
from hwbench.faults.segments import segment_files, write_segments, write_tensor_segments
from hwbench.studies.base import Case
from hwbench.studies.deployed import deployed
from hwbench.studies.fault_draws import Array, block_params
from hwbench.studies.faults_settings import FaultsSettings
from hwbench.worker.protocol import Job, JobResult, Limits
from hwbench.worker.tasks.campaign import LOST

# Trials in a shard; of those over some of the inputs only, more.
SHARD, SHARD_OF_BLOCKS = 500, 4000
# Trials in the artefact are a process each: fewer make a shard, so that less is lost with an interrupted one.
_ARTEFACT_SHARD = 50


def shards(case: Case, settings: FaultsSettings, trials: pl.DataFrame) -> list[pl.DataFrame]:
    """The trials, cut into shards; what a shard runs does not depend on the number of workers.

    Numbers of the file come first, then tensors between operators, then bytes of the file; each in the order of the inputs that
    trials begin at, then of their layers.
    """
    space = deployed(case.subject.build.model).whole(set(trials["tensor"]))
    place = {tensor.name: (_engine(tensor.name), tensor.depth, at) for at, tensor in enumerate(space.tensors)}
    firsts = trials["first"].fill_null(0).to_list()
    keys = [
        (place[name][0], first, place[name]) for name, first in zip(trials["tensor"].to_list(), firsts, strict=True)
    ]
    usual = settings.shard or (SHARD if trials["first"].null_count() else SHARD_OF_BLOCKS)
    order = sorted(range(trials.height), key=lambda at: (keys[at], at))
    cut: list[pl.DataFrame] = []
    for kind, longest in enumerate((usual, usual, min(usual, _ARTEFACT_SHARD))):
        of_kind = [at for at in order if keys[at][0] == kind]
        cut += [trials[of_kind[first : first + longest]] for first in range(0, len(of_kind), longest)]
    return cut


def shard_job(case: Case, settings: FaultsSettings, part: pl.DataFrame, inputs: Array | None = None) -> Job:
    """The job of a shard; ``inputs`` is the order of those that trials over some of them draw from, or None."""
    labels = case.data.labels
    params: dict[str, Any] = {
        "labels": str(labels.path.resolve()) if labels is not None else "",
        **{"n": case.data.n, **block_params(part, inputs, settings.chunk)},
        "output": case.output,
        "outcome": {"kind": "top1"} if case.classifies else {"kind": "tolerance", "tolerance": settings.tolerance},
        "faults": [list(row) for row in part.select(list(SCHEMA)).iter_rows()],
        "only_correct": settings.only_correct,
        "batch": case.model.batch,
    }
    identity = {"labels": labels.sha256 if labels is not None else ""}
    beside = [params["labels"]] if params["labels"] else []
    if in_artefact(part):
        job = case.subject.job("artefact", case, timeout_s=case.timeout_s, **params)
        limits = Limits(timeout_s=case.timeout_s * (part.height + 2))  # every trial is a run of its own
        identity |= {**job.identity, "timeout_s": ""}
        return replace(job, limits=limits, identity=identity, files=(*job.files, *beside))
    plan = _plan(case, part) if settings.segmented else {}
    job = case.subject.job("campaign", case, plan=plan, exact=_is_integer(case), **params)
    identity |= {**job.identity, "plan": "segmented" if plan else ""}
    return replace(job, identity=identity, files=(*job.files, *beside, *segment_files(plan)))


def alone_job(case: Case, settings: FaultsSettings, part: pl.DataFrame, inputs: Array | None = None) -> Job:
    """The job of a shard whose worker died: its trials one by one."""
    job = shard_job(case, settings.model_copy(update={"segmented": False}), part, inputs)
    return replace(job, variants=(LOST, *(str(at) for at in range(part.height))), control=True)


def counted_alone(result: JobResult, n: int) -> tuple[np.ndarray[Any, Any], ...]:
    """Counts, errors and changes of loss of trials run one by one; one that killed its worker is DUE on every input."""
    done = result.data["variants"]
    records = [done.get(str(trial), done[LOST]["trials"][trial]) for trial in range(n)]
    errors = [np.inf if record["max_abs_error"] is None else record["max_abs_error"] for record in records]
    losses = [np.inf if record["loss_change"] is None else record["loss_change"] for record in records]
    return np.array([record["counts"] for record in records]), np.array(errors), np.array(losses)


def in_artefact(part: pl.DataFrame) -> bool:
    """Whether the trials of a shard are in the bytes of the build's file."""
    return bool(part["tensor"][0] == names.ARTEFACT)


def _engine(name: str) -> int:
    """What runs faults in a tensor: 0 by layer, 1 at a cut, 2 in a process of its own."""
    return 2 if name == names.ARTEFACT else int(names.activation_of(name) is not None)


def _plan(case: Case, part: pl.DataFrame) -> dict[str, Any]:
    """The segments that a shard needs; empty where it needs none."""
    cutter, touched = deployed(case.subject.build.model).cutter, set(part["tensor"])
    folder = case.work / "segments" / case.subject.build.key
    between = {tensor for name in touched if (tensor := names.activation_of(name)) is not None}
    if between:
        return write_tensor_segments(cutter, between, folder, case.output)
    outs = {cutter.homes[name].out for name in touched & cutter.homes.keys()}
    layers = [layer for layer in cutter.layers if layer.out in outs]
    return write_segments(cutter, layers, folder, case.output) if layers else {}


def _is_integer(case: Case) -> bool:
    """Whether the build's segments must reproduce it bit for bit: all it multiplies is quantized."""
    compute = case.subject.build.manifest["contents"]["compute"]
    return set(compute) == {"int8"} and not case.subject.build.manifest["asked"].get("dynamic")
