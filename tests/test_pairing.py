"""Figures and losses of per-input values: paired, exact where that is known, and robust to infinite values."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench import stats
from hwbench.metrics import MAE, R2, RMSE, TOP1, Metric, custom_metric, label_spread
from hwbench.pairing import input_figure, input_loss, two_way_figure, two_way_loss

LEVEL = 0.95


def right(outputs, labels):
    return outputs.argmax(axis=1) == labels


def wrong(outputs, labels):
    return outputs.argmax(axis=1) != labels


wrong.higher_is_better = False


def loss(metric, reference, values, spread=None, same=False):
    return input_loss(metric, np.asarray(reference, float), np.asarray(values, float), spread, LEVEL, 0, same=same)


def test_a_users_metric_of_zeros_and_ones_is_a_proportion():
    rights, wrongs = (custom_metric(f"{__name__}:{name}") for name in ("right", "wrong"))
    ones = np.ones(100)
    found = loss(rights, ones, ones).whole
    assert (found.low, found.high) == stats.discordant_bounds(0, 0, 100)
    assert input_figure(rights, ones, None, LEVEL, 0).whole == stats.proportion(100, 100)
    half = np.repeat([1.0, 0.0], [94, 6])
    assert loss(rights, ones, half) == loss(TOP1, ones, half) == loss(wrongs, 1 - ones, 1 - half)
    assert loss(rights, ones, half).whole.value == pytest.approx(0.06)


def test_a_users_metric_with_other_values_is_a_mean():
    rights = custom_metric(f"{__name__}:right")
    values = np.random.default_rng(0).random(50)
    assert input_figure(rights, values, None, LEVEL, 0).whole == stats.mean_interval(values, LEVEL, 0)


@pytest.mark.parametrize("metric", [TOP1, RMSE, MAE, R2])
def test_the_same_computation_loses_exactly_nothing(metric):
    values = np.array([1.0, 0, 1, 1])
    found = loss(metric, values, values, metric.spread(np.arange(4.0)), same=True)
    assert found.whole == stats.Estimate(0, 0, 0, LEVEL, 4)


@pytest.mark.parametrize("metric", [RMSE, MAE, R2])
def test_a_loss_is_infinite_only_where_the_build_alone_is(metric):
    labels = np.arange(6.0)
    spread, plain = metric.spread(labels), np.linspace(1, 2, 6)
    broken = np.where(labels == 2, np.inf, plain)
    assert loss(metric, plain, broken, spread).whole.low == np.inf
    assert loss(metric, broken, plain, spread).whole.high == -np.inf
    both = loss(metric, broken, broken * 4, spread)
    assert both.whole == both.finite
    assert both.left_out == 1
    assert np.isfinite([both.whole.low, both.whole.high]).all()
    nothing = loss(metric, np.full(6, np.inf), np.full(6, np.nan), spread)
    assert nothing.finite is None
    assert (nothing.whole.low, nothing.whole.high) == (-np.inf, np.inf)


@settings(deadline=None, max_examples=25)
@given(
    st.sampled_from([RMSE, MAE, R2]),
    st.lists(st.lists(st.floats(0, 1e3), min_size=8, max_size=8), min_size=2, max_size=5),
    st.integers(0, 5),
)
def test_a_loss_over_draws_is_that_of_all_values_together(metric: Metric, matrix, seed):
    values = np.array(matrix)
    labels = np.random.default_rng(seed).normal(size=8)
    reference = np.random.default_rng(seed + 1).random(8)
    found = two_way_loss(metric, reference, values, metric.spread(labels), LEVEL, seed).whole
    tiled = np.tile(labels, len(values))
    scale = label_spread(labels).mean()
    whole = metric.link(values.mean(), scale) if metric.needs_spread else metric.aggregate(values.ravel(), tiled)
    assert found.value == pytest.approx(metric.worsening(metric.aggregate(reference, labels), whole), abs=1e-9)
    assert found.low <= found.value <= found.high
    unchanged = two_way_loss(metric, reference, np.tile(reference, (3, 1)), metric.spread(labels), LEVEL, seed)
    assert (unchanged.whole.low, unchanged.whole.high) == (0, 0)


def test_a_paired_root_mean_square_covers_at_its_level():
    rng, hits, repeats = np.random.default_rng(5), 0, 200
    for _ in range(repeats):
        base = rng.exponential(size=200)  # squared errors of the reference, mean 1
        other = base * rng.choice([1.0, 1.4], 200)  # of the build, mean 1.2
        found = loss(RMSE, base, other).whole
        hits += found.low <= np.sqrt(1.2) - 1 <= found.high
    assert hits / repeats >= 0.9


def test_a_figure_over_draws_leaves_infinite_values_out_beside_it():
    values = np.array([[1.0, 4, np.inf], [1, 4, 9]])
    found = two_way_figure(RMSE, values, None, LEVEL, 0)
    assert found.whole.value == np.inf
    assert found.left_out == 1
    assert (found.finite.value, found.finite.n) == (pytest.approx(np.sqrt(19 / 5)), 5)
    clean = two_way_figure(MAE, values[:, :2], None, LEVEL, 0)
    assert (clean.finite, clean.left_out) == (None, 0)
