"""Bootstrap intervals against analytic results, their invariants, and simulated coverage."""

import tracemalloc

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench import stats
from hwbench.stats.two_way import resampled_means


def within(estimate, low, high):
    return low <= estimate.low <= estimate.value <= estimate.high <= high


# Means and other statistics


def test_mean_interval_of_a_large_sample_is_close_to_students():
    values = np.random.default_rng(1).normal(5, 2, 4000)
    estimate = stats.mean_interval(values)
    student = scipy.stats.t.interval(0.95, values.size - 1, values.mean(), scipy.stats.sem(values))
    assert (estimate.low, estimate.high) == pytest.approx(student, abs=0.1 * scipy.stats.sem(values) * 2)
    assert estimate.value == values.mean()
    assert estimate.n == 4000


def test_mean_interval_of_a_small_skewed_sample_leans_to_the_long_tail():
    values = np.random.default_rng(2).lognormal(0, 1, 60)
    estimate = stats.mean_interval(values)
    assert estimate.high - estimate.value > 1.1 * (estimate.value - estimate.low)


def test_mean_interval_covers_at_its_level():
    rng = np.random.default_rng(3)
    estimates = [stats.mean_interval(rng.exponential(size=80), 0.9, seed) for seed in range(200)]
    assert 0.84 <= np.mean([e.low <= 1 <= e.high for e in estimates]) <= 0.95


@pytest.mark.parametrize(("values", "mean"), [([3.0], 3.0), ([1.0, np.inf], np.inf), ([np.inf, -np.inf], np.nan)])
def test_mean_interval_is_unbounded_where_the_data_say_nothing(values, mean):
    estimate = stats.mean_interval(values)
    assert (estimate.low, estimate.high) == (-np.inf, np.inf)
    assert estimate.value == pytest.approx(mean, nan_ok=True)


def test_equal_values_have_an_interval_of_zero_width():
    a = np.array([0.1, 0.2, 0.4, 0.8])
    assert stats.mean_interval([0.1] * 7) == stats.Estimate(0.1, 0.1, 0.1, 0.95, 7)
    assert stats.paired_mean_difference(a, a) == stats.Estimate(0, 0, 0, 0.95, 4)


@settings(deadline=None, max_examples=60)
@given(st.lists(st.floats(-1e3, 1e3), min_size=2, max_size=30), st.integers(0, 9))
def test_paired_mean_difference_swaps_with_its_arguments(values, seed):
    a = np.array(values)
    b = np.roll(a, 1) * 0.5
    forth, back = stats.paired_mean_difference(a, b, seed=seed), stats.paired_mean_difference(b, a, seed=seed)
    assert forth.low <= forth.value <= forth.high
    assert (forth.low, forth.value, forth.high) == pytest.approx((-back.high, -back.value, -back.low), abs=1e-6)
    assert forth == stats.paired_mean_difference(a, b, seed=seed)


def test_pairing_removes_what_the_inputs_share():
    rng = np.random.default_rng(4)
    shared = rng.normal(0, 10, 500)
    difference = stats.paired_mean_difference(shared + rng.normal(0.5, 0.1, 500), shared)
    assert 0.45 < difference.low < difference.high < 0.55


def rmse(y, prediction):
    return np.sqrt(np.mean((y - prediction) ** 2))


def r2(y, prediction):
    return 1 - np.sum((y - prediction) ** 2) / np.sum((y - y.mean(axis=0)) ** 2)


def test_bootstrap_statistic_resamples_rows_together():
    rng = np.random.default_rng(5)
    y = rng.normal(0, 1, (400, 3))
    prediction = y + rng.normal(0, 0.5, (400, 3))
    error, explained = (stats.bootstrap_statistic(f, [y, prediction], seed=1) for f in (rmse, r2))
    assert within(error, 0.46, 0.54)
    assert within(explained, 0.68, 0.81)
    assert error.high - error.low > 0.02
    assert stats.bootstrap_statistic(rmse, [y, y]) == stats.Estimate(0, 0, 0, 0.95, 400)


def test_bootstrap_statistic_agrees_with_the_mean_interval():
    values = np.random.default_rng(6).gamma(2, size=300)
    one, other = stats.mean_interval(values, seed=8), stats.bootstrap_statistic(np.mean, [values], seed=8)
    assert (one.low, one.high) == pytest.approx((other.low, other.high))


def test_bootstrap_statistic_of_the_median_covers_the_order_statistics_interval():
    values = np.random.default_rng(7).normal(size=3001)
    bootstrap, exact = stats.bootstrap_statistic(np.median, [values]), stats.quantile(values, 0.5)
    assert (bootstrap.low, bootstrap.high) == pytest.approx((exact.low, exact.high), abs=0.01)


def test_bootstrap_statistic_of_too_few_rows_is_unbounded():
    estimate = stats.bootstrap_statistic(r2, [np.array([1.0, 2.0, 3.0]), np.array([1.1, 2.0, 2.8])])
    assert (estimate.low, estimate.high) == (-np.inf, np.inf)
    assert estimate.value == pytest.approx(0.975)


@pytest.mark.parametrize("arrays", [[], [[]], [[1.0], [1.0, 2.0]], [3.0]])
def test_bootstrap_statistic_refuses_rows_that_do_not_match(arrays):
    with pytest.raises(ValueError, match="number of rows"):
        stats.bootstrap_statistic(np.mean, arrays)


# Draws x inputs


def test_two_way_variance_of_an_additive_matrix_is_the_sum_of_both():
    rng = np.random.default_rng(8)
    rows, columns = rng.normal(0, 1, 20), rng.normal(0, 2, 150)
    means = resampled_means(rows[:, None] + columns, 0, 6000)
    assert means.var() == pytest.approx(rows.var() / 20 + columns.var() / 150, rel=0.08)
    assert means.mean() == pytest.approx(rows.mean() + columns.mean(), abs=0.02)


def test_two_way_means_do_not_depend_on_type_or_blocking(monkeypatch):
    matrix = np.random.default_rng(9).random((6, 500)) < 0.7
    reference = resampled_means(matrix, 3, 50)
    assert np.array_equal(reference, resampled_means(matrix.astype(np.uint8), 3, 50))
    assert np.array_equal(reference, resampled_means(matrix.astype(np.float32), 3, 50))
    monkeypatch.setattr("hwbench.stats.two_way._BLOCK_ELEMENTS", 600)
    assert np.array_equal(reference, resampled_means(matrix, 3, 50))


def test_two_way_covers_a_bimodal_crossed_model():
    rng = np.random.default_rng(10)
    draws, inputs, collapse = 20, 200, 0.3
    truth = (1 - collapse) * 0.9 + collapse * 0.2
    covered = one_way = 0
    for seed in range(200):
        level = np.where(rng.random(draws) < collapse, 0.2, 0.9)
        # An input's ease shifts its chance under every draw; triangular so that chances stay inside [0, 1].
        ease = rng.triangular(-0.1, 0, 0.1, inputs)
        correct = rng.random((draws, inputs)) < level[:, None] + ease
        estimate = stats.two_way_bootstrap(correct, seed=seed, resamples=300)
        covered += estimate.low <= truth <= estimate.high
        pooled = stats.proportion(int(correct.sum()), correct.size)
        one_way += pooled.low <= truth <= pooled.high
    assert 0.90 <= covered / 200 <= 0.99
    assert one_way / 200 < 0.5  # what pooling the draws would have claimed


def test_two_way_is_deterministic_and_needs_two_of_each():
    matrix = np.random.default_rng(11).random((8, 40))
    assert stats.two_way_bootstrap(matrix, seed=1) == stats.two_way_bootstrap(matrix, seed=1)
    assert stats.two_way_bootstrap(matrix, seed=1) != stats.two_way_bootstrap(matrix, seed=2)
    for thin in (matrix[:1], matrix[:, :1], np.where(matrix > 0.9, np.nan, matrix)):
        estimate = stats.two_way_bootstrap(thin)
        assert (estimate.low, estimate.high) == (-np.inf, np.inf)
    assert stats.two_way_bootstrap(np.full((3, 4), 0.1)) == stats.Estimate(0.1, 0.1, 0.1, 0.95, 12)
    with pytest.raises(ValueError, match="draws, inputs"):
        stats.two_way_bootstrap(matrix[0])


def test_two_way_memory_is_bounded():
    matrix = np.random.default_rng(12).integers(0, 2, (20, 50_000), dtype=np.uint8)
    tracemalloc.start()
    try:
        estimate = stats.two_way_bootstrap(matrix, resamples=100)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert within(estimate, 0.49, 0.51)
    assert peak < 80 * 2**20
