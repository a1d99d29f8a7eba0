"""P-values adjusted for how many of them there are."""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwbench.stats.resampling import as_sample


def holm(pvalues: ArrayLike) -> NDArray[np.float64]:
    """Holm-Bonferroni adjusted p-values: rejecting those below α keeps the chance of any false rejection below α.

    In ascending order p_(i) becomes max over j <= i of min(1, (m-j+1) p_(j)). Holm (1979), "A simple sequentially
    rejective multiple test procedure", Scandinavian Journal of Statistics 6.

    Args:
        pvalues: Array [tests], each in [0, 1].

    Returns:
        Array [tests], in the order given.

    Raises:
        ValueError: The array is empty, not one-dimensional, or a value is outside [0, 1].
    """
    raw = as_sample(pvalues, "pvalues")
    if not ((raw >= 0) & (raw <= 1)).all():
        raise ValueError(f"p-values lie in [0, 1]; got {raw.min()} to {raw.max()}")
    order = np.argsort(raw)
    stepped = np.maximum.accumulate(raw[order] * np.arange(raw.size, 0, -1))
    adjusted = np.empty_like(raw)
    adjusted[order] = np.minimum(stepped, 1.0)
    return adjusted
