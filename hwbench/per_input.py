"""Per-input results of one build, kept so that runs on the same inputs can be paired.

A table per profile in ``inputs/<profile>/``, one row an input in the order of the data:

    input         its index
    output        64-bit digest of the output's bits; null where equal bits would not show equal computations
    predicted     best class, -1 where the output is NaN; classification only
    value_METRIC  the metric's value: a bool for proportions, else float64 (the squared error for rmse and r2)
    label_spread  squared distance of the label from the labels' mean; where a metric depends on it
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import polars as pl

from hwbench.npy import Array

FOLDER = "inputs"
_VALUE = "value_"


@dataclass(frozen=True)
class PerInput:
    """The results of one build for every input.

    Attributes:
        n: How many inputs.
        values: Metric to its values, float64 ``[n]``; empty without labels.
        outputs: Digests of the outputs, uint64 ``[n]``; None where equal ones would not show equal computations.
        predicted: Best classes, int32 ``[n]``; None where the task is not classification.
        spread: The labels' spread, float64 ``[n]``; None where no metric needs it.
    """

    n: int
    values: Mapping[str, Array]
    outputs: Array | None = None
    predicted: Array | None = None
    spread: Array | None = None

    def computes_as(self, other: PerInput) -> bool:
        """True if every output is bit for bit the other's, and that shows that both come from the same computation.

        Another order of additions, another kernel or another precision changes low bits of a floating-point output, and
        over n inputs some would differ. Equal answers show nothing of the kind: two builds that are right on the same
        inputs can differ on the next one.
        """
        return self.outputs is not None and other.outputs is not None and np.array_equal(self.outputs, other.outputs)

    def to_frame(self) -> pl.DataFrame:
        """The table that is stored."""
        columns: dict[str, pl.Series] = {"input": pl.Series(np.arange(self.n, dtype=np.uint32))}
        columns["output"] = pl.Series(self.outputs if self.outputs is not None else [None] * self.n, dtype=pl.UInt64)
        if self.predicted is not None:
            columns["predicted"] = pl.Series(self.predicted, dtype=pl.Int32)
        for metric, values in self.values.items():
            columns[_VALUE + metric] = pl.Series(values.astype(bool) if np.isin(values, (0, 1)).all() else values)
        if self.spread is not None:
            columns["label_spread"] = pl.Series(self.spread)
        return pl.DataFrame(columns)

    @classmethod
    def from_frame(cls, table: pl.DataFrame) -> PerInput:
        """Read a table that `to_frame` made."""

        def numbers(name: str) -> Array | None:
            return table[name].to_numpy() if name in table.columns and not table[name].null_count() else None

        values = {
            name.removeprefix(_VALUE): table[name].cast(pl.Float64).to_numpy()
            for name in table.columns
            if name.startswith(_VALUE)
        }
        return cls(table.height, values, numbers("output"), numbers("predicted"), numbers("label_spread"))


def digests(rows: Array) -> Array:
    """A 64-bit digest of each sample's bits, uint64 ``[n]``."""
    return np.array(
        [int.from_bytes(hashlib.blake2b(sample.tobytes(), digest_size=8).digest(), "little") for sample in rows],
        np.uint64,
    )


def telling(outputs: Array, dtype: np.dtype[np.generic]) -> Array | None:
    """Digests where equal ones show equal computations: floating-point outputs that differ between inputs; else None.

    Class numbers, or the few values of a small tree, are equal under builds that compute otherwise.
    """
    floating = dtype.kind in "fV"  # V: bfloat16
    return outputs if floating and 2 * len(np.unique(outputs)) > len(outputs) else None
