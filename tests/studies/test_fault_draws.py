from __future__ import annotations

from collections import Counter

import numpy as np
import polars as pl
import pytest
import scipy.stats
from models import mlp

from hwbench.faults.listing import SCHEMA
from hwbench.faults.sampler import Wanted
from hwbench.faults.space import FaultSpace
from hwbench.studies.fault_draws import BLOCK, block_params, drawn, input_order
from hwbench.worker.perturb import stored_initializers

SPACE = FaultSpace.of(mlp(), stored_initializers(mlp()))
STRATUM = ("w1", 30)
FLIP = ("flip", 1)


def draw(count: int, before: int = 0, seed: int = 3, available: int = 10, **wanted: int) -> pl.DataFrame:
    return drawn(SPACE, Wanted({STRATUM: count}, **wanted), Counter({STRATUM: before}), seed, available, FLIP)


@pytest.mark.parametrize("wanted", [{}, {"inputs": 4}, {"inputs": 4, "among": 6}])
def test_draws_go_on_where_they_ended(wanted):
    assert draw(200, **wanted).equals(pl.concat([draw(70, **wanted), draw(130, before=70, **wanted)]))
    assert not draw(200, **wanted).equals(draw(200, seed=4, **wanted))
    assert draw(5, **wanted).columns == [*SCHEMA, *BLOCK]


def test_over_all_inputs_no_fault_is_drawn_twice():
    faults = draw(400)
    assert faults["element"].n_unique() == 400
    assert faults["first"].null_count() == faults["last"].null_count() == 400


def test_over_some_inputs_faults_and_inputs_are_equally_likely_and_independent():
    faults = draw(8000, inputs=4)
    elements = SPACE.tensors[[tensor.name for tensor in SPACE.tensors].index("w1")].elements
    counts = np.bincount(faults["element"].to_numpy(), minlength=elements)
    assert scipy.stats.chisquare(counts).pvalue > 1e-3
    assert faults["element"].is_duplicated().any()
    blocks = faults.group_by("first", "last").len().sort("first")
    assert blocks.select("first", "last").rows() == [(0, 4), (4, 8), (8, 10)]
    assert scipy.stats.chisquare(blocks["len"].to_numpy(), [3200, 3200, 1600]).pvalue > 1e-3
    halves = (
        faults.group_by(pl.col("element") < elements // 2, "first").len().sort("first", "element")["len"].to_numpy()
    )
    assert scipy.stats.chi2_contingency(halves.reshape(3, 2)).pvalue > 1e-3


def test_a_pilots_blocks_lie_among_the_first_inputs():
    faults = draw(500, inputs=4, among=6)
    assert set(faults.select("first", "last").rows()) == {(0, 4), (4, 6)}


def test_jobs_get_the_inputs_of_their_blocks_once():
    order = np.array([7, 3, 9, 1, 0, 2, 8, 4, 5, 6])
    trials = pl.DataFrame({"first": [8, 0, 8, None], "last": [10, 4, 10, None]}, schema=BLOCK)
    params = block_params(trials[:3], order, chunk=7)
    assert params == {"order": [7, 3, 9, 1, 5, 6], "ranges": [[4, 6], [0, 4], [4, 6]], "n": 6, "chunk": 4}
    mixed = block_params(trials, order, chunk=7)
    for (start, stop), places in zip(mixed["ranges"], [order[8:], order[:4], order[8:], order], strict=True):
        assert mixed["order"][start:stop] == places.tolist()
    assert block_params(trials[3:], order, chunk=7) == {"order": None, "ranges": None, "chunk": 7}
    assert block_params(trials[:3], order, chunk=3)["chunk"] == 3


def test_the_order_holds_every_input_that_counts_once(make_case, make_result):
    outputs = np.array([[3.0, 1, 0], [np.nan, 1, 0], [0, 1, 5], [1, np.inf, 0], [0, 2, 0]])
    case, golden = make_case(labels=(0, 0, 1, 1, 1)), make_result({"golden": outputs})
    assert sorted(input_order(case, None, only_correct=False)) == [0, 1, 2, 3, 4]
    assert sorted(input_order(case, golden, only_correct=False)) == [0, 2, 4]
    assert sorted(input_order(case, golden, only_correct=True)) == [0, 4]
    orders = {tuple(input_order(make_case(seed=seed), None, only_correct=False)) for seed in range(20)}
    assert len(orders) > 10
