from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.stats.unseen import sampled_mean
from hwbench.studies.design import PILOT, UPDATE_COST, Design


@given(
    st.integers(1, 20_000),
    st.none() | st.floats(0, 1),
    st.integers(1, 60),
    st.integers(1, 512),
    st.booleans(),
)
def test_looks_use_up_the_error_probability_and_no_more(available, limit, effort, inputs, shared):
    looks = Design(available, limit, 0.02, effort, shared=shared).looks(min(inputs, available))
    numbers = [look.draws for look in looks]
    assert numbers == sorted(set(numbers))
    for side in (0, 1):
        tails = [look.tails[side] for look in looks]
        assert sum(tails) == pytest.approx(0.025)
        assert min(tails) > 0


@pytest.mark.parametrize(("available", "limit"), [(500, 0.01), (5000, 0.01), (500, 0.05), (5000, 0.002)])
def test_a_look_comes_as_soon_as_draws_without_a_loss_show_that_the_limit_is_kept(available, limit):
    design = Design(available, limit, 0.02, 40)
    (decisive,) = [look for look in design.looks(PILOT) if look.draws == design._decisive]
    for draws, kept in ((decisive.draws, True), (decisive.draws - 1, False)):
        assert (1 - decisive.tails[1] ** (1 / draws) <= limit) == kept


def test_no_setting_costs_more_than_its_effort():
    for available in (50, 500, 5000):
        design = Design(available, 0.01, 0.02, 40)
        for inputs in (16, 64):
            if inputs <= available:
                draws = design.looks(inputs)[-1].draws
                assert draws * (UPDATE_COST + inputs) <= 40 * (UPDATE_COST + available)


def pilot(rng, between, within, inputs=16, draws=4000):
    return [rng.normal(0, between, (draws, 1)) + rng.normal(0, within, (draws, inputs))]


@pytest.mark.parametrize(("between", "within", "expected"), [(1, 1, 16), (0.1, 1.0, 32), (0.05, 1.0, 64), (0, 0, 16)])
def test_draws_run_on_the_inputs_that_cost_least(between, within, expected):
    """m = √(cost S_w² / S_b²), down to a power of two, at least one batch."""
    chosen = Design(100_000, None, 0.02, 100).inputs(pilot(np.random.default_rng(0), between, within))
    assert chosen == expected
    if between:
        least = math.sqrt(UPDATE_COST) * within / between
        assert chosen in (max(16, 2 ** math.floor(math.log2(least))), max(16, 2 ** math.ceil(math.log2(least))))


def test_many_inputs_a_draw_never_leave_too_few_draws():
    alike = pilot(np.random.default_rng(0), 0.0, 1.0)
    design = Design(1000, 0.01, 0.02, 40)
    assert design.most(design.inputs(alike)) >= design._decisive
    assert Design(1000, 0.01, 0.02, 40, per_draw=48).inputs(alike) == 48


def loss_of(losing: int, draws: int, inputs: int):
    values = np.repeat(np.arange(draws) < losing, PILOT).astype(float)
    numbers = np.repeat(np.arange(draws), PILOT)
    met = np.arange(draws * PILOT) % inputs
    return sampled_mean(values, numbers, met, (-1, 1), (0.01, 0.01), available=inputs)


def test_a_limit_is_decided_by_either_bound():
    design = Design(5000, 0.01, 0.02, 40)
    assert design.decided(loss_of(0, 500, 5000))
    assert design.decided(loss_of(200, 500, 5000))
    assert not design.decided(loss_of(2, 500, 5000))
    assert design.draws_needed(loss_of(2, 500, 5000)) > 500


def test_inputs_that_are_too_few_leave_the_width_to_reach():
    design = Design(100, 0.01, 0.05, 40)
    few, more = loss_of(0, 16, 100), loss_of(0, 400, 100)
    assert not design.decidable(few)
    assert design.draws_needed(few) is None
    assert not design.decided(few)
    assert design.decided(more)


def test_a_fixed_number_of_draws_has_one_look_over_all_inputs():
    design = Design(300, 0.01, 0.02, 40, draws=7)
    assert (design.first_inputs, design.looks(300)) == (300, [design.looks(300)[0]])
    assert (design.looks(300)[0].draws, design.looks(300)[0].tails) == (7, (pytest.approx(0.025),) * 2)
