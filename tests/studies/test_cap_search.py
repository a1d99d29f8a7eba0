from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from hwbench.studies.cap_search import STEP_MIB, CapSearch

TOP = 1000


def searched(search, holds):
    """The trials a search makes where ``holds`` says how the nth trial of a cap ends."""
    trials: dict[int, list[bool]] = {}
    while (cap := search.next(trials)) is not None:
        made = trials.setdefault(cap, [])
        made.append(holds(cap, len(made)))
        assert sum(map(len, trials.values())) < 100
    return trials


@given(
    need=st.integers(1, TOP),
    low=st.integers(0, TOP - STEP_MIB),
    first=st.integers(1, 2 * TOP),
    edge=st.integers(1, 4),
)
def test_the_least_cap_is_found_whatever_was_guessed_and_each_edge_tried_so_often(need, low, first, edge):
    search = CapSearch(low, first, TOP, edge)
    trials = searched(search, lambda cap, _: cap >= need)
    below, least = search.bracket(trials)
    assert below < need <= least == below + STEP_MIB
    assert len(trials[least]) == edge
    assert below == 0 or len(trials[below]) == edge


@given(chances=st.lists(st.booleans(), min_size=400, max_size=400), low=st.integers(0, 40))
def test_under_an_unsteady_cap_only_what_always_held_is_the_answer(chances, low):
    """Between 40 and 60 MiB a trial may end either way."""
    drawn = iter(chances)
    search = CapSearch(low, 64, TOP)
    trials = searched(search, lambda cap, _: cap >= 60 or (cap >= 40 and next(drawn)))
    below, least = search.bracket(trials)
    assert 40 <= least <= 60
    assert all(trials[least])
    assert len(trials[least]) == search.edge == 3
    assert not all(trials[below])
    assert all(all(made) for cap, made in trials.items() if cap >= least)


def test_where_nothing_is_enough_there_is_no_answer():
    search = CapSearch(10, 20, 64)
    trials = searched(search, lambda cap, _: False)
    assert search.bracket(trials)[1] is None
    assert max(trials) == 64


def test_few_trials_are_made():
    trials = searched(CapSearch(28, 64, 24_000), lambda cap, _: cap >= 56)
    assert sum(map(len, trials.values())) <= 10
