from __future__ import annotations

import json

import numpy as np
import polars as pl
import pytest
from models import mlp

from hwbench.faults.listing import SCHEMA
from hwbench.faults.sampling import Stratified, Uniform
from hwbench.faults.space import FaultSpace
from hwbench.stats.campaign import bounded_mean
from hwbench.studies.campaign_rows import campaign_rows, loss_rows, verification_rows
from hwbench.worker.outcomes import COLUMNS, MAX_LOSS
from hwbench.worker.perturb import stored_initializers
from hwbench.worker.protocol import JobResult

SPACE = FaultSpace.of(mlp(), stored_initializers(mlp()))
FAULTS = [("w2", 0, 30), ("w1", 0, 30), ("w1", 1, 30), ("b1", 0, 2), ("w1", 2, 5)]
# changed, due, top5, confidence 10 and 20, lost, won; each of ten inputs
OUTCOMES = [
    (4, 0, 1, 3, 2, 4, 1),
    (0, 10, 0, 0, 0, 8, 0),
    (2, 0, 0, 1, 0, 1, 1),
    (0, 0, 0, 0, 0, 0, 0),
    (6, 1, 2, 5, 4, 2, 0),
]


@pytest.fixture
def rows_of(make_case):
    """The figures of a campaign's trials, by metric and condition."""

    def make(labels=(0, 1, 2, 0, 1), sampler=None, level=0.9, inputs=10, **changes):
        trials = pl.DataFrame(
            [(name, element, bit, "flip", 1, 0) for name, element, bit in FAULTS], schema=SCHEMA, orient="row"
        )
        counts = np.array([(inputs, *outcome) for outcome in OUTCOMES])
        case = make_case(labels, **changes)
        found = campaign_rows(case, level, SPACE, trials.with_row_index("trial"), counts, sampler)
        assert len({(row.metric, row.condition) for row in found}) == len(found)
        return {(row.metric, *sorted(json.loads(row.condition).items())): row for row in found}

    return make


def test_columns_are_those_the_outcomes_here_are_written_in():
    assert COLUMNS[1:] == ("n_changed", "n_due", "n_top5", "n_confidence_10", "n_confidence_20", "n_lost", "n_won")


def test_a_list_stands_for_itself(rows_of):
    rows = rows_of()
    expected = {
        ("sdc_rate",): [0.4, 0, 0.2, 0, 0.6],
        ("due_rate",): [0, 1, 0, 0, 0.1],
        ("sdc_rate", ("tensor", "w1")): [0, 0.2, 0.6],
        ("due_rate", ("tensor", "w1")): [1, 0, 0.1],
        ("sdc_rate", ("tensor", "w2")): [0.4],
        ("sdc_rate", ("bit", 30), ("format", "float32")): [0.4, 0, 0.2],
        ("sdc_rate", ("role", "weight")): [0.4, 0, 0.2, 0.6],
        ("sdc_rate", ("role", "bias")): [0],
        ("sdc_rate", ("bit", 30), ("tensor", "w1")): [0, 0.2],
        ("sdc_rate", ("margin", "top5")): [0.1, 0, 0, 0, 0.2],
        ("sdc_rate", ("margin", "confidence_10")): [0.3, 0, 0.1, 0, 0.5],
        ("sdc_rate", ("margin", "confidence_20")): [0.2, 0, 0, 0, 0.4],
    }
    for key, shares in expected.items():
        figure, row = bounded_mean(shares, 0, 1, 0.9), rows[key]
        assert (row.value, row.n) == (pytest.approx(np.mean(shares)), len(shares)), key
        assert (row.ci_low, row.ci_high, row.ci_level) == (
            pytest.approx(figure.low),
            pytest.approx(figure.high),
            0.9,
        ), key
    drop = rows[("accuracy_drop",)]
    assert drop.value == pytest.approx(np.mean([0.3, 0.8, 0, 0, 0.2]))
    assert drop.ci_low < drop.value < drop.ci_high


def test_the_rows_come_in_the_order_of_the_graph(rows_of):
    tensors = [key[1][1] for key in rows_of() if key[0] == "sdc_rate" and len(key) == 2 and key[1][0] == "tensor"]
    assert tensors == ["w1", "b1", "w2"]


def test_without_labels_or_classes_less_can_be_said(rows_of):
    assert ("accuracy_drop",) not in rows_of(labels=None)
    regression = rows_of(labels=np.zeros(5, np.float32), task="regression")
    assert ("accuracy_drop",) not in regression
    assert not [key for key in regression if "margin" in str(key)]
    assert regression[("sdc_rate",)].value == pytest.approx(0.24)


def test_a_uniform_sample_stands_for_the_space(rows_of):
    strata = list(SPACE.strata())
    rows = rows_of(sampler=Uniform(strata, n=5, level=0.9))
    assert rows[("sdc_rate",)].value == pytest.approx(0.24)
    assert rows[("due_rate",)].value == pytest.approx(0.22)
    assert ("sdc_rate", ("margin", "top5")) in rows
    tried = {name for name, _, _ in FAULTS}
    assert (
        {key[1][1] for key in rows if len(key) == 2 and key[1][0] == "tensor"}
        == tried
        != {name for (name, _), _ in strata}
    )
    assert all(row.n for row in rows.values())


def test_trials_that_count_no_input_are_left_out(make_case):
    trials = pl.DataFrame([(*fault, "flip", 1, 0) for fault in FAULTS[:2]], schema=SCHEMA, orient="row")
    counts = np.array([[0] * 8, [10, 5, 0, 0, 0, 0, 0, 0]])
    found = campaign_rows(make_case(), 0.95, SPACE, trials.with_row_index("trial"), counts, None)
    overall = next(row for row in found if (row.metric, row.condition) == ("sdc_rate", "{}"))
    assert (overall.value, overall.n) == (0.5, 1)


def checks(tmp_path, **values) -> JobResult:
    given = {
        "segmented": True,
        "golden_max_abs_diff": 0.0,
        "golden_equal": True,
        "golden_compared": 1,
        "reason": "",
        "rebuilt": 4,
    }
    return JobResult("ok", tmp_path, {"checks": {**given, **values}})


def test_what_the_engine_was_held_against_is_one_row_a_check(tmp_path):
    np.save(tmp_path / "counts.npy", np.zeros((7, 8), np.int64))
    results = {
        "stage-0-shard-00000": checks(tmp_path),
        "stage-0-shard-00001": checks(tmp_path, golden_max_abs_diff=2e-6, golden_equal=False),
        "stage-0-shard-00002": checks(tmp_path, segmented=False, reason="it mixes its inputs", rebuilt=500),
        "stage-0-shard-00003": checks(tmp_path, segmented=False, reason="it mixes its inputs", rebuilt=20),
        "verify": checks(tmp_path, segmented=False),
    }
    rows = {row.metric: row for row in verification_rows(results, agree=True)}
    assert (rows["golden_max_abs_diff"].value, rows["golden_max_abs_diff"].n) == (2e-6, 2)
    assert rows["golden_max_abs_diff"].detail == "the answers are the same on every input compared"
    assert rows["rebuilt_trials"].value == 520
    assert "it mixes its inputs" in rows["rebuilt_trials"].detail
    assert rows["verified_trials"].value == 7
    assert rows["verified_trials"].detail.endswith("with the same outcome")
    wrong = {row.metric: row for row in verification_rows(results, agree=False)}
    assert wrong.keys() == rows.keys()
    assert "same outcome" not in wrong["verified_trials"].detail


def test_an_engine_that_agrees_bit_for_bit_says_so(tmp_path):
    (row,) = verification_rows({"stage-0-shard-00000": checks(tmp_path)}, agree=True)
    assert (row.value, row.detail) == (
        0.0,
        "the segmented golden outputs that were compared are the whole build's, bit for bit",
    )


LOSSES = np.array([3.0, 0.0, -1.0, 0.0, 9.0])


def test_the_loss_that_a_fault_adds_is_over_inputs_whose_output_stays_finite(make_case):
    counts = np.array([(10, *outcome) for outcome in OUTCOMES])
    (row,) = loss_rows(make_case(), 0.9, counts, LOSSES, None)
    share = [0.3, -0.1, 0.0, 1.0]  # the second fault left no output finite, the last one nine
    expected = bounded_mean(share, -MAX_LOSS, MAX_LOSS, 0.9)
    assert (row.metric, row.unit, row.n) == ("loss_change", "nats", 4)
    assert (row.value, row.ci_low, row.ci_high) == pytest.approx((expected.value, expected.low, expected.high))
    case = make_case(labels=np.ones((5, 1), np.float32), task="regression")
    (row,) = loss_rows(case, 0.9, counts, LOSSES, Uniform(list(SPACE.strata()), n=5, level=0.9))
    assert (row.value, row.unit, row.detail[:25]) == (pytest.approx(0.3), "", "of the mean squared error")


def test_no_loss_without_labels_or_where_trials_stand_for_unequal_numbers_of_faults(make_case):
    counts = np.array([(10, *outcome) for outcome in OUTCOMES])
    assert list(loss_rows(make_case(labels=None), 0.9, counts, LOSSES, None)) == []
    assert list(loss_rows(make_case(), 0.9, counts, LOSSES, Stratified(list(SPACE.strata()), n=5, level=0.9))) == []
    assert list(loss_rows(make_case(), 0.9, counts, np.array([np.inf, 0, 0, 0, 0]), None)) == []
