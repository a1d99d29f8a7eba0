"""Bounded means and sample sizes against exact results, simulation and their invariants."""

import math

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench import stats
from hwbench.stats import campaign

quick = settings(deadline=None, max_examples=60)


@pytest.mark.parametrize(
    ("population", "half_width", "confidence", "n"),
    [(10**9, 0.01, 0.95, 9604), (10**9, 0.05, 0.99, 664), (1000, 0.01, 0.95, 906), (1, 0.1, 0.95, 1)],
)
def test_leveugle_gives_the_published_numbers(population, half_width, confidence, n):
    assert campaign.leveugle(population, half_width, confidence) == n


@quick
@given(st.integers(1, 10**7), st.floats(1e-4, 0.3), st.floats(0.5, 0.999), st.floats(0.01, 0.99))
def test_leveugle_is_the_smallest_n_whose_interval_is_narrow_enough(population, half_width, confidence, p):
    n = campaign.leveugle(population, half_width, confidence, p)
    assert 1 <= n <= population

    def width(trials):
        t = campaign._STANDARD.inv_cdf((1 + confidence) / 2)
        return t * math.sqrt(p * (1 - p) / trials * (population - trials) / max(1, population - 1))

    assert width(n) <= half_width * (1 + 1e-9)
    assert n == 1 or width(n - 1) > half_width * (1 - 1e-9)


@pytest.mark.parametrize("arguments", [(0, 0.1), (10, 0.0), (10, 0.1, 1.0), (10, 0.1, 0.95, 0.0)])
def test_leveugle_refuses_what_makes_no_sense(arguments):
    with pytest.raises(ValueError, match="got"):
        campaign.leveugle(*arguments)


@pytest.mark.parametrize("level", [0.8, 0.95, 0.9999])
@pytest.mark.parametrize("n", [2, 20, 500, 1_000_000])
def test_a_bounded_mean_of_events_is_clopper_and_pearsons(n, level):
    for k in sorted({0, 1, 2, n // 3, n - 1, n}):
        values = np.repeat([1.0, 0.0], [k, n - k])
        bounded, exact = campaign.bounded_mean(values, level=level), stats.proportion(k, n, level)
        width = exact.high - exact.low
        assert exact.low - 0.02 * width <= bounded.low <= exact.low + 1e-4 * width
        assert exact.high - 1e-4 * width <= bounded.high <= exact.high + 0.02 * width
        assert (bounded.value, bounded.n, bounded.level) == (k / n, n, level)


def test_a_bounded_mean_has_the_quantiles_of_its_dirichlet_weights():
    rng = np.random.default_rng(1)
    values = np.where(rng.random(400) < 0.1, rng.beta(0.3, 1.5, 400), 0.0)
    weights = rng.exponential(size=(20_000, 401))
    sums = weights[:, :400] @ values
    estimate = campaign.bounded_mean(values, level=0.9)
    assert estimate.high == pytest.approx(np.quantile((sums + weights[:, 400]) / weights.sum(1), 0.95), rel=0.02)
    assert estimate.low == pytest.approx(np.quantile(sums / weights.sum(1), 0.05), rel=0.02)


def test_a_bounded_mean_of_many_values_is_students():
    values = np.random.default_rng(2).uniform(0.2, 0.4, 50_000)
    estimate, error = campaign.bounded_mean(values), values.std(ddof=1) / math.sqrt(50_000)
    assert (estimate.low, estimate.high) == pytest.approx(
        (values.mean() - 1.96 * error, values.mean() + 1.96 * error), abs=0.1 * error
    )


@quick
@given(
    # Thousandths: a value that vanishes beside the shift is another sample.
    st.lists(st.integers(0, 1000).map(lambda thousandths: thousandths / 1000), min_size=1, max_size=40),
    st.floats(-3, 3),
    st.floats(0.01, 100),
    st.floats(0.5, 0.999),
)
def test_a_bounded_mean_moves_with_its_units_and_mirrors(values, shift, scale, level):
    plain = campaign.bounded_mean(values, level=level)
    assert 0 <= plain.low <= plain.value <= plain.high <= 1
    moved = campaign.bounded_mean(shift + scale * np.array(values), shift, shift + scale, level)
    mirrored = campaign.bounded_mean(1 - np.array(values), level=level)
    tolerance = 1e-6
    assert (moved.low - shift) / scale == pytest.approx(plain.low, abs=tolerance)
    assert (moved.high - shift) / scale == pytest.approx(plain.high, abs=tolerance)
    assert (1 - mirrored.high, 1 - mirrored.low) == pytest.approx((plain.low, plain.high), abs=tolerance)


@pytest.mark.parametrize("draw", ["events", "rare_fractions", "heavy"])
@pytest.mark.parametrize("n", [15, 200])
def test_a_bounded_mean_covers_skewed_values(draw, n):
    rng = np.random.default_rng(3)
    sample, mean = {
        "events": (lambda: (rng.random(n) < 0.03).astype(float), 0.03),
        "rare_fractions": (lambda: np.where(rng.random(n) < 0.1, rng.beta(0.3, 1.2, n), 0.0), 0.1 * 0.2),
        "heavy": (lambda: rng.beta(0.05, 1.0, n), 0.05 / 1.05),
    }[draw]
    estimates = [campaign.bounded_mean(sample(), level=0.9) for _ in range(1000)]
    assert np.mean([e.low <= mean <= e.high for e in estimates]) >= 0.9 - 0.02


@pytest.mark.parametrize(
    ("values", "level"), [([], 0.95), ([0.5, 1.2], 0.95), ([-0.1], 0.95), ([0.5], 1.0), ([0.5], 0.3)]
)
def test_a_bounded_mean_refuses_what_it_cannot_bound(values, level):
    with pytest.raises(ValueError, match="got"):
        campaign.bounded_mean(values, level=level)


@quick
@given(st.integers(2, 400), st.data(), st.floats(0.001, 0.2))
def test_finite_populations_narrow_intervals_less_than_normal_theory_and_safely_without_events(population, data, tail):
    n = data.draw(st.integers(1, population - 1))
    shrink = campaign.finite_population(n / population)
    assert math.sqrt(1 - n / population) <= shrink <= 1
    excluded = math.floor(shrink * -math.log(tail) / n * population) + 1
    missing_them_all = scipy.stats.hypergeom.pmf(0, population, min(population, excluded), n)
    assert missing_them_all <= tail * (1 + 1e-9)


def test_finite_populations_end_in_certainty():
    assert campaign.finite_population(0) == 1
    assert campaign.finite_population(1) == 0


@pytest.mark.parametrize("rate", [0.0, 0.02, 0.3])
@pytest.mark.parametrize("n", [50, 2000])
def test_a_spread_foresees_the_half_width(rate, n):
    values = np.arange(n) < rate * n
    estimate = campaign.bounded_mean(values)
    spread = campaign.Spread(rate * (1 - rate), rate * (1 - rate) * (1 - 2 * rate), rate, 1 - rate)
    assert spread.half_width(n, 0.95) == pytest.approx((estimate.high - estimate.low) / 2, rel=0.1)
    trials = spread.trials(0.01, 0.95)
    assert spread.half_width(trials, 0.95) <= 0.01 < spread.half_width(int(trials * 0.98) - 1, 0.95)
