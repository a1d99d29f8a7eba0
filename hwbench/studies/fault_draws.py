"""Draws the faults that a sampler asks for and, where it asks for some inputs only, each trial's block of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import numpy as np
import polars as pl

from hwbench.faults import bits
from hwbench.faults.listing import SCHEMA
from hwbench.faults.sampler import Wanted
from hwbench.faults.space import FaultSpace
from hwbench.studies.base import Case
from hwbench.studies.outputs import chunks
from hwbench.topk import topk
from hwbench.worker.protocol import JobResult

Array = np.ndarray[Any, np.dtype[Any]]

# A trial's first input and the one after its last, by their place in the random order of all; null where it runs over all.
BLOCK: Mapping[str, type[pl.DataType]] = {"first": pl.Int64, "last": pl.Int64}


def input_order(case: Case, golden: JobResult | None, *, only_correct: bool) -> Array:
    """The inputs that count, in a random order that belongs to the run's seed: int64 ``[inputs]``.

    An input counts where its golden output is finite and, if asked, right.

    Args:
        case: The build and its data.
        golden: The golden outputs; None while every input is taken to count.
        only_correct: Whether it must be right.
    """
    counted = np.full(case.data.n, golden is None)
    for start, block in chunks(golden, "golden", case.data.n) if golden is not None else ():
        stop = start + len(block)
        counted[start:stop] = np.isfinite(block.reshape(len(block), -1).astype(np.float64)).all(axis=1)
        if only_correct and case.data.labels is not None:
            counted[start:stop] &= topk(block, 1)[:, 0] == case.data.labels.rows(start, stop)
    places = np.flatnonzero(counted)
    words = bits.random_words("inputs", case.seed, 0, "order").random_raw(len(places))
    return places[np.argsort(words, kind="stable")]


def drawn(
    space: FaultSpace,
    wanted: Wanted,
    before: Mapping[Any, int],
    seed: int,
    available: int,
    like: tuple[str, int],
) -> pl.DataFrame:
    """Faults of some strata, each a line in the columns of a fault list and `BLOCK`.

    Over all inputs they are uniform and without replacement, the first so many of each stratum's own order. Over some they
    are uniform and independent, each with an independent block of the inputs: of the blocks of that many inputs which follow
    each other in the random order, the one that holds a uniformly drawn input. The last block may be shorter, and is drawn
    the more rarely for it, so that every input is equally likely and the mean over trials without bias.

    Args:
        space: The faults that may be drawn.
        wanted: How many of which strata, over how many inputs.
        before: How many of each stratum were drawn in this way before.
        seed: The run's seed.
        available: How many inputs there are.
        like: Kind of the faults and width of a burst.
    """
    tensors = {tensor.name: tensor for tensor in space.tensors}
    columns: dict[str, list[Any]] = {name: [] for name in (*SCHEMA, *BLOCK)}
    available = min(available, wanted.among or available)
    strata = cast("Mapping[tuple[str, int], int]", wanted.trials)
    for (name, bit), count in sorted(strata.items()):
        tensor, start = tensors[name], before[name, bit]
        stop = start + count
        mask = (1 << tensor.width) - 1 if like[0] == "random_value" else 0
        if wanted.inputs is None:
            elements = _order(bits.random_words("fault", seed, bit, name), tensor.elements, stop)[start:]
            blocks: list[tuple[int | None, int | None]] = [(None, None)] * count
            values = bits.random_words("fault_value", seed, bit, name).random_raw(stop)[start:]
        else:
            words = bits.random_words("fault_and_block", seed, bit, name).random_raw(3 * stop).reshape(stop, 3)[start:]
            elements = (words[:, 0] % np.uint64(tensor.elements)).tolist()
            firsts = (words[:, 1] % np.uint64(available)).astype(np.int64) // wanted.inputs * wanted.inputs
            blocks = [(first, min(first + wanted.inputs, available)) for first in firsts.tolist()]
            values = words[:, 2]
        columns["tensor"] += [name] * count
        columns["element"] += elements
        columns["bit"] += [bit] * count
        columns["kind"] += [like[0]] * count
        columns["width"] += [like[1]] * count
        columns["value"] += [int(value) & mask for value in values]
        columns["first"] += [first for first, _ in blocks]
        columns["last"] += [last for _, last in blocks]
    return pl.DataFrame(columns, schema={**SCHEMA, **BLOCK})


def block_params(trials: pl.DataFrame, order: Array | None, chunk: int) -> dict[str, Any]:
    """Parameters of `hwbench.worker.tasks.campaign` that say which inputs each trial runs over.

    Args:
        trials: The trials of one job, in the columns of `BLOCK`.
        order: From `input_order`; None where trials run over all inputs.
        chunk: How many inputs are to be held at a time; less here, so that no block lies in two chunks without need.
    """
    if order is None or trials["first"].null_count() == trials.height:
        return {"order": None, "ranges": None, "chunk": chunk}
    bounds = trials.select(pl.col("first").fill_null(0), pl.col("last").fill_null(len(order))).to_numpy()
    blocks, which = np.unique(bounds, axis=0, return_inverse=True)
    length = blocks[:, 1] - blocks[:, 0]
    ends = np.cumsum(length)
    ranges = np.stack([ends - length, ends], axis=1)[which.reshape(-1)]
    places = np.concatenate([order[first:last] for first, last in blocks])
    most = int(length.max())
    return {
        "order": places.tolist(),
        "ranges": ranges.tolist(),
        "n": len(places),
        "chunk": chunk // most * most if most < chunk else chunk,
    }


def _order(words: np.random.Philox, elements: int, count: int) -> list[int]:
    """The first ``count`` elements of a random order of all, which does not depend on ``count``."""
    chosen: dict[int, None] = {}
    while len(chosen) < count:
        chosen.update(dict.fromkeys((words.random_raw(max(16, count)) % np.uint64(elements)).tolist()))
    return list(chosen)[:count]
