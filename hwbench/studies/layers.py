"""Jobs that look at a build's layers without changing what it computes, and what they bring back."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.graph import Layer, fixed_batch, matching_layers
from hwbench.model import read_proto
from hwbench.studies.base import Case
from hwbench.worker.protocol import STOPPED, Job, JobResult

Array = np.ndarray[Any, np.dtype[Any]]
# Bytes that the float tensors of all the reference's layers may take: fewer inputs are looked at where they would take more.
_ROOM = 1 << 28
# Bytes beyond which no further layers are kept, where already a single input takes more than `_ROOM`.
_MOST = 3 << 28


def layers_of(case: Case) -> Sequence[Layer]:
    """The layers that the case's build has in common with its reference."""
    theirs = reference_layers(case)
    return [layer for layer in _matching(case.subject.build.model, case.reference.build.model) if layer.name in theirs]


def reference_layers(case: Case) -> Mapping[str, Layer]:
    """The same layers and others as the reference has them, by name."""
    model = case.reference.build.model
    return {layer.name: layer for layer in _matching(model, model)}


def few(case: Case, most: int) -> int:
    """The number of inputs to look at layers with: at most ``most``, fewer where the layers are large."""
    row = 4 * sum(layer.elements for layer in reference_layers(case).values())
    count = min(most, case.data.n, max(1, _ROOM // max(1, row)))
    fixed = _fixed(case)
    return min(case.data.n, -(-count // fixed) * fixed) if fixed else count


def looking(case: Case, n: int, *, reference: bool = False) -> Job:
    """A job that looks at the layers of a build (`hwbench.worker.tasks.layers`).

    Args:
        case: The case.
        n: How many of the inputs to look with.
        reference: Whether at all layers of the reference, which is one job for all builds, instead of those of the build. Where
            the graph does not state how large they are, the job takes fewer inputs if they need more than `_ROOM`.
    """
    subject = case.reference if reference else case.subject
    layers = reference_layers(case).values() if reference else layers_of(case)
    sites = {layer.name: _site(layer) for layer in layers}
    measure = reference and any(not layer.elements for layer in layers)
    room: dict[str, Any] = {"room": _ROOM, "most": _MOST, "measure": measure}
    job = subject.job("layers", case, n=n, **_batch(case, n), layers=sites, **room)
    return replace(job, variants=tuple(sites))


def comparing(case: Case, reference: JobResult) -> Job | None:
    """A job that compares every layer with the reference's (`hwbench.worker.tasks.own_errors`); None without layers.

    Args:
        case: The case.
        reference: The result of `looking` at the reference.
    """
    both, theirs, n = (
        [one for one in layers_of(case) if seen(reference, one)],
        reference_layers(case),
        looked_with(reference),
    )
    if not both:
        return None
    params: dict[str, Any] = {
        "layers": {layer.name: _site(layer) for layer in both},
        "reference_layers": {layer.name: _site(theirs[layer.name]) for layer in both},
        "reference": {layer.name: _files(reference, layer) for layer in both},
    }
    job = case.subject.job("own_errors", case, n=n, **_batch(case, n), **params)
    named = [path for paths in params["reference"].values() for path in paths]
    known = {**job.identity, "reference": reference.folder.name}  # a job's key decides what its files hold
    return replace(job, variants=tuple(layer.name for layer in both), identity=known, files=(*job.files, *named))


def looked_with(result: JobResult) -> int:
    """The number of inputs that a job of `looking` took."""
    return int(result.data["n"])


def seen(result: JobResult, layer: Layer, key: str = "arrays") -> bool:
    """True if a job brought a layer's values back."""
    return bool(record(result, layer).get(key))


def reason(result: JobResult, layer: Layer, key: str = "reason") -> str:
    """The reason for which a job brought nothing of a layer back."""
    if layer.name in result.unfinished:
        return STOPPED
    status, detail = result.failed.get(layer.name, (result.status, result.detail))
    return str(record(result, layer).get(key, "")) or f"{status}: {detail}"


def pairs(first: JobResult, second: JobResult, layer: Layer) -> Iterator[tuple[Array, Array]]:
    """Two jobs' values of a layer as they are stored, batch by batch."""
    for one, other in zip(_stems(first, layer), _stems(second, layer), strict=True):
        yield np.atleast_1d(np.array(first.array(one))), np.atleast_1d(np.array(second.array(other)))


@lru_cache(maxsize=4)
def _matching(build: Path, reference: Path) -> Sequence[Layer]:
    return tuple(matching_layers(build, reference))


def _fixed(case: Case) -> int:
    """The batch size that one of both graphs is fixed to; 0 if they take any."""
    return max(fixed_batch(read_proto(subject.build.model)) for subject in (case.subject, case.reference))


def _site(layer: Layer) -> dict[str, Any]:
    """The fields of `hwbench.worker.looking.Site`, but for the name."""
    return {
        "built": layer.built,
        "scale": layer.scale,
        "zero_point": layer.zero_point,
        "dequantized": layer.dequantized,
    }


def record(result: JobResult, layer: Layer) -> Mapping[str, Any]:
    """All that a job brought back of a layer."""
    found: Mapping[str, Any] = result.data.get("variants", {}).get(layer.name, {})
    return found


def _batch(case: Case, n: int) -> dict[str, Any]:
    """Inputs per run: all at once, where the graphs take any number."""
    fixed = _fixed(case)
    return {"batch": fixed or n, "fixed": fixed}


def _stems(result: JobResult, layer: Layer) -> Sequence[str]:
    stems: Sequence[str] = record(result, layer)["arrays"]
    return stems


def _files(result: JobResult, layer: Layer) -> list[str]:
    return [str((result.folder / f"{stem}.npy").resolve()) for stem in _stems(result, layer)]
