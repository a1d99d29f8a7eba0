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
        reference: Whether at all layers of the reference, which is one job for all builds, instead of those of the build.
    """
    subject = case.reference if reference else case.subject
    sites = {layer.name: _site(layer) for layer in (reference_layers(case).values() if reference else layers_of(case))}
    job = subject.job("layers", case, n=n, batch=_fixed(case) or n, layers=sites)
    return replace(job, variants=tuple(sites))


def computing_alone(case: Case, n: int, built: JobResult, reference: JobResult) -> Job | None:
    """A job that computes every layer from the reference's tensors (`hwbench.worker.tasks.own_errors`); None without layers.

    Args:
        case: The case.
        n: How many of the inputs both looked with.
        built: The result of `looking` at the build.
        reference: The result of `looking` at the reference.
    """
    both = [layer for layer in layers_of(case) if seen(built, layer) and seen(reference, layer)]
    theirs = reference_layers(case)
    if not both:
        return None
    params: dict[str, Any] = {
        "layers": {layer.name: _site(layer) for layer in both},
        "reference_layers": {layer.name: _site(theirs[layer.name]) for layer in both},
        "built": {layer.name: _files(built, layer) for layer in both},
        "reference": {layer.name: _files(reference, layer) for layer in both},
    }
    job = case.subject.job("own_errors", case, n=n, batch=_fixed(case) or n, **params)
    named = [path for source in ("built", "reference") for paths in params[source].values() for path in paths]
    known = {
        "built": built.folder.name,
        "reference": reference.folder.name,
    }  # job keys: they decide what the files hold
    variants = tuple(layer.name for layer in both)
    return replace(job, variants=variants, identity={**job.identity, **known}, files=(*job.files, *named))


def seen(result: JobResult, layer: Layer, key: str = "arrays") -> bool:
    """True if a job brought a layer's values back."""
    return bool(_record(result, layer).get(key))


def reason(result: JobResult, layer: Layer) -> str:
    """The reason for which a job brought no values of a layer back."""
    if layer.name in result.unfinished:
        return STOPPED
    status, detail = result.failed.get(layer.name, (result.status, result.detail))
    return str(_record(result, layer).get("reason", "")) or f"{status}: {detail}"


def pairs(
    first: JobResult, second: JobResult, layer: Layer, keys: tuple[str, str] = ("arrays", "arrays")
) -> Iterator[tuple[Array, Array]]:
    """Two jobs' values of a layer as they are stored, batch by batch."""
    for one, other in zip(_stems(first, layer, keys[0]), _stems(second, layer, keys[1]), strict=True):
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


def _record(result: JobResult, layer: Layer) -> Mapping[str, Any]:
    found: Mapping[str, Any] = result.data.get("variants", {}).get(layer.name, {})
    return found


def _stems(result: JobResult, layer: Layer, key: str) -> Sequence[str]:
    stems: Sequence[str] = _record(result, layer)[key]
    return stems


def _files(result: JobResult, layer: Layer) -> list[str]:
    return [str((result.folder / f"{stem}.npy").resolve()) for stem in _stems(result, layer, "arrays")]
