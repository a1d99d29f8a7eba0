"""The k best classes of each sample, ties decided the same way everywhere (numpy only: workers use it too)."""

from __future__ import annotations

from typing import Any

import numpy as np

from hwbench.errors import DataError

Array = np.ndarray[Any, np.dtype[Any]]
TOP = 5


def class_scores(outputs: Array) -> Array:
    """A classifier's output as ``[n, classes]``.

    Args:
        outputs: ``[n, classes]``, or with trailing dimensions of size 1.

    Raises:
        DataError: It holds no scores for two or more classes.
    """
    scores = outputs.reshape(outputs.shape[:2]) if all(size == 1 for size in outputs.shape[2:]) else outputs
    if scores.ndim != 2 or scores.shape[1] < 2:
        raise DataError(
            f"a classifier's output has shape [n, classes] with 2 or more classes, not {list(outputs.shape)}; "
            "give one column per class, or name your own metric as module:callable"
        )
    return scores


def topk(outputs: Array, k: int) -> Array:
    """The classes with the highest scores, best first; equal scores in order of the class number.

    Args:
        outputs: ``[n, classes]`` scores, or with trailing dimensions of size 1.
        k: How many; at most as many as there are classes come back.

    Returns:
        int32 ``[n, min(k, classes)]``. A sample with a NaN among its scores has no ranking: its row is -1, no class.

    Raises:
        DataError: ``outputs`` is not a classifier's.
    """
    scores = class_scores(outputs)
    if scores.dtype.kind not in "iuf":  # bfloat16 and its kin, which numpy cannot sort
        scores = scores.astype(np.float32)
    whole = scores.dtype.kind in "iu"
    if k == 1:
        best = np.argmax(scores, axis=1)[:, None]
    else:
        # ~ reverses the order of integers without overflow, which - does not.
        falling = ~scores if whole else -scores
        best = np.argsort(falling, axis=1, kind="stable")[:, :k]
    best = np.asarray(best, np.int32)
    if not whole:
        best[np.isnan(scores).any(axis=1)] = -1
    return best


def best_classes(outputs: Array) -> Array:
    """The `TOP` best classes of each sample, as `topk` gives them; all -1 where an output is not finite."""
    best = topk(outputs, TOP)
    best[~np.isfinite(outputs.reshape(len(outputs), -1)).all(axis=1)] = -1
    return best


def hits(indices: Array, labels: Array, k: int) -> Array:
    """Whether the label is among the first k classes.

    Args:
        indices: ``[n, m]`` as `topk` gives, m ≥ min(k, classes).
        labels: ``[n]`` class numbers, 0 or more.
        k: How many classes count.

    Returns:
        bool ``[n]``.
    """
    found: Array = (indices[:, :k] == labels[:, None]).any(axis=1)
    return found
