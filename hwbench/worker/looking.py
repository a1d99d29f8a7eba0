"""Parts of a graph run over a few inputs, whole batches at a time, for the tasks that look inside a build."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hwbench.backend import Array, Backend, ModelSource
from hwbench.npy import rows
from hwbench.worker.protocol import JobContext

# The tensors of every batch.
State = list[dict[str, Array]]
# A quantized value that was read back as a float may be this far from a whole step.
_OFF_GRID = 1e-2


@dataclass(frozen=True)
class Site:
    """One layer's tensor in the build: the fields of `hwbench.graph.Layer` that a task needs."""

    name: str
    built: str
    scale: float | None
    zero_point: int
    dequantized: str

    @property
    def ends(self) -> tuple[str, ...]:
        """The tensors that can be returned in its place, in order of preference."""
        return (self.built, self.dequantized) if self.dequantized else (self.built,)

    def real(self, value: Array) -> Array:
        """A value of ``built`` as the floats that the build computes with."""
        if self.scale is None:
            return value
        return self.number(value)

    def number(self, value: Array) -> Array:
        """A value of ``built`` as float32."""
        if self.scale is None:
            return value.astype(np.float32)
        return np.asarray((value.astype(np.float32) - np.float32(self.zero_point)) * np.float32(self.scale))

    def stored(self, end: str, value: Array, kind: np.dtype[Any]) -> Array | None:
        """A value of one of its ends as one of ``built``; None where that is not on the grid of the quantization."""
        if end == self.built or self.scale is None:
            return value
        steps = value.astype(np.float64) / self.scale + self.zero_point
        whole = np.rint(steps)
        limits = np.iinfo(kind)
        fits = np.isfinite(steps).all() and limits.min <= whole.min(initial=0) and whole.max(initial=0) <= limits.max
        return whole.astype(kind) if fits and np.max(np.abs(steps - whole), initial=0.0) < _OFF_GRID else None


@dataclass(frozen=True)
class Runner:
    """A backend with its options."""

    backend: Backend
    options: Mapping[str, Any]

    def __call__(self, model: ModelSource | onnx.ModelProto, state: State, outputs: Iterable[str]) -> State:
        """Compile a model, run it over every batch, and keep some of its outputs."""
        source = model.SerializeToString() if isinstance(model, onnx.ModelProto) else model
        with self.backend.compile(source, self.options) as session:
            types = {spec.name: spec.dtype for spec in session.inputs}
            made = [session.run({name: _as(tensors[name], kind) for name, kind in types.items()}) for tensors in state]
        return [{name: tensors[name] for name in outputs} for tensors in made]


def batches(files: Mapping[str, str], n: int, size: int) -> State:
    """The inputs in batches of one size, the last filled up by repeating the last input."""
    found = []
    for start in range(0, n, size):
        stop = min(start + size, n)
        parts = {name: rows(Path(path), start, stop) for name, path in files.items()}
        found.append(
            {name: np.concatenate([part, np.repeat(part[-1:], start + size - stop, 0)]) for name, part in parts.items()}
        )
    return found


def joined(state: State, more: State) -> State:
    """The tensors of both, batch by batch."""
    return [{**one, **other} for one, other in zip(state, more, strict=True)]


def same(state: State, other: State, names: Collection[str]) -> bool:
    """True if tensors are equal in every batch, bit for bit."""
    pairs = [(a[name], b[name]) for a, b in zip(state, other, strict=True) for name in names]
    return all(a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes() for a, b in pairs)


def save(job: JobContext, stem: str, values: Sequence[Array]) -> list[str]:
    """Write a tensor, a file a batch, in a type that ``.npy`` files have; the files' names."""
    names = [f"{stem}-{batch}" for batch in range(len(values))]
    for name, value in zip(names, values, strict=True):
        job.save(name, storable(value))
    return names


def storable(value: Array) -> Array:
    """A value in a type that ``.npy`` files have."""
    return value if value.dtype.kind in "biuf" else value.astype(np.float32)


def _as(value: Array, kind: str) -> Array:
    if value.dtype.name == kind:
        return value
    return value.astype(onnx.helper.tensor_dtype_to_np_dtype(onnx.TensorProto.BFLOAT16) if kind == "bfloat16" else kind)
