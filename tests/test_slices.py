"""Parts of an output: which axis and groups are found, and their errors, against direct computation."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench.slices import MANY, Layout, Scout, SliceErrors, sqnr_db


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def layout_of(reference: np.ndarray, size: int = 7) -> Layout:
    scout = Scout()
    for start in range(0, len(reference), size):
        scout.add(reference[start : start + size])
    return scout.layout()


def errors_of(reference: np.ndarray, output: np.ndarray, size: int = 5):
    errors = SliceErrors(layout_of(reference), len(reference))
    for start in range(0, len(reference), size):
        errors.add(reference[start : start + size], output[start : start + size])
    return errors.result()


def boxes_and_scores(n: int = 12, classes: int = 3, anchors: int = 50) -> np.ndarray:
    """As a YOLO's head: boxes in pixels, then scores, most of them of the background; the last class never occurs."""
    boxes = rng().uniform(4, 640, (n, 4, anchors))
    scores = rng(1).uniform(0, 1, (n, classes, anchors)) ** 8
    scores[:, -1] *= 1e-3
    return np.concatenate([boxes, scores], axis=1).astype(np.float32)


@pytest.mark.parametrize("axis", [1, 2])
def test_boxes_and_scores_are_two_groups_on_whichever_axis(axis):
    values = boxes_and_scores()
    found = layout_of(values if axis == 1 else np.swapaxes(values, 1, 2))
    assert found.axis == axis
    assert [group.slices for group in found.groups] == [(0, 1, 2, 3), (4, 5, 6)]
    assert not any(group.quiet for group in found.groups)


@pytest.mark.parametrize(
    "values",
    [
        rng().standard_normal((20, 10)),  # logits
        np.exp(8 * rng().standard_normal((20, 10)))
        / np.exp(8 * rng().standard_normal((20, 10))).sum(1, keepdims=True).max(),
        rng().standard_normal((20, 6, 16)) * np.geomspace(1, 30, 16),  # a transformer's features, with outliers
        np.maximum(rng().standard_normal((20, 8, 5, 5)), 0) * np.geomspace(1, 1e-3, 8)[:, None, None],
        rng().standard_normal(20),
        rng().standard_normal((20, 1)),
    ],
    ids=["logits", "probabilities", "features", "maps", "numbers", "column"],
)
def test_outputs_of_one_scale_are_one_group(values):
    found = layout_of(values)
    assert len(found.groups) == 1
    assert len(found.groups[0].slices) == found.size


def test_targets_of_a_regression_with_other_units_are_groups():
    values = rng().standard_normal((30, 4)) * [1e5, 1e5, 3, 1e-3]
    assert [group.slices for group in layout_of(values).groups] == [(0, 1), (2,), (3,)]


def test_a_mask_and_what_is_not_finite_are_no_range():
    values = rng().standard_normal((10, 3, 8))
    values[:, :, 5:] = np.finfo(np.float32).min
    values[:, 0, 0] = -np.inf
    values[0, 1, 0] = np.nan
    (group,) = layout_of(values).groups
    assert -10 < group.low < group.high < 10


def test_probabilities_too_small_for_8_bits_are_not_judged():
    values = np.concatenate([rng().uniform(100, 640, (9, 4, 30)), rng().uniform(0, 0.02, (9, 2, 30))], axis=1)
    boxes, scores = errors_of(values, np.concatenate([values[:, :4], np.zeros((9, 2, 30))], axis=1))
    assert boxes.judged
    assert scores.group.quiet
    assert not scores.judged
    assert scores.constant == (4, 5)


@settings(deadline=None, max_examples=40)
@given(st.integers(1, 20), st.integers(1, 9), st.sampled_from([(), (3,), (3, 4), (2, 3, 2)]), st.integers(0, 2**16))
def test_errors_are_those_of_a_direct_computation_however_the_outputs_come(n, size, shape, seed):
    reference = rng(seed).standard_normal((n, *shape)) * rng(seed + 1).choice([1, 1e3], shape)
    output = reference + rng(seed + 2).standard_normal((n, *shape)) / 10
    found = errors_of(reference, output, size)
    layout = layout_of(reference)
    wanted, got = (layout.aligned(values).astype(np.float64) for values in (reference, output))
    assert sorted(one for errors in found for one in errors.group.slices) == list(range(layout.size))
    for errors in found:
        chosen = list(errors.group.slices)
        centered = wanted[:, chosen] - wanted[:, chosen].mean(axis=(0, 2), keepdims=True)
        error = got[:, chosen] - wanted[:, chosen]
        np.testing.assert_allclose(errors.signal, (centered**2).sum(axis=(1, 2)), rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(errors.noise, (error**2).sum(axis=(1, 2)), rtol=1e-9)
        assert errors.max_abs_error == np.abs(error).max()
        assert errors.distinct == min(MANY, len(np.unique(got[:, chosen])))
        assert errors.reference_distinct == min(MANY, len(np.unique(wanted[:, chosen])))
        assert not errors.broken


def test_a_shared_scale_is_seen_in_the_scores_alone():
    values = boxes_and_scores()
    step = 640 / 255
    boxes, scores = errors_of(values, np.round(values / step) * step)
    assert boxes.sqnr_db > 40
    assert scores.sqnr_db < 1
    assert scores.distinct == 1
    assert scores.constant == (4, 5, 6)
    assert boxes.constant == ()
    own = values.copy()
    own[:, 4:] = np.round(values[:, 4:] * 255) / 255
    boxes, scores = errors_of(values, own)
    assert scores.sqnr_db > 30
    assert scores.constant == (6,)  # the class that no input shows: not a reason to fail the group
    assert [index for index, _, _ in scores.worst] == [4, 5] or [index for index, _, _ in scores.worst] == [5, 4]


def test_numbers_that_are_not_finite_in_the_build_alone_are_an_infinite_error():
    values = boxes_and_scores()
    broken = values.copy()
    broken[3, 5, 7] = np.nan
    boxes, scores = errors_of(values, broken)
    assert boxes.sqnr_db == math.inf
    assert (scores.sqnr_db, scores.broken, scores.max_abs_error) == (-math.inf, 1, math.inf)
    values[3, 5, 7] = np.nan
    assert errors_of(values, broken)[1].sqnr_db == math.inf  # both are: nothing lost


def test_a_constant_reference_has_no_ratio():
    (found,) = errors_of(np.full((6, 3), 2.0), np.full((6, 3), 2.1))
    assert math.isnan(found.sqnr_db)
    assert not found.judged
    assert found.max_abs_error == pytest.approx(0.1)
    assert found.constant == ()


def test_a_constant_build_is_no_better_than_0_db_whatever_the_level():
    values = 300 + rng().standard_normal((50, 2))
    (found,) = errors_of(values, np.full((50, 2), 300.0))
    assert found.constant == (0, 1)
    assert found.sqnr_db < 0.01


@pytest.mark.parametrize(("ratio", "db"), [(1.0, 0.0), (10.0, 10.0), (1000.0, 30.0), (0.1, -10.0)])
def test_decibels(ratio, db):
    assert sqnr_db(np.array([ratio, ratio]), np.array([1.0, 1.0])) == pytest.approx(db)
