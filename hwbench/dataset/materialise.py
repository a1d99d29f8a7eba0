"""From a source to a `Dataset`: one pass over the data that checks, casts, hashes and writes them."""

from __future__ import annotations

import math
import shutil
from collections.abc import Collection, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.dataset.dataset import Dataset, is_one_hot
from hwbench.dataset.source import Source, require_samples, row
from hwbench.errors import DataError, UnknownNameError
from hwbench.npy import Array, NpyFile, NpyWriter, TensorLike

BATCH_ROWS = 128
GIB = 1 << 30
STORABLE = frozenset(
    {"bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64", "float16", "float32", "float64"}
)


def materialise(
    source: Source,
    inputs: Sequence[TensorLike],
    folder: Path,
    *,
    task: str | None,
    constant: Collection[str] = (),
) -> Dataset:
    """Read a source once, check every value, and write it as content-addressed ``.npy`` files.

    Args:
        source: Where the data come from.
        inputs: The model's inputs, with the batch as their first dimension, which is not compared with the data.
        folder: Where to write; made if it is missing.
        task: The task, which says what labels may be; None to take integers and floats as they are.
        constant: Inputs that are the same for all samples.

    Returns:
        The data set.

    Raises:
        DataError: The data are empty, damaged, or do not fit the model; the message names file, array and row.
    """
    values = {spec.name: _constant(spec, source, constant) for spec in inputs if spec.name in source.spec.constants}
    _check_known(source, inputs)
    columns = source.resolve([spec.name for spec in inputs if spec.name not in values])
    folder.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        sinks = [
            _InputSink(spec, source, columns.get(spec.name), folder, stack, constant=spec.name in constant)
            for spec in inputs
        ]
        _require_room(folder, sum(sink.stated_bytes for sink in sinks), source.origin)
        labels = _LabelSink(source, task, folder, stack)
        n = 0
        for arrays, given in source.batches(BATCH_ROWS, list(dict.fromkeys(columns.values()))):
            count = len(next(iter(arrays.values())))
            for sink in sinks:
                if sink.column is None:
                    value = values[sink.spec.name]
                    sink.add(np.broadcast_to(value, (count, *value.shape)), n)
                else:
                    sink.add(arrays[sink.column], n)
            labels.add(given, n)
            n += count
        if not n:
            raise DataError(f"{source.origin}: empty; there is not one sample to evaluate")
        made = {sink.spec.name: sink.close() for sink in sinks}
        return Dataset(n, made, labels.close(), source.origin, counted=source.counted)


def _require_room(folder: Path, needed: int, origin: str) -> None:
    """Refuse data that the disk cannot hold: an archive of 1 MB may hold a thousand times as much."""
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise DataError(
            f"{origin}: takes {needed / GIB:,.1f} GiB as inputs of the model, and {folder} has {free / GIB:,.1f} GiB left; "
            "give fewer samples, or set HWBENCH_CACHE to a folder with more space"
        )


class _InputSink:
    """Checks and writes what one model input is fed from."""

    def __init__(
        self, spec: TensorLike, source: Source, column: str | None, folder: Path, stack: ExitStack, *, constant: bool
    ) -> None:
        self.spec = spec
        self.column = column
        what = "data.constants" if column is None else source.describe(column)
        self._where = f"{source.origin}: {what} for input {spec.name!r}"
        self._constant = constant
        self._first: Array | None = None
        self._source = source
        self._folder = folder
        self._stack = stack
        self._writer: NpyWriter | None = None
        if spec.dtype not in STORABLE:
            raise DataError(
                f"{self._where}: the model takes {spec.dtype}, which data files cannot hold; give it a float32 input"
            )
        if not spec.shape:
            raise DataError(
                f"{self._where}: the model gives no shape for it; export the model with the shapes of its inputs"
            )
        self._cast = _Cast(np.dtype(spec.dtype), source.loose, source.scaled)
        stated = source.sample(column) if column is not None else None
        self.stated_bytes = 0
        if stated is not None:
            self._check_shape(stated.shape, 0)
            self.stated_bytes = (stated.count or 0) * math.prod(stated.shape) * np.dtype(spec.dtype).itemsize

    def add(self, values: Array, start: int) -> None:
        if not len(values):
            return
        self._check_shape(values.shape[1:], start)
        if self._as_column(values.shape[1:]):
            values = values[:, None]
        _check_finite(values, self._where, start)
        cast = self._cast(values, self._where, start)
        if self._constant:
            self._check_constant(cast, start)
        if self._writer is None:
            self._writer = self._stack.enter_context(NpyWriter(self._folder, cast.dtype, cast.shape[1:]))
        self._writer.append(cast)

    def _check_constant(self, values: Array, start: int) -> None:
        self._first = values[:1] if self._first is None else self._first
        different = np.flatnonzero((values != self._first).reshape(len(values), -1).any(axis=1))
        if len(different):
            raise DataError(
                f"{self._where}: {row(start + int(different[0]))}: differs from {row(0)}, but an input without a batch "
                "axis is the same for all samples; evaluate each value in a run of its own, or set batch_axis"
            )

    def close(self) -> NpyFile:
        if self._writer is None:
            raise DataError(f"{self._where}: empty")
        return self._writer.close()

    def _as_column(self, got: tuple[int, ...]) -> bool:
        """Samples that are single numbers feed an input of one number a row."""
        return self._source.loose and got == () and len(self.spec.shape) == 2

    def _check_shape(self, got: tuple[int, ...], start: int) -> None:
        want = self.spec.shape[1:]
        got = (1,) if self._as_column(got) else got
        fits = len(want) == len(got) and all(a in (None, b) for a, b in zip(want, got, strict=True))
        if not fits:
            free = ["?" if size is None else size for size in want]
            hint = _other_axis(self.spec.shape, got)
            if len(want) > 1 and None not in want and sorted(got) == sorted(filter(None, want)):
                hint = "; the same sizes in another order: transpose the data, or correct preprocess.layout"
            shape = f"[{', '.join(map(str, free))}]"
            raise DataError(
                f"{self._where}: {row(start)}: a sample has shape {list(got)}, the model takes {shape}{hint}"
            )
        require_samples(math.prod(got) * np.dtype(self.spec.dtype).itemsize, f"{self._where}: {row(start)}")
        if self._writer is not None and self._writer.row_shape != got:
            raise DataError(
                f"{self._where}: {row(start)}: shape {list(got)} after {list(self._writer.row_shape)}; "
                "all samples must have one shape: pad or resize them"
            )


def _other_axis(shape: Sequence[int | None], got: tuple[int, ...]) -> str:
    """Advice where a sample fits an input whose batch is on another axis than the first."""
    for axis in range(1, len(shape)):
        rest = (*shape[:axis], *shape[axis + 1 :])
        if len(rest) == len(got) and all(a in (None, b) for a, b in zip(rest, got, strict=True)):
            return f"; if the batch is on axis {axis} of the model's input, set batch_axis"
    return ""


def _check_known(source: Source, inputs: Sequence[TensorLike]) -> None:
    names = [spec.name for spec in inputs]
    for name in source.spec.constants:
        if name not in names:
            raise UnknownNameError("input in data.constants", name, names)
    if source.spec.constants.keys() >= set(names):
        raise DataError(f"{source.origin}: data.constants holds every input of the model; one must come from the data")


def _constant(spec: TensorLike, source: Source, constant: Collection[str]) -> Array:
    """The value of an input that the specification gives, in the input's own type and shape."""
    where = f"{source.origin}: data.constants.{spec.name}"
    if spec.name not in constant:
        raise DataError(
            f'{where}: the model\'s input has a batch axis; if it is none, set batch_axis = {{ {spec.name!r} = "none" }}'
        )
    try:
        value = np.array(source.spec.constants[spec.name])
    except ValueError as error:
        raise DataError(f"{where}: not an array ({error})") from None
    if value.dtype.kind not in "iufb":
        raise DataError(f"{where}: {source.spec.constants[spec.name]!r} is not a number or a list of numbers")
    want = spec.shape[1:]
    if len(want) != value.ndim or any(a not in (None, b) for a, b in zip(want, value.shape, strict=True)):
        raise DataError(f"{where}: shape {list(value.shape)}, the model takes {list(want)}")
    cast: Array = _Cast(np.dtype(spec.dtype), loose=True, scaled=False)(value[np.newaxis], where, 0)[0]
    return np.asarray(cast)


@dataclass(frozen=True)
class _Cast:
    """Turns data into the element type a model takes, where that is safe."""

    want: np.dtype[Any]
    loose: bool
    scaled: bool

    def __call__(self, values: Array, where: str, start: int) -> Array:
        have, want = values.dtype, self.want
        if have.newbyteorder("=") == want:
            return values.astype(want, copy=False)
        if have.kind == "f" and want.kind == "f":
            return self._narrowed(values, where, start)
        if have.kind in "iu" and want.kind in "iu":
            return self._within(values, where, start)
        if have.kind in "iub" and want.kind == "f" and (self.loose or (have == np.uint8 and self.scaled)):
            return values.astype(want)
        if have.kind == "f" and want.kind in "iu" and self.loose:
            fraction = values != np.floor(values)
            if fraction.any():
                at, value = _first(fraction, values)
                raise DataError(f"{where}: {row(start + at)}: {value} is not an integer, and the model takes {want}")
            return self._within(values, where, start)
        if have == np.uint8 and want.kind == "f":
            advice = "say what a step is worth: preprocess = { scale = 0.00392157 } for 0…1, scale = 1 for 0…255"
        elif have.kind == "f" and want == np.uint8:
            advice = "give the stored bytes (for images: preprocess = { scale = 1 }, no mean, no std)"
        else:
            advice = f"save them as {want}"
        raise DataError(f"{where}: the data are {have}, the model takes {want}; {advice}")

    def _narrowed(self, values: Array, where: str, start: int) -> Array:
        with np.errstate(over="ignore"):
            cast = values.astype(self.want)
        if not np.isfinite(cast).all():
            at, value = _first(~np.isfinite(cast), values)
            raise DataError(f"{where}: {row(start + at)}: {value} is too large for {self.want}")
        return cast

    def _within(self, values: Array, where: str, start: int) -> Array:
        limits = np.iinfo(self.want)
        # Python's integers compare exactly where a mixture of signed and unsigned would not.
        if int(values.min(initial=0)) < limits.min or int(values.max(initial=0)) > limits.max:
            outside = np.array([not limits.min <= int(value) <= limits.max for value in values.ravel()])
            at, value = _first(outside.reshape(values.shape), values)
            raise DataError(
                f"{where}: {row(start + at)}: {value} does not fit {self.want} ({limits.min} to {limits.max})"
            )
        return values.astype(self.want)


class _LabelSink:
    """Checks and writes the labels: int64 ``[n]`` for classes, ``[n, classes]`` for one-hot ones, floats as they are."""

    def __init__(self, source: Source, task: str | None, folder: Path, stack: ExitStack) -> None:
        self._where = f"{source.origin}: labels"
        self._task = task
        self._folder = folder
        self._stack = stack
        self._writer: NpyWriter | None = None

    def add(self, values: Array | None, start: int) -> None:
        if (values is None) != (self._writer is None) and start:
            raise DataError(f"{self._where}: {row(start)}: some batches have labels and some do not")
        if values is None or not len(values):
            return
        _check_finite(values, self._where, start)
        if values.shape[1:] == (1,) and values.dtype.kind in "iub":
            values = values[:, 0]
        labels = self._classes(values, start) if self._task == "classification" else self._numbers(values)
        if self._writer is None:
            self._writer = self._stack.enter_context(NpyWriter(self._folder, labels.dtype, labels.shape[1:]))
        if (labels.dtype, labels.shape[1:]) != (self._writer.dtype, self._writer.row_shape):
            raise DataError(
                f"{self._where}: {row(start)}: {labels.dtype} {list(labels.shape[1:])} after {self._writer.dtype} "
                f"{list(self._writer.row_shape)}; all labels must be of one type and shape"
            )
        self._writer.append(labels)

    def close(self) -> NpyFile | None:
        return None if self._writer is None else self._writer.close()

    def _classes(self, values: Array, start: int) -> Array:
        if values.ndim == 2 and values.shape[1] == 1:
            values = values[:, 0]
        if values.ndim == 2 and is_one_hot(values):
            return values.astype(np.int64)
        if values.ndim != 1:
            raise DataError(
                f"{self._where}: shape {list(values.shape[1:])} a row, but classification takes one class number, or one "
                "1 among zeros; turn other rows of scores into numbers with argmax"
            )
        wrong = (values != np.floor(values)) | (values < 0) if values.dtype.kind == "f" else values < 0
        if wrong.any():
            at, value = _first(wrong, values)
            raise DataError(f"{self._where}: {row(start + at)}: {value} is not a class number (0, 1, 2, …)")
        return values.astype(np.int64)

    def _numbers(self, values: Array) -> Array:
        if self._task == "regression":
            return values.astype(np.float64)
        return values.astype(np.int64 if values.dtype.kind in "iub" else values.dtype.newbyteorder("="), copy=False)


def _check_finite(values: Array, where: str, start: int) -> None:
    if values.dtype.kind == "f" and not np.isfinite(values).all():
        at, value = _first(~np.isfinite(values), values)
        raise DataError(f"{where}: {row(start + at)}: holds {value}; remove the sample or fill the gap")


def _first(wrong: Array, values: Array) -> tuple[int, Any]:
    """The first row that holds something wrong, and the value."""
    at = tuple(int(part[0]) for part in np.nonzero(wrong))
    return at[0], values[at]
