"""Fidelity of an output's parts: slices along an axis, grouped by range, since a large range would hide a small one."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[Any]]
MANY = 1000
"""Distinct values are counted up to this many."""

# A group ends where the next smaller range is 10 times smaller; closer ranges share a scale with little loss.
_GAP = 10.0
# Values from here on are those of masks, not results.
_MASKED = 1e30
# Axes with more slices index positions: samples of a waveform, pixels.
_LONGEST = 1 << 16
# Numbers between 0 and 1 count as probabilities, with a range of 1 even for a class that no input shows.
_PROBABILITY = (-1e-3, 1 + 1e-3)
# Probabilities below this span at most 8 int8 levels, too few to judge a build.
_QUIET = 1 / 32
# Limits: elements in which distinct values are counted, and per-input sums kept for single slices.
_COUNTED = 1 << 22
_NAMED = 3  # single slices of a group
_AT_ONCE = 1 << 19  # elements compared at a time, in float64


@dataclass(frozen=True)
class Group:
    """Slices whose reference ranges are of one order of magnitude.

    Attributes:
        slices: Their numbers along the axis.
        low, high: The reference's range.
        quiet: True for probabilities too small for 8 bits.
    """

    slices: tuple[int, ...]
    low: float
    high: float
    quiet: bool = False


@dataclass(frozen=True)
class Layout:
    """An output as slices.

    Attributes:
        axis: The axis, 1 or more; None where the output is one slice.
        groups: The groups of slices, largest range first.
        means: The reference's mean of every slice, ``[slices]``.
    """

    axis: int | None
    groups: tuple[Group, ...]
    means: Array

    @property
    def size(self) -> int:
        """The number of slices."""
        return len(self.means)

    def aligned(self, values: Array) -> Array:
        """Values ``[n, ...]`` as ``[n, slices, others]``."""
        moved = values if self.axis is None else np.moveaxis(values, self.axis, 1)
        return moved.reshape(len(values), self.size, -1)


class _Ranges:
    """Range, sum and count of every slice along one axis."""

    def __init__(self, size: int) -> None:
        self.low, self.high = np.full(size, np.inf), np.full(size, -np.inf)
        self.sum, self.count = np.zeros(size), np.zeros(size)

    def add(self, values: Array, usable: Array, axis: int) -> None:
        others = tuple(other for other in range(values.ndim) if other != axis)
        some: dict[str, Any] = {} if usable.all() else {"where": usable}
        self.low = np.minimum(self.low, values.min(axis=others, initial=np.inf, **some))
        self.high = np.maximum(self.high, values.max(axis=others, initial=-np.inf, **some))
        self.sum += values.sum(axis=others, dtype=np.float64, **some)
        self.count += usable.sum(axis=others)

    def scales(self) -> Array:
        """Each slice's order of magnitude: its largest absolute value; 1 for probabilities and for slices without values."""
        likely = (self.low >= _PROBABILITY[0]) & (self.high <= _PROBABILITY[1])
        return np.where(likely | (self.count == 0), 1.0, np.maximum(np.abs(self.low), np.abs(self.high)))


class Scout:
    """Finds the axis along which ranges differ, from the reference's output in chunks."""

    def __init__(self) -> None:
        self._axes: dict[int, _Ranges] = {}
        self._whole = _Ranges(1)

    def add(self, reference: Array) -> None:
        """Look at one chunk, ``[n, ...]``."""
        values = reference if reference.dtype.kind == "f" and reference.itemsize >= 4 else reference.astype(np.float32)
        usable = _usable(values)
        for axis in range(1, values.ndim):
            if 2 <= values.shape[axis] <= _LONGEST:
                self._axes.setdefault(axis, _Ranges(values.shape[axis])).add(values, usable, axis)
        flat = values.reshape(-1, 1)
        self._whole.add(flat, usable.reshape(-1, 1), 1)

    def layout(self) -> Layout:
        """The axis whose ranges differ most, and its groups."""
        axis = max(self._axes, key=lambda one: _difference(self._axes[one].scales()), default=None)
        found = self._whole if axis is None else self._axes[axis]
        means = found.sum / np.maximum(found.count, 1)
        return Layout(axis, tuple(_group(found, slices) for slices in _grouped(found.scales())), means)


def _usable(values: Array) -> Array:
    """True for values that are results: finite, and not a mask's."""
    usable: Array = np.abs(values) < _MASKED  # False for NaN
    return usable


def _falling(scales: Array) -> tuple[Array, Array]:
    """The slices by scale, largest first, and the ratio of each scale to the next."""
    order = np.argsort(-scales, kind="stable")
    ranked = scales[order]
    return order, ranked[:-1] / ranked[1:]


def _difference(scales: Array) -> tuple[float, float]:
    """A measure of the difference of ranges: their largest gap if it separates groups, then the largest over the smallest."""
    _, ratios = _falling(scales)
    gap = float(ratios.max(initial=1.0))
    return (gap if gap >= _GAP else 0.0, float(scales.max() / scales.min()))


def _grouped(scales: Array) -> list[tuple[int, ...]]:
    order, ratios = _falling(scales)
    ends = np.flatnonzero(ratios >= _GAP) + 1
    return [tuple(sorted(int(one) for one in part)) for part in np.split(order, ends)]


def _group(found: _Ranges, slices: Sequence[int]) -> Group:
    chosen = list(slices)
    low, high = float(found.low[chosen].min()), float(found.high[chosen].max())
    return Group(tuple(slices), low, high, _PROBABILITY[0] <= low and high < _QUIET)


@dataclass(frozen=True)
class GroupErrors:
    """Errors of a group of slices against the reference.

    Attributes:
        group: The group.
        signal: The reference's variation about each slice's mean, squared and summed, of every input: float64 ``[n]``.
        noise: Squared errors, summed, of every input: float64 ``[n]``.
        max_abs_error: The largest error; infinite where the build has values that are not finite and the reference has none.
        distinct, reference_distinct: Number of distinct values in the build and in the reference, up to `MANY`.
        constant: Slices in which the build is constant and the reference is not.
        broken: Number of values that are not finite in the build only.
        worst: Single slices with the lowest ratio, with their signal and noise ``[n]``, the worst first.
    """

    group: Group
    signal: Array
    noise: Array
    max_abs_error: float
    distinct: int
    reference_distinct: int
    constant: tuple[int, ...]
    broken: int
    worst: tuple[tuple[int, Array, Array], ...] = ()

    @property
    def sqnr_db(self) -> float:
        """`sqnr_db` over all inputs; NaN where the reference is constant."""
        return sqnr_db(self.signal, self.noise)

    @property
    def judged(self) -> bool:
        """True if the reference varies, and its values are not too small for 8 bits."""
        return bool(self.signal.sum() > 0) and not self.group.quiet


def sqnr_db(signal: Array, noise: Array) -> float:
    """Variation of the reference over the squared error, in dB; infinite without an error, NaN without variation."""
    wanted, lost = float(signal.sum()), float(noise.sum())
    if wanted <= 0:
        return math.nan
    if lost == 0:
        return math.inf
    return 10 * math.log10(wanted / lost) if math.isfinite(lost) else -math.inf


class SliceErrors:
    """Compares outputs with the reference's in chunks; memory grows with the number of inputs and groups only.

    Args:
        layout: The slices of the output.
        n: Number of inputs in all.
    """

    def __init__(self, layout: Layout, n: int) -> None:
        self._layout = layout
        self._member = np.zeros((layout.size, len(layout.groups)))
        for place, group in enumerate(layout.groups):
            self._member[list(group.slices), place] = 1.0
        self._signal: list[Array] = []
        self._noise: list[Array] = []
        self._each: list[tuple[Array, Array]] | None = [] if n * layout.size <= _COUNTED else None
        self._largest, self._broken = np.zeros(layout.size), np.zeros(layout.size, np.int64)
        self._bounds = [
            np.full((2, layout.size), np.inf) for _ in range(2)
        ]  # of reference and build: low, negated high
        self._values = [[_Distinct(), _Distinct()] for _ in layout.groups]

    def add(self, reference: Array, output: Array) -> None:
        """Compare one chunk, ``[n, ...]`` of both, some of its elements at a time."""
        wanted, got = self._layout.aligned(reference), self._layout.aligned(output)
        step = max(1, _AT_ONCE // max(1, len(wanted) * self._layout.size))
        signal, noise = np.zeros(wanted.shape[:2]), np.zeros(wanted.shape[:2])
        for start in range(0, wanted.shape[2], step):
            part = np.s_[:, :, start : start + step]
            more = self._part(wanted[part].astype(np.float64), got[part].astype(np.float64))
            signal, noise = signal + more[0], noise + more[1]
        self._signal.append(signal @ self._member)
        self._noise.append(
            np.stack([noise[:, list(group.slices)].sum(axis=1) for group in self._layout.groups], axis=1)
        )
        if self._each is not None:
            self._each.append((signal, noise))

    def _part(self, wanted: Array, got: Array) -> tuple[Array, Array]:
        """Signal and noise of every slice of some elements, ``[n, slices]``; updates the other statistics."""
        usable = _usable(wanted)
        broken = usable & ~np.isfinite(got)
        with np.errstate(over="ignore", invalid="ignore"):
            error = np.where(broken, np.inf, np.where(usable, np.abs(got - wanted), 0.0))
            noise = (error**2).sum(axis=2)
            signal = np.where(usable, (wanted - self._layout.means[:, None]) ** 2, 0.0).sum(axis=2)
        self._largest = np.maximum(self._largest, error.max(axis=(0, 2), initial=0.0))
        self._broken += broken.sum(axis=(0, 2))
        for bounds, values in zip(self._bounds, (wanted, np.where(broken, np.inf, got)), strict=True):
            for row, sign in enumerate((1.0, -1.0)):
                bounds[row] = np.minimum(bounds[row], (sign * values).min(axis=(0, 2), initial=np.inf, where=usable))
        for (theirs, ours), group in zip(self._values, self._layout.groups, strict=True):
            theirs.add(wanted, usable, group.slices)
            ours.add(got, usable, group.slices)
        return signal, noise

    def result(self) -> list[GroupErrors]:
        """The groups' errors, in the layout's order."""
        signal, noise = np.concatenate(self._signal), np.concatenate(self._noise)
        (low, high), (build_low, build_high) = self._bounds
        constant = (build_low == -build_high) & (low != -high)
        found = []
        for place, group in enumerate(self._layout.groups):
            chosen = list(group.slices)
            found.append(
                GroupErrors(
                    group,
                    signal[:, place],
                    noise[:, place],
                    float(self._largest[chosen].max()),
                    self._values[place][1].count,
                    self._values[place][0].count,
                    tuple(one for one in chosen if constant[one]),
                    int(self._broken[chosen].sum()),
                    self._singled_out(chosen),
                )
            )
        return found

    def _singled_out(self, slices: Sequence[int]) -> tuple[tuple[int, Array, Array], ...]:
        """The worst slices among those with a fair part of the group's variation; errors of the others are rounding."""
        if self._each is None or len(slices) < 2:
            return ()
        signal, noise = (np.concatenate([each[kind] for each in self._each])[:, list(slices)] for kind in (0, 1))
        total = signal.sum(axis=0)
        fair = [place for place in range(len(slices)) if total[place] > 0.01 * total.mean()]
        fair.sort(key=lambda place: sqnr_db(signal[:, place], noise[:, place]))
        return tuple((slices[place], signal[:, place], noise[:, place]) for place in fair[:_NAMED])


class _Distinct:
    """The distinct values of a group of slices, up to `MANY`, in its first elements."""

    def __init__(self) -> None:
        self._known: Array = np.empty(0)
        self._seen = 0

    def add(self, values: Array, usable: Array, slices: Sequence[int]) -> None:
        if self._seen < _COUNTED and len(self._known) < MANY:
            chosen = values[:, list(slices)][usable[:, list(slices)]][: _COUNTED - self._seen]
            self._seen += chosen.size
            self._known = np.unique(np.concatenate([self._known, np.unique(chosen)]))

    @property
    def count(self) -> int:
        return min(MANY, len(self._known))
