"""A data set that has been read and checked: ``.npy`` files named by their content."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np

from hwbench.dataset.source import row, rows_within
from hwbench.errors import DataError
from hwbench.npy import Array, NpyFile, NpyWriter, chosen_rows


@dataclass(frozen=True)
class Dataset:
    """Inputs, and labels where there are any, of n samples.

    Attributes:
        n: How many samples.
        inputs: Model input to its file, ``[n, ...]``.
        labels: The labels' file; None where there are none.
        source: Where they came from, for people.
        label_note: What was made of the labels; empty where they are as given.
        counted: How many classes there are, where labels are the places of the classes in a list of all; else None.
    """

    n: int
    inputs: Mapping[str, NpyFile]
    labels: NpyFile | None
    source: str
    label_note: str = ""
    counted: int | None = None

    @cached_property
    def inputs_key(self) -> str:
        """A hash of the inputs alone: what a model does on them does not depend on labels."""
        content = sorted((name, file.sha256) for name, file in self.inputs.items())
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    @cached_property
    def key(self) -> str:
        """A hash of the whole content: equal data have equal keys wherever they came from."""
        content = [
            sorted((name, file.sha256) for name, file in self.inputs.items()),
            self.labels.sha256 if self.labels else None,
        ]
        return hashlib.sha256(json.dumps(content).encode()).hexdigest()

    def rows(self, name: str, start: int, stop: int) -> Array:
        """Rows ``start:stop`` of one input, copied."""
        return self.inputs[name].rows(start, stop)

    def labels_array(self) -> Array:
        """All labels.

        Raises:
            DataError: There are none.
        """
        if self.labels is None:
            raise DataError(f"{self.source}: there are no labels")
        return self.labels.rows(0, self.n)

    def with_class_numbers(self, n_classes: int | None) -> Dataset:
        """The data with class numbers in place of one-hot labels; the data themselves where labels are anything else.

        Args:
            n_classes: How many classes the model's output has; None where it does not say.

        Raises:
            DataError: The labels are one-hot, of another width than the output.
        """
        if self.labels is None or len(self.labels.shape) != 2 or self.labels.shape[1] < 2 or not self._is_one_hot():
            return self
        width = self.labels.shape[1]
        if n_classes not in (None, width):
            raise DataError(
                f"{self.source}: labels are one-hot rows of {width} and the model's output has {n_classes} classes; give "
                'class numbers, or state the task "regression" if the rows are values to be met'
            )
        with NpyWriter(self.labels.path.parent, np.dtype(np.int64), ()) as writer:
            for _, block in self._label_blocks():
                writer.append(block.argmax(axis=1).astype(np.int64))
            return replace(self, labels=writer.close(), label_note="one-hot rows, read as class numbers")

    def _is_one_hot(self) -> bool:
        return self.labels is not None and all(is_one_hot(block) for _, block in self._label_blocks())

    def _label_blocks(self) -> Iterator[tuple[int, Array]]:
        """The labels in blocks of bounded size, each with the number of its first row."""
        if self.labels is not None:
            step = rows_within(_row_bytes(self.labels), self.n)
            for start in range(0, self.n, step):
                yield start, self.labels.rows(start, start + step)

    def check_labels(self, n_classes: int) -> None:
        """Make sure that every label is a class of the model; without labels there is nothing to check.

        Args:
            n_classes: How many classes the model's output has.

        Raises:
            DataError: A label is not an integer from 0 to ``n_classes - 1``, or is a place in a list of another length.
        """
        if self.labels is None:
            return
        if self.counted not in (None, n_classes):
            raise DataError(
                f"{self.source}: {self.counted} class folders, but the model's output has {n_classes} classes; map "
                "folders to classes: data.classes = { FOLDER = NUMBER }, or a labels file (--classes FILE)"
            )
        if np.dtype(self.labels.dtype).kind not in "iu" or len(self.labels.shape) != 1:
            raise DataError(
                f"{self.source}: labels are {self.labels.dtype} {list(self.labels.shape)}, not one class number per row"
            )
        first, count = "", 0
        for start, labels in self._label_blocks():
            wrong = np.flatnonzero((labels < 0) | (labels >= n_classes))
            if len(wrong) and not count:
                first = f"{row(start + int(wrong[0]))}: label {labels[wrong[0]]}"
            count += len(wrong)
        if count:
            raise DataError(
                f"{self.source}: {first} is not one of the model's classes 0 to {n_classes - 1} ({count} such rows)"
            )

    def subset(self, indices: Array) -> Dataset:
        """The samples at ``indices``, in that order, as files beside these.

        Args:
            indices: Integers ``[k]`` from 0 to n - 1, k ≥ 1.

        Raises:
            DataError: There are none, or one is out of range.
        """
        chosen = np.asarray(indices)
        if (
            chosen.ndim != 1
            or not len(chosen)
            or chosen.dtype.kind not in "iu"
            or chosen.min() < 0
            or chosen.max() >= self.n
        ):
            raise DataError(f"{self.source}: a subset takes 1 or more row numbers from 0 to {self.n - 1}")
        inputs = {name: _gather(file, chosen) for name, file in self.inputs.items()}
        return replace(self, n=len(chosen), inputs=inputs, labels=self.labels and _gather(self.labels, chosen))

    def split(self, size: int | float, seed: int) -> tuple[Dataset, Dataset]:
        """Draw samples at random and hold them out; both parts keep the order of the data.

        Args:
            size: How many samples, or (a float below 1) which fraction.
            seed: Seed of the draw.

        Returns:
            The samples drawn, and the rest.

        Raises:
            DataError: Nothing would be drawn, or nothing left.
        """
        count = round(size * self.n) if isinstance(size, float) else size
        if not 0 < count < self.n:
            raise DataError(
                f"{self.source}: cannot hold {count} of {self.n} samples out; at least one must go and one stay"
            )
        drawn = np.zeros(self.n, bool)
        drawn[np.random.default_rng(seed).choice(self.n, count, replace=False)] = True
        return self.subset(np.flatnonzero(drawn)), self.subset(np.flatnonzero(~drawn))


def is_one_hot(labels: Array) -> bool:
    """True if every row of ``[n, classes]`` holds exactly one 1, and zeros."""
    return bool(((labels == 0) | (labels == 1)).all() and (np.count_nonzero(labels, axis=1) == 1).all())


def _row_bytes(file: NpyFile) -> int:
    return math.prod(file.shape[1:]) * np.dtype(file.dtype).itemsize


def _gather(file: NpyFile, indices: Array) -> NpyFile:
    with ExitStack() as stack:
        writer = stack.enter_context(NpyWriter(file.path.parent, np.dtype(file.dtype), file.shape[1:]))
        step = rows_within(_row_bytes(file), 128)  # rows far apart, each on pages of its own
        for start in range(0, len(indices), step):
            writer.append(chosen_rows(file.path, indices[start : start + step]))
        return writer.close()
