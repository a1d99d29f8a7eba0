"""Figures over launches and of dependent series: closed forms, invariants, simulated coverage."""

from __future__ import annotations

import math

import numpy as np
import pytest
import scipy
from hypothesis import given
from hypothesis import strategies as st

from hwbench import stats

positive = st.lists(st.floats(1e-3, 1e3), min_size=2, max_size=20)


def autoregressive(rho: float, series: int, n: int, seed: int) -> np.ndarray:
    """Stationary AR(1) series of standard normal values."""
    noise = np.random.default_rng(seed).standard_normal((series, n + 1000))
    return scipy.signal.lfilter([math.sqrt(1 - rho**2)], [1, -rho], noise, axis=1)[:, 1000:]


# Over launches


@given(positive, st.floats(0.1, 10))
def test_a_figure_over_launches_is_a_t_interval_on_logarithms(values, scale):
    estimate = stats.over_launches(values)
    logs = np.log(values)
    low, high = scipy.stats.t.interval(0.95, len(logs) - 1, logs.mean(), max(scipy.stats.sem(logs), 1e-300))
    assert (estimate.value, estimate.low, estimate.high) == pytest.approx(np.exp([logs.mean(), low, high]), rel=1e-6)
    scaled = stats.over_launches(scale * np.array(values))
    assert scaled.high / scaled.value == pytest.approx(estimate.high / estimate.value)


def test_one_launch_bounds_nothing():
    estimate = stats.over_launches([2.0])
    assert (estimate.value, estimate.low, estimate.high, estimate.n) == (2.0, 0.0, math.inf, 1)
    assert stats.ratio_of_launches([2.0], [1.0, 1.1]).high == math.inf


@given(positive, st.randoms())
def test_a_paired_ratio_does_not_see_what_both_sides_share(values, random):
    spells = np.array([random.uniform(0.5, 5) for _ in values])
    slow = stats.ratio_over_launches(1.5 * spells * values, spells * values)
    assert (slow.value, slow.low, slow.high) == pytest.approx((1.5, 1.5, 1.5), rel=1e-6)


def test_a_ratio_of_six_blocks_is_bounded_by_its_extremes_and_one_of_five_by_t():
    ratios = np.array([1.0, 1.1, 1.2, 0.9, 1.05, 1.3])
    six, five = (stats.ratio_over_launches(ratios[:n], np.ones(n)) for n in (6, 5))
    assert (six.low, six.high) == pytest.approx((0.9, 1.3))  # P(T+ < 1) = 1/64: 96.9 %
    assert five == stats.over_launches(ratios[:5])


def test_a_launch_in_a_slow_mode_does_not_hide_a_difference():
    rng = np.random.default_rng(7)
    base = np.exp(0.01 * rng.standard_normal(12))
    slow = 1.1 * np.exp(0.01 * rng.standard_normal(12))
    slow[4] *= 0.5
    estimate = stats.ratio_over_launches(slow, base)
    assert 1 < estimate.low < 1.1 < estimate.high
    assert stats.over_launches(slow / base).low < 1


@pytest.mark.parametrize("n", [6, 10, 20])
def test_ratios_cover_where_launches_are_in_one_of_two_modes(n):
    rng, covered = np.random.default_rng(8), []
    for _ in range(1500):
        a, b = (np.exp(0.02 * rng.standard_normal(n) + 0.5 * (rng.random(n) < 0.1)) for _ in range(2))
        estimate = stats.ratio_over_launches(a, b)
        covered.append(estimate.low <= 1 <= estimate.high)
    assert np.mean(covered) > 0.94


def test_the_signed_rank_interval_agrees_with_published_quantiles():
    # Hollander and Wolfe, table A.4: P(T+ ≥ 47) = 0.024 for n = 10, so that 9 Walsh averages are left out on each side.
    ratios = np.exp(np.arange(1, 11) / 10)
    estimate = stats.ratio_over_launches(ratios, np.ones(10))
    walsh = np.sort([(i + j) / 20 for i in range(1, 11) for j in range(i, 11)])
    assert (estimate.low, estimate.high) == pytest.approx(tuple(np.exp([walsh[8], walsh[-9]])))


@given(positive, positive)
def test_an_independent_ratio_agrees_with_welch(a, b):
    ratio = stats.ratio_of_launches(a, b)
    logs = np.log(a), np.log(b)
    if min(sample.std() for sample in logs) > 1e-6:
        interval = scipy.stats.ttest_ind(*logs, equal_var=False).confidence_interval(0.95)
        assert (ratio.low, ratio.high) == pytest.approx((math.exp(interval.low), math.exp(interval.high)), rel=1e-6)
    mirrored = stats.ratio_of_launches(b, a)
    assert (mirrored.low, mirrored.high) == pytest.approx((1 / ratio.high, 1 / ratio.low), rel=1e-9)


@pytest.mark.parametrize("bad", [[], [1.0, 0.0], [1.0, math.inf], [-1.0], [[1.0]]])
def test_figures_must_be_positive(bad):
    with pytest.raises(ValueError, match=r"positive|one-dimensional"):
        stats.over_launches(bad)


def test_the_number_of_launches_is_steins():
    pilot = np.exp([0.0, 0.1, -0.1, 0.05, -0.05])
    wanted = math.ceil((2.776445 * np.std(np.log(pilot), ddof=1) / math.log(1.05)) ** 2)
    assert stats.launches_needed(pilot, 0.05, 50) == wanted == 21
    assert stats.launches_needed(pilot, 0.05, 20) == 20
    assert stats.launches_needed([1.0, 1.0, 1.0], 0.05, 20) == 3
    assert stats.launches_needed([1.0], 0.05, 20) == 20


def test_intervals_cover_when_their_number_was_chosen_by_a_pilot():
    rng, covered = np.random.default_rng(5), []
    for _ in range(1500):
        values = np.exp(0.08 * rng.standard_normal(20))
        n = stats.launches_needed(values[:5], 0.05, 20)
        estimate = stats.over_launches(values[:n], pilot=5)
        covered.append(estimate.low <= 1 <= estimate.high)
    assert np.mean(covered) > 0.94


@pytest.mark.parametrize(("between", "share"), [(0.0, 0.0), (0.1, 0.8), (0.3, 0.97)])
def test_the_share_between_launches_recovers_the_variance_components(between, share):
    rng = np.random.default_rng(2)
    values = np.exp(between * rng.standard_normal(4000) + 0.05 * rng.standard_normal(4000))
    assert stats.share_between(values, np.full(4000, 0.05**2)) == pytest.approx(share, abs=0.05)


# Dependent series


@pytest.mark.parametrize("rho", [0.0, 0.3, 0.6, 0.9, 0.99])
@pytest.mark.parametrize("q", [0.5, 0.9, 0.99])
def test_quantile_intervals_cover_on_dependent_series(rho, q):
    truth = scipy.stats.norm.ppf(q)
    estimates = [stats.series_quantile(series, q) for series in autoregressive(rho, 200, 2000, seed=1)]
    covered = np.mean([estimate.low <= truth <= estimate.high for estimate in estimates])
    assert covered > 0.92  # nominal 0.95, less three standard errors of 200 series
    if rho < 0.5:
        assert all(math.isfinite(estimate.high) for estimate in estimates)


def test_intervals_of_independent_values_are_about_those_of_order_statistics():
    values = np.random.default_rng(3).lognormal(size=2000)
    dependent, independent = stats.series_quantile(values, 0.5), stats.quantile(values, 0.5)
    assert dependent.value == independent.value
    assert dependent.high - dependent.low < 1.5 * (independent.high - independent.low)


@pytest.mark.parametrize("rho", [0.0, 0.5, 0.9])
def test_the_correlation_time_of_an_autoregression(rho):
    times = [stats.correlation_time(series) for series in autoregressive(rho, 50, 20_000, seed=4)]
    assert np.mean(times) == pytest.approx((1 + rho) / (1 - rho), rel=0.1)


def test_a_constant_series_has_no_correlation_and_no_width():
    assert stats.correlation_time([2.0] * 50) == 1.0
    estimate = stats.series_quantile([2.0] * 50, 0.5)
    assert (estimate.low, estimate.high) == (2.0, 2.0)


@pytest.mark.parametrize(("values", "q"), [([1.0], 0.0), ([math.nan, 1.0], 0.5), ([], 0.5)])
def test_impossible_arguments_are_refused(values, q):
    with pytest.raises(ValueError, match=r"quantile|non-empty"):
        stats.series_quantile(values, q)


def test_variances_of_logarithms_match_what_repeats_show():
    series = 10 + autoregressive(0.8, 300, 1000, seed=6)
    for variance, figure in (
        (stats.log_mean_variance, np.mean),
        (lambda values: stats.log_quantile_variance(values, 0.5), np.median),
    ):
        observed = np.var([math.log(figure(values)) for values in series])
        assert 0.7 < np.mean([variance(values) for values in series]) / observed < 2  # errs on the wide side
