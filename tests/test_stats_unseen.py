"""The mean over draws and inputs: coverage against analytic truths, stopping at any look, and what the bounds come down to."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest

from hwbench.stats.unseen import Sample, Sampled, sampled_mean
from hwbench.studies.design import Design

INPUTS, PER_DRAW = 500, 16
TAILS = (0.025, 0.025)


def clopper_pearson(events: int, n: int):
    """SciPy's exact 95 % interval of a proportion."""
    return binomtest(events, n).proportion_ci(0.95, "exact")


def pairs(rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
    chosen = np.argsort(rng.random((draws, INPUTS)), axis=1)[:, :PER_DRAW]
    return np.repeat(np.arange(draws), PER_DRAW), chosen.reshape(-1)


def collapsing(rate: float):
    """Some draws lose what the other 90 % of the inputs had; truth 0.9 rate."""

    def losses(rng: np.random.Generator, draws: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        return (rng.random(draws.max() + 1) < rate)[draws] & (rng.random(INPUTS) < 0.9)[inputs]

    return 0.9 * rate, losses


def sensitive(share: float):
    """Some inputs are lost under half of the draws; truth share / 2."""

    def losses(rng: np.random.Generator, draws: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        return (rng.random(INPUTS) < share)[inputs] & (rng.random(inputs.size) < 0.5)

    return share / 2, losses


def both(rate: float):
    """Rare draws lose nearly everything, and as many inputs are lost under every draw."""

    def losses(rng: np.random.Generator, draws: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        hit = (rng.random(draws.max() + 1) < rate)[draws] & (rng.random(draws.size) < 0.9)
        return hit | (rng.random(INPUTS) < rate)[inputs]

    return 1 - (1 - 0.9 * rate) * (1 - rate), losses


def product(rate: float):
    """Some inputs are lost under some draws; truth rate."""

    def losses(rng: np.random.Generator, draws: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        part = math.sqrt(rate)
        return (rng.random(draws.max() + 1) < part)[draws] & (rng.random(INPUTS) < part)[inputs]

    return rate, losses


def diffuse(rate: float):
    """Every draw loses its own share, of whichever inputs; truth rate."""

    def losses(rng: np.random.Generator, draws: np.ndarray, inputs: np.ndarray) -> np.ndarray:
        return rng.random(draws.size) < rng.beta(2, 2 / rate - 2, draws.max() + 1)[draws]

    return rate, losses


def found(losses, rng: np.random.Generator, draws: int, tails=TAILS) -> Sampled:
    numbers, inputs = pairs(rng, draws)
    values = losses(rng, numbers, inputs).astype(float)
    return sampled_mean(values, numbers, inputs, (-1, 1), tails, available=INPUTS)


WORLDS = {
    f"{make.__name__} {rate}": make(rate)
    for make, rates in {
        collapsing: (0.005, 0.02, 0.05),
        sensitive: (0.01, 0.05),
        both: (0.004, 0.02),
        product: (0.01, 0.05),
        diffuse: (0.01, 0.1),
    }.items()
    for rate in rates
}


@pytest.mark.slow
@pytest.mark.parametrize("draws", [20, 300])
@pytest.mark.parametrize("world", WORLDS.values(), ids=WORLDS)
def test_both_bounds_cover_draws_and_inputs_that_were_not_seen(world, draws):
    truth, losses = world
    rng = np.random.default_rng(draws)
    estimates = [found(losses, rng, draws).estimate for _ in range(200)]
    assert np.mean([one.high >= truth for one in estimates]) >= 0.95
    assert np.mean([one.low <= truth for one in estimates]) >= 0.95


@pytest.mark.slow
@pytest.mark.parametrize("world", [collapsing(0.02), collapsing(0.011), sensitive(0.025), diffuse(0.012)])
def test_bounds_hold_at_all_looks_at_once(world):
    """A campaign watched at every look, and stopped at the worst: no look's bound may be wrong in more than 5 % of them."""
    truth, losses = world
    rng = np.random.default_rng(0)
    looks = Design(INPUTS, 0.01, 0.02, 40).looks(PER_DRAW)
    wrong = np.zeros(2)
    for _ in range(150):
        draws, inputs = pairs(rng, looks[-1].draws)
        values = losses(rng, draws, inputs).astype(float)
        seen = [draws < look.draws for look in looks]
        estimates = [
            sampled_mean(values[s], draws[s], inputs[s], (-1, 1), look.tails, available=INPUTS).estimate
            for look, s in zip(looks, seen, strict=True)
        ]
        wrong += [min(one.high for one in estimates) < truth, max(one.low for one in estimates) > truth]
    assert (wrong / 150 <= 0.05).all(), wrong


@given(n=st.integers(1, 2000))
def test_draws_without_an_event_are_bounded_as_by_clopper_and_pearson(n):
    numbers, inputs = np.arange(n), np.arange(n) % 7
    estimate = sampled_mean(np.zeros(n), numbers, inputs, (0, 1), TAILS, available=7).estimate
    of_draws, of_inputs = (clopper_pearson(0, size).high for size in (n, min(n, 7)))
    assert estimate.high == pytest.approx(max(of_draws, of_inputs))
    assert estimate.low == estimate.value == 0


def test_draws_of_zero_and_one_are_bounded_as_by_clopper_and_pearson_where_inputs_are_alike():
    values = np.repeat(np.r_[np.ones(3), np.zeros(97)], 400)
    draws, inputs = np.repeat(np.arange(100), 400), np.tile(np.arange(400), 100)
    exact, estimate = clopper_pearson(3, 100), sampled_mean(values, draws, inputs, (0, 1), TAILS, available=400)
    assert estimate.estimate.high == pytest.approx(exact.high, rel=0.02)
    assert estimate.estimate.low == pytest.approx(exact.low, rel=0.02)


@given(st.lists(st.sampled_from([-1.0, -0.25, 0.0, 0.5, 1.0]), min_size=3, max_size=60), st.integers(1, 9))
def test_the_bounds_of_the_negative_values_are_the_negative_bounds(values, groups):
    array, draws, inputs = np.array(values), np.arange(len(values)), np.arange(len(values)) % groups
    one = sampled_mean(array, draws, inputs, (-1, 1), (0.01, 0.02), available=20).estimate
    other = sampled_mean(-array, draws, inputs, (-1, 1), (0.02, 0.01), available=20).estimate
    assert (other.low, other.high) == (pytest.approx(-one.high), pytest.approx(-one.low))
    assert -1 <= one.low <= one.value <= one.high <= 1


def test_noise_drawn_input_by_input_needs_no_draws_of_its_own():
    rng = np.random.default_rng(0)
    draws, inputs = np.repeat([0, 1], 400), np.tile(np.arange(400), 2)
    values = (rng.random(800) < 0.3).astype(float)
    apart = sampled_mean(values, draws, inputs, (0, 1), TAILS, available=400, shared=False).estimate
    together = sampled_mean(values, draws, inputs, (0, 1), TAILS, available=400).estimate
    assert apart.high - apart.low < 0.09
    assert together.high - together.low > 0.5  # two draws say next to nothing of others


def test_as_many_draws_as_are_foreseen_bring_the_bound_there():
    zeros = Sampled(Sample.of(np.zeros(50)), Sample.of(np.zeros(500)), -1, 1, TAILS, 0.95, 800, 5000)
    needed = zeros.draws_within(0.01)
    assert needed == pytest.approx(math.log(0.025) / math.log1p(-0.01), rel=0.02)
    few_inputs = Sampled(Sample.of(np.zeros(50)), Sample.of(np.zeros(200)), -1, 1, TAILS, 0.95, 800, 200)
    assert few_inputs.draws_within(0.01) is None
    assert not few_inputs.reaches(0.01)
    assert few_inputs.reaches(0.02)


@pytest.mark.parametrize(("values", "bounds"), [([], (0, 1)), ([0.5, 1.5], (0, 1)), ([-0.1], (0, 1))])
def test_values_outside_their_bounds_are_refused(values, bounds):
    places = np.arange(len(values))
    with pytest.raises(ValueError, match="expected values in"):
        sampled_mean(np.array(values), places, places, bounds, TAILS, available=3)
