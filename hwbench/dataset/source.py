"""The base of every data source: named arrays, read a batch at a time."""

from __future__ import annotations

import difflib
import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from hwbench.dataset.spec import LABEL_NAMES, DataSpec
from hwbench.errors import DataError
from hwbench.npy import Array

Batch = tuple[dict[str, Array], Array | None]

MIB = 1 << 20
# Batches hold fewer rows than asked for where rows are long, so that memory does not grow with them.
BATCH_BYTES = 16 * MIB
# A sample is held whole, in the data's element type and in the model's.
SAMPLE_BYTES = 128 * MIB


@dataclass(frozen=True)
class Sample:
    """One row of an array, as a header or schema states it.

    Attributes:
        dtype: Element type.
        shape: Shape.
        count: The number of such rows; None where only reading shows it.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    count: int | None = None

    @property
    def bytes(self) -> int:
        """Size in memory."""
        return math.prod(self.shape) * self.dtype.itemsize


def rows_within(row_bytes: int, most: int) -> int:
    """The number of rows that fit in a batch: at least 1, at most ``most``."""
    return max(1, min(most, BATCH_BYTES // max(row_bytes, 1)))


def require_samples(sample_bytes: int, where: str) -> None:
    """Refuse samples that are too large to be held.

    Raises:
        DataError: A sample has more bytes than `SAMPLE_BYTES`.
    """
    if sample_bytes > SAMPLE_BYTES:
        raise DataError(
            f"{where}: a sample takes {sample_bytes / MIB:,.0f} MiB, more than the {SAMPLE_BYTES // MIB} MiB that hwbench "
            "holds at a time; cut or resize the samples"
        )


def row(number: int) -> str:
    """A row as messages name it."""
    return f"row {number} (counted from 0)"


class Source(ABC):
    """Data as the user has them. A subclass sets `names` when made, and writes `_read`.

    Attributes:
        origin: What to call the data in messages.
        names: The arrays there are, labels left out.
        counted: How many classes there are, where labels are the places of the classes in a list of all; else None.
        loose: Whether the type numbers are stored in means nothing (tables), so that any number fits a float input.
    """

    loose: ClassVar[bool] = False
    counted: int | None = None
    names: tuple[str, ...]

    def __init__(self, spec: DataSpec) -> None:
        self.spec = spec
        self.origin = spec.source

    @property
    def scaled(self) -> bool:
        """Whether the user states what stored integers mean, so that they may become floats."""
        return self.spec.preprocess is not None and self.spec.preprocess.scale is not None

    def batches(self, size: int, names: Sequence[str] | None = None) -> Iterator[Batch]:
        """Read all the data once, in order.

        Args:
            size: The most rows of a batch.
            names: The arrays wanted; all of them if not given.

        Yields:
            Name to rows ``[k, ...]``, preprocessed; and the labels of the same rows, or None.

        Raises:
            DataError: The data are damaged, or a batch's arrays differ in length.
        """
        start = 0
        for arrays, labels in self._read(size, tuple(self.names if names is None else names)):
            lengths = {name: len(values) for name, values in arrays.items()}
            if labels is not None:
                lengths["labels"] = len(labels)
            if len(set(lengths.values())) > 1:
                counts = ", ".join(f"{name}: {length}" for name, length in lengths.items())
                raise DataError(f"{self.origin}: arrays differ in length from {row(start)} on ({counts})")
            start += next(iter(lengths.values()), 0)
            yield {name: self._preprocessed(values) for name, values in arrays.items()}, labels

    def resolve(self, inputs: Sequence[str]) -> dict[str, str]:
        """Which array feeds which input: as the spec says, else by name, else ``x`` or the only one for the only input.

        Args:
            inputs: The model's inputs.

        Raises:
            DataError: An input has no array, or the spec names an input or array that does not exist.
        """
        given = self.spec.inputs
        for name in given:
            if name not in inputs:
                raise DataError(
                    f"{self.origin}: the model has no input {name!r} to feed; its inputs: {', '.join(inputs)}"
                )
        if len(inputs) > 1 and self.spec.preprocess is not None:
            raise DataError(
                f"{self.origin}: preprocess works for models with one input; this one has {', '.join(inputs)}"
            )
        return {name: self._known(given[name]) if name in given else self._match(name, inputs) for name in inputs}

    def describe(self, array: str) -> str:
        """What to call an array in messages."""
        return f"array {array!r}"

    def sample(self, array: str) -> Sample | None:
        """Element type and shape of a sample as it is stored, before anything is read; None where only reading shows them."""
        return None

    def _known(self, array: str) -> str:
        if array not in self.names:
            near = difflib.get_close_matches(array, self.names, n=1)
            hint = f" Did you mean {near[0]!r}?" if near else ""
            raise DataError(f"{self.origin}: no array {array!r}.{hint} There are: {', '.join(self.names) or 'none'}")
        return array

    def _match(self, name: str, inputs: Sequence[str]) -> str:
        if name in self.names:
            return name
        if len(inputs) == 1 and ("x" in self.names or len(self.names) == 1):
            return "x" if "x" in self.names else self.names[0]
        raise DataError(
            f"{self.origin}: no array for the model's input {name!r}; there are: {', '.join(self.names) or 'none'}. "
            f"Rename one, or set data.inputs = {{ {name!r} = ARRAY }}; for an input that is the same for all samples, set "
            f"data.constants = {{ {name!r} = VALUE }}"
        )

    def _label(self, names: Sequence[str]) -> str | None:
        """Which of ``names`` holds the labels."""
        if self.spec.label is None:
            return next((name for name in LABEL_NAMES if name in names), None)
        if self.spec.label not in names:
            raise DataError(f"{self.origin}: no {self.spec.label!r} to take labels from; there are: {', '.join(names)}")
        return self.spec.label

    def _preprocessed(self, values: Array) -> Array:
        """Scale, mean and std on an array that is laid out as the model wants it."""
        preprocess = self.spec.preprocess
        if preprocess is None:
            return values
        if values.dtype.kind not in "iuf":
            raise DataError(f"{self.origin}: preprocess works on numbers, not {values.dtype}")
        return preprocess.normalise(values, preprocess.layout == "nhwc", preprocess.scale, self.origin)

    @abstractmethod
    def _read(self, size: int, names: tuple[str, ...]) -> Iterator[Batch]: ...
