"""Proportions, quantiles and timings against published examples, other implementations and their invariants."""

import itertools
import math
import subprocess
import sys

import numpy as np
import pytest
import scipy.stats
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.special import gammaln, xlogy

from hwbench import stats

quick = settings(deadline=None, max_examples=60)
levels = st.floats(0.5, 0.999)
counts = st.integers(0, 60)
tables = st.tuples(counts, counts, counts, counts).filter(lambda cells: sum(cells) > 0)


def pair(both, only_a, only_b, neither):
    """The two bool arrays of a paired 2x2 table."""
    cells = [both, only_a, only_b, neither]
    return np.repeat([True, True, False, False], cells), np.repeat([True, False, True, False], cells)


def within(estimate, low, high):
    return low <= estimate.low <= estimate.value <= estimate.high <= high


# One proportion


@pytest.mark.parametrize(
    ("k", "n", "bounds"),
    [  # Newcombe (1998), "Two-sided confidence intervals for the single proportion", Table I, method 5
        (81, 263, (0.2527, 0.3676)),
        (15, 148, (0.0578, 0.1617)),
        (0, 20, (0.0, 0.1684)),
        (1, 29, (0.0009, 0.1776)),
    ],
)
def test_proportion_published_examples(k, n, bounds):
    exact = stats.proportion(k, n)
    assert (exact.low, exact.high) == pytest.approx(bounds, abs=5e-5)
    assert (exact.value, exact.n, exact.level) == (k / n, n, 0.95)


def test_proportion_covers_at_its_level_whatever_the_proportion():
    p = np.unique(
        np.concatenate([np.linspace(0, 1, 301), np.geomspace(1e-5, 0.5, 150), 1 - np.geomspace(1e-5, 0.5, 150)])
    )
    for n in range(5, 201):
        k = np.arange(n + 1)
        bounds = np.array([(e.low, e.high) for e in (stats.proportion(int(count), n) for count in k)])
        missed = {
            "below": (p[:, None] < bounds[:, 0] - 1e-12) * scipy.stats.binom.pmf(k, n, p[:, None]),
            "above": (p[:, None] > bounds[:, 1] + 1e-12) * scipy.stats.binom.pmf(k, n, p[:, None]),
        }
        for side in missed.values():
            assert side.sum(axis=1).max() <= 0.025 + 1e-9, n


@pytest.mark.parametrize("n", [1, 20, 10_000])
def test_exact_upper_without_events_has_its_closed_form(n):
    bound = stats.exact_upper(0, n, 0.9)
    assert bound.high == pytest.approx(1 - 0.1 ** (1 / n))
    assert bound.low == bound.value == 0


@quick
@given(st.integers(1, 200), st.data(), levels)
def test_proportion_intervals_invariants(n, data, level):
    k = data.draw(st.integers(0, n))
    for interval in (stats.proportion, stats.exact_upper):
        estimate = interval(k, n, level)
        wider = interval(k, n, (1 + level) / 2)
        assert within(estimate, 0, 1)
        assert wider.low <= estimate.low <= estimate.high <= wider.high
    mirrored = stats.proportion(n - k, n, level)
    assert stats.proportion(k, n, level).high == pytest.approx(1 - mirrored.low, abs=1e-12)
    assert stats.exact_upper(k, n, level).high <= stats.proportion(k, n, level).high


@pytest.mark.parametrize("arguments", [(0, 0), (3, 2), (-1, 5), (1, 2, 1.0), (1, 2, 95)])
def test_proportion_refuses_impossible_arguments(arguments):
    with pytest.raises(ValueError, match=r"proportion needs|confidence level"):
        stats.proportion(*arguments)


# Two paired proportions


@pytest.mark.parametrize(
    ("cells", "level", "low", "high"),
    [
        ((4, 9, 3, 16), 0.95, -0.027, 0.390),  # Tango (1998)
        ((43, 0, 1, 0), 0.90, -0.096, 0.037),  # Tango (1998), contact lens disinfection
        ((53, 16, 8, 9), 0.95, -0.020, 0.207),  # Agresti and Min (2005)
        ((1, 1, 7, 12), 0.95, -0.517, -0.026),  # Fagerland, Lydersen and Laake (2014), Table V
    ],
)
def test_paired_difference_holds_published_score_intervals(cells, level, low, high):
    estimate = stats.paired_difference(*pair(*cells), level)
    assert estimate.low <= low + 5e-4
    assert high - 5e-4 <= estimate.high
    assert estimate.high - estimate.low <= 1.2 * (high - low)


def test_paired_difference_agrees_with_wald_on_a_large_table():
    cells = (794, 150, 86, 570)  # Agresti (1990), approval ratings; Wald: 0.04 +- 1.96 * 0.0095
    n = sum(cells)
    error = math.sqrt((150 + 86) / n - 0.04**2) / math.sqrt(n)
    estimate = stats.paired_difference(*pair(*cells))
    assert estimate.value == pytest.approx(0.04)
    assert (estimate.low, estimate.high) == pytest.approx((0.04 - 1.96 * error, 0.04 + 1.96 * error), abs=1.5e-3)


@quick
@given(tables, levels)
def test_paired_difference_invariants(cells, level):
    a, b = pair(*cells)
    of = stats.paired_difference
    estimate, swapped, wider = of(a, b, level), of(b, a, level), of(a, b, (1 + level) / 2)
    assert within(estimate, -1, 1)
    assert estimate.value == pytest.approx(a.mean() - b.mean())
    assert (estimate.low, estimate.high) == pytest.approx((-swapped.high, -swapped.low), abs=1e-9)
    assert wider.low <= estimate.low + 1e-9
    assert estimate.high <= wider.high + 1e-9


@quick
@given(tables, levels)
def test_paired_difference_excludes_zero_only_where_mcnemars_score_test_rejects(cells, level):
    _, x, y, _ = cells
    estimate = stats.paired_difference(*pair(*cells), level)
    z = scipy.stats.norm.ppf((1 + level) / 2)
    statistic = abs(x - y) / math.sqrt(x + y) if x + y else 0.0
    assert statistic > z - 1e-6 or estimate.low <= 0 <= estimate.high


@pytest.mark.parametrize("n", [1, 2, 30, 50_000])
def test_paired_difference_has_a_width_where_no_pair_disagrees(n):
    same = np.ones(n, bool)
    estimate = stats.paired_difference(same, same)
    assert estimate.high == -estimate.low
    assert estimate.high >= stats.exact_upper(0, n, 0.95).high  # more than what may have gone unseen on one side
    opposite = stats.paired_difference(same, ~same)
    assert opposite.high == 1.0
    assert opposite.low == pytest.approx(1 - estimate.high * 2, abs=0.6 / math.sqrt(n))


def every_bound(n, most):
    """The interval of every pair of counts up to ``most``: arrays [most + 1, most + 1]."""
    low, high = np.full((2, most + 1, most + 1), np.nan)
    for x, y in itertools.product(range(most + 1), repeat=2):
        if x + y <= n:
            low[x, y], high[x, y] = stats.discordant_bounds(x, y, n)
    return low, high


@pytest.mark.parametrize(
    ("n", "most"), [*((n, n) for n in (5, 7, 9, 10, 11, 12, 15, 20, 40)), (100, 32), (200, 32), (300, 32)]
)
def test_paired_difference_covers_at_its_level_by_enumeration(n, most):
    low, high = every_bound(n, most)
    x, y = np.meshgrid(np.arange(most + 1), np.arange(most + 1), indexing="ij")
    neither = np.maximum(n - x - y, 0)
    ways = gammaln(n + 1) - gammaln(x + 1) - gammaln(y + 1) - gammaln(neither + 1) - np.where(x + y > n, np.inf, 0)
    few = [mean / n for mean in (0, 0.1, 0.5, 1, 1.5, 2, 3, 4, 5, 6, 8, 10)]
    shares = few if most < n else [*few, *np.linspace(0.05, 0.99, 20)]
    for only_a, only_b in itertools.product(shares, repeat=2):
        if only_b <= only_a and only_a + only_b <= 1:
            mass = np.exp(ways + xlogy(x, only_a) + xlogy(y, only_b) + xlogy(neither, max(0, 1 - only_a - only_b)))
            difference = only_a - only_b
            inside = (low - 1e-9 <= difference) & (difference <= high + 1e-9)
            assert mass[inside].sum() + 1 - mass.sum() >= 0.95, (n, only_a, only_b)


# Inputs that decide


def test_as_many_inputs_decide_as_the_interval_itself_says():
    def unchanged(n):
        return stats.discordant_bounds(0, 0, n)

    needed = stats.inputs_to_decide(unchanged, 0.01, 300)
    assert 300 < needed < 500
    assert unchanged(needed)[1] <= 0.01 < unchanged(int(needed * 0.98))[1]
    assert stats.inputs_to_decide(unchanged, 0.02, 300) == 300
    assert stats.inputs_to_decide(stats.shrinking(0.5, 0.4, 0.7, 100), 0.6, 100) == pytest.approx(400, rel=0.01)
    assert stats.inputs_to_decide(stats.shrinking(0.5, 0.4, 0.7, 100), 0.5, 100) is None


# Quantiles


@quick
@given(
    st.lists(st.floats(-1e6, 1e6), min_size=1, max_size=300),
    st.sampled_from([0.1, 0.5, 0.9, 0.99]),
    st.sampled_from([0.9, 0.95, 0.99]),
)
def test_quantile_bounds_follow_from_the_binomial(values, q, level):
    estimate = stats.quantile(values, q, level)
    ordered, n, tail = [-math.inf, *sorted(values), math.inf], len(values), (1 - level) / 2
    below = scipy.stats.binom(n, q).cdf(np.arange(-1, n + 1))  # below[i] = P(B < i)
    low = max(i for i in range(n + 1) if below[i] <= tail)
    high = min((i for i in range(1, n + 1) if 1 - below[i] <= tail), default=n + 1)
    assert estimate.value == np.quantile(values, q)
    # Of a few values a bound can pass the interpolated sample quantile; the interval is then widened to it.
    assert (estimate.low, estimate.high) == (min(ordered[low], estimate.value), max(ordered[high], estimate.value))


@pytest.mark.parametrize(("q", "level", "n"), [(0.5, 0.95, 6), (0.9, 0.95, 36), (0.99, 0.95, 368), (0.01, 0.99, 528)])
def test_minimum_samples_is_where_both_bounds_appear(q, level, n):
    assert stats.minimum_samples(q, level) == n
    enough, short = (stats.quantile(np.arange(size), q, level) for size in (n, n - 1))
    assert math.isfinite(enough.low)
    assert math.isfinite(enough.high)
    assert math.isinf(short.high if q >= 0.5 else short.low)


def test_quantile_covers_at_its_level_whatever_the_distribution():
    rng = np.random.default_rng(13)
    truth = scipy.stats.lognorm(1).ppf(0.9)
    estimates = [stats.quantile(rng.lognormal(size=200), 0.9) for _ in range(500)]
    assert np.mean([e.low <= truth <= e.high for e in estimates]) >= 0.93


@pytest.mark.parametrize(("values", "q"), [([], 0.5), ([1.0, np.nan], 0.5), ([1.0], 0.0), ([1.0], 99)])
def test_quantile_refuses_what_has_none(values, q):
    with pytest.raises(ValueError, match=r"non-empty|finite|lies between"):
        stats.quantile(values, q)


# Timings


def test_the_ratio_of_two_series_is_inside_its_interval():
    rng = np.random.default_rng(14)
    a, b = (factor * rng.lognormal(0, 0.02, 40) for factor in (1.10, 1.0))
    ratio = stats.ratio_of_means(a, b)
    assert within(ratio, 1.08, 1.12)
    assert ratio.value == pytest.approx(a.mean() / b.mean())
    assert stats.ratio_of_means([2.0], [1.0, 1.0]) == stats.Estimate(2.0, 0.0, math.inf, 0.95, 1)


@pytest.mark.parametrize(("a", "b"), [([0.0], [1.0]), ([1.0], [-1.0]), ([np.nan], [1.0])])
def test_ratios_refuse_what_are_no_times(a, b):
    with pytest.raises(ValueError, match="positive, finite times"):
        stats.ratio_of_means(a, b)


# Many p-values


def closed_bonferroni(pvalues):
    """Adjusted p-values by closed testing: the largest Bonferroni p over all intersections holding the hypothesis."""
    m = len(pvalues)
    groups = [group for size in range(1, m + 1) for group in itertools.combinations(range(m), size)]
    return [max(min(1.0, len(g) * min(pvalues[j] for j in g)) for g in groups if i in g) for i in range(m)]


@quick
@given(st.lists(st.floats(0, 1), min_size=1, max_size=6))
def test_holm_is_closed_testing_with_bonferroni(pvalues):
    assert stats.holm(pvalues) == pytest.approx(closed_bonferroni(pvalues))


def test_holm_example_and_refusals():
    assert stats.holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    for bad in ([], [1.2], [np.nan]):
        with pytest.raises(ValueError, match=r"non-empty|p-values lie"):
            stats.holm(bad)


def test_importing_stats_leaves_scipys_parts_unloaded():
    code = "import sys, hwbench.stats; print([m for m in ('scipy.stats', 'scipy.optimize') if m in sys.modules])"
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.strip() == "[]"
