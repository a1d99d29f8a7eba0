"""The inputs that a variant of an evaluation runs on: which of them, and with which noise."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from hwbench.faults import bits
from hwbench.worker.perturb import INPUT_KINDS, checked_draw, checked_kind, checked_number, standard_normal

Array = np.ndarray[Any, np.dtype[Any]]
Variant = Mapping[str, Any]

# Words per block of the Philox generator: the granularity at which a stream can be entered.
BLOCK = 4


def chosen_inputs(seed: int, draw: int, available: int, count: int | None) -> NDArray[np.int64]:
    """The inputs that a draw runs on, ascending: ``count`` of those available, every such set as likely as another.

    Args:
        seed: The run's seed.
        draw: Number of the draw.
        available: How many inputs there are.
        count: How many to choose; None for all.
    """
    if count is None or count >= available:
        return np.arange(available)
    words = bits.random_words("draw_inputs", seed, draw, "").random_raw(available)
    return np.sort(np.argsort(words, kind="stable")[:count])


class InputPerturber:
    """Applies variants to batches of inputs.

    The random field of the last draw is kept as far as it fits, so that going through a draw's settings costs one pass over
    the random numbers.

    Args:
        budget: Bytes of random numbers to keep.
    """

    def __init__(self, budget: int = 32 << 20) -> None:
        self._budget = budget
        self._draw: tuple[Any, ...] = ()
        self._fields: dict[tuple[Any, ...], Array] = {}
        self._kept = 0

    def perturbed(self, variant: Variant, name: str, batch: Array, indices: NDArray[np.int64]) -> Array:
        """One input's batch as ``variant`` leaves it; integer inputs (ids, masks) stay as they are.

        Gaussian noise has σ² = var(sample) / 10^(snr_db / 10), per sample and in the model's input domain, not clipped.
        Impulse noise gives each element the sample's minimum or maximum, half each, with probability ``rate``.

        Args:
            variant: The JSON object described above.
            name: The input's name.
            batch: Samples, the first axis counting them.
            indices: Each sample's index in the whole data, so that noise depends on neither the batch nor the choice of inputs.

        Returns:
            An array of the same type and shape; ``batch`` itself where nothing changes.

        Raises:
            InputError: The variant is malformed.
        """
        kind = checked_kind(variant)
        if kind not in INPUT_KINDS or not bits.is_floating(batch.dtype) or not batch.size:
            return batch
        samples = batch.reshape(len(batch), -1)
        field = self._field(kind, *checked_draw(variant), name, samples.shape, indices)
        noisy = _gaussian(samples, field, variant) if kind == "gaussian_input" else _impulses(samples, field, variant)
        with np.errstate(over="ignore"):  # noise is not clipped, so it may leave a narrow format's range
            return noisy.astype(batch.dtype).reshape(batch.shape)

    def _field(
        self, kind: str, seed: int, draw: int, name: str, shape: tuple[int, ...], indices: NDArray[np.int64]
    ) -> Array:
        if self._draw != (kind, seed, draw):
            self._draw, self._fields, self._kept = (kind, seed, draw), {}, 0
        place = (name, shape, indices.tobytes())
        if place in self._fields:
            return self._fields[place]
        words = _sample_words(kind, seed, draw, name, shape, indices)
        field = standard_normal(words) if kind == "gaussian_input" else words
        if self._kept + field.nbytes <= self._budget:
            self._fields[place] = field
            self._kept += field.nbytes
        return field


def perturb_inputs(variant: Variant, name: str, batch: Array, first_index: int) -> Array:
    """One variant applied to one batch of consecutive samples; `InputPerturber` is for many."""
    return InputPerturber().perturbed(variant, name, batch, first_index + np.arange(len(batch)))


def _gaussian(samples: Array, normals: NDArray[np.float64], variant: Variant) -> Array:
    snr_db = checked_number(variant, "snr_db", -300.0, math.inf)
    signal = samples.astype(np.float64)
    sigma = signal.std(axis=1, keepdims=True) * 10 ** (-snr_db / 20)
    noisy: Array = signal + sigma * normals[:, : samples.shape[1]]
    return noisy


def _impulses(samples: Array, words: NDArray[np.uint64], variant: Variant) -> Array:
    rate = checked_number(variant, "rate", 0.0, 1.0)
    words = words[:, : samples.shape[1]]
    # The lowest bit takes no part in the uniform number, so it can choose between salt and pepper.
    impulse = np.where(words & np.uint64(1), samples.max(axis=1, keepdims=True), samples.min(axis=1, keepdims=True))
    noisy: Array = np.where(bits.uniforms(words) < rate, impulse, samples)
    return noisy


def _sample_words(
    kind: str, seed: int, draw: int, name: str, shape: tuple[int, ...], indices: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Each sample's own words, shape [samples, features rounded up to whole blocks]."""
    blocks = -(-shape[1] // BLOCK)
    breaks = np.flatnonzero(np.diff(indices) != 1) + 1
    runs = [
        bits.random_words(kind, seed, draw, name, block=int(run[0]) * blocks).random_raw(len(run) * blocks * BLOCK)
        for run in np.split(indices, breaks)
    ]
    return np.concatenate(runs).reshape(len(indices), blocks * BLOCK)
