from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from hwbench.worker.outcomes import COLUMNS, MAX_LOSS, Outcomes

TOP1 = {"kind": "top1"}


def counted(outcomes: Outcomes, trial: int = 0) -> dict[str, int]:
    """The columns of a trial that are not 0."""
    return {name: count for name, count in zip(COLUMNS, outcomes.counts[trial].tolist(), strict=True) if count}


def one(output, golden, outcome=TOP1, labels=None, **settings) -> tuple[dict[str, int], float]:
    """What one pair counts, and its error."""
    outcomes = Outcomes(1, outcome, None if labels is None else np.array([labels]), **settings)
    golden, output = np.array([golden]), np.array([output])
    outcomes.expect(np.array([0]), 0, golden)
    outcomes.pairs(np.array([0]), np.array([0]), output, golden)
    return counted(outcomes), outcomes.max_abs_error[0]


GOLDEN = [0.1, 0.2, 3.0, 0.3, 0.4, 0.5, 0.6]


@pytest.mark.parametrize(
    ("output", "columns"),
    [
        (GOLDEN, {}),
        ([0.2, 0.1, 3.0, 0.0, 0.0, 0.0, 0.0], {}),
        ([0.1, 3.5, 3.0, 0.3, 0.4, 0.5, 0.6], {"n_changed": 1, "n_confidence_10": 1, "n_confidence_20": 1}),
        ([1, 2, 0, 3, 4, 5, 6], {"n_changed": 1, "n_top5": 1, "n_confidence_10": 1, "n_confidence_20": 1}),
        ([2, 2, 2, 0, 0, 0, 0], {"n_changed": 1, "n_confidence_10": 1, "n_confidence_20": 1}),  # the first of the best
        ([0.1, 0.2, np.nan, 0.3, 0.4, 0.5, 0.6], {"n_due": 1}),
        ([0.1, 0.2, np.inf, 0.3, 0.4, 0.5, 0.6], {"n_due": 1}),
        ([0.1, -np.inf, 3.0, 0.3, 0.4, 0.5, 0.6], {"n_due": 1}),
    ],
)
def test_a_pair_is_masked_changed_or_due(output, columns):
    assert one(output, GOLDEN)[0] == {"n_inputs": 1, **columns}


@pytest.mark.parametrize(
    ("lost", "columns"),
    [
        (0.0, {}),
        (0.09, {}),
        (0.11, {"n_confidence_10": 1}),
        (0.21, {"n_confidence_10": 1, "n_confidence_20": 1}),
        (-0.1, {}),
    ],
)
@pytest.mark.parametrize("as_logits", [False, True])
def test_confidence_lost_is_in_points_of_probability(lost, columns, as_logits):
    golden, faulty = np.array([0.8, 0.15, 0.05]), np.array([0.8 - lost, 0.15 + lost, 0.05])
    if as_logits:
        golden, faulty = np.log(golden) + 7, np.log(faulty) - 2
    assert one(faulty, golden)[0] == {"n_inputs": 1, **columns}


def test_what_is_a_probability_does_not_depend_on_the_pairs_beside_it():
    golden = np.array([[0.9, 0.1], [0.9, 0.1]])
    faulty = np.array([[np.nan, 0.1], [0.85, 0.15]])
    outcomes = Outcomes(2, TOP1, None)
    outcomes.pairs(np.array([0, 1]), np.array([0, 0]), faulty, golden)
    assert counted(outcomes, 0) == {"n_due": 1}
    assert counted(outcomes, 1) == {}


def test_probabilities_that_a_fault_spoils_are_compared_as_they_are():
    assert one([0.85, 5.0], [0.9, 0.1])[0] == {"n_inputs": 1, "n_changed": 1}
    assert one([0.5, 0.1], [0.9, 0.1])[0] == {"n_inputs": 1, "n_confidence_10": 1, "n_confidence_20": 1}


@pytest.mark.parametrize(
    ("output", "label", "columns"),
    [
        ([1, 5, 0], 0, {"n_changed": 1, "n_lost": 1}),
        ([1, 5, 0], 1, {"n_changed": 1, "n_won": 1}),
        ([1, 5, 0], 2, {"n_changed": 1}),
        ([5, 1, 0], 0, {}),
        ([np.nan, 1, 0], 0, {"n_due": 1, "n_lost": 1}),
        ([np.nan, 1, 0], 1, {"n_due": 1}),
    ],
)
def test_right_answers_lost_and_won(output, label, columns):
    found, _ = one(output, [5.0, 1, 0], labels=label)
    assert {name: count for name, count in found.items() if "confidence" not in name} == {"n_inputs": 1, **columns}


@pytest.mark.parametrize(
    ("output", "columns", "error"),
    [
        ([1.0, 2.0], {}, 0.0),
        ([1.5, 2.0], {}, 0.5),
        ([1.0, 1.25], {"n_changed": 1}, 0.75),
        ([1.0, np.inf], {"n_due": 1}, np.inf),
        ([np.nan, 5.0], {"n_due": 1}, np.inf),
    ],
)
def test_without_classes_an_answer_changes_by_more_than_the_tolerance(output, columns, error):
    found = one(output, [1.0, 2.0], {"kind": "tolerance", "tolerance": 0.5})
    assert found == ({"n_inputs": 1, **columns}, error)


def test_the_largest_error_of_a_trial_is_kept():
    outcomes = Outcomes(2, TOP1, None)
    golden = np.zeros((3, 2), np.float32)
    outputs = np.array([[0.5, 0], [0, -2], [0.25, 0]], np.float32)
    outcomes.pairs(np.array([0, 0, 1]), np.array([0, 1, 0]), outputs, golden)
    assert outcomes.max_abs_error.tolist() == [2.0, 0.25]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16", "float32", "float64", "int8", "int32"])
def test_outputs_of_every_format(dtype):
    kind = np.dtype(getattr(ml_dtypes, dtype, dtype))
    golden, output = np.array([[3, 2, 1]]).astype(kind), np.array([[2, 3, 1]]).astype(kind)
    outcomes = Outcomes(1, TOP1, None)
    outcomes.expect(np.array([0]), 0, golden)
    outcomes.pairs(np.array([0]), np.array([0]), output, golden)
    assert (outcomes.counts[0, :3].tolist(), outcomes.max_abs_error[0]) == ([1, 1, 0], 1.0)


def test_outputs_may_have_trailing_axes_of_one():
    golden, output = np.array([3.0, 2.0]).reshape(1, 2, 1, 1), np.array([2.0, 3.0]).reshape(1, 2, 1, 1)
    outcomes = Outcomes(1, TOP1, None)
    outcomes.pairs(np.array([0]), np.array([0]), output, golden)
    assert outcomes.counts[0, COLUMNS.index("n_changed")] == 1


def test_masked_pairs_count_without_being_seen():
    outcomes = Outcomes(3, TOP1, None)
    golden = np.array([[1.0, 0], [0, 1], [1, 0]])
    outcomes.expect(np.array([0, 2]), 0, golden)
    outcomes.expect(np.array([0, 2]), 3, golden[:2])
    outcomes.pairs(np.array([2]), np.array([4]), np.array([[1.0, 0]]), golden[1:2])
    assert [counted(outcomes, trial).get("n_inputs", 0) for trial in range(3)] == [5, 0, 5]
    assert outcomes.counts[2, COLUMNS.index("n_changed")] == 1


def test_only_inputs_that_are_right_when_fault_free_count_if_asked():
    golden, labels = np.array([[1.0, 0], [0, 1], [1, 0], [0, 1]]), np.array([0, 0, 1, 1])
    flipped = golden[:, ::-1]
    for only_correct, columns in ((False, {"n_inputs": 4, "n_changed": 4, "n_lost": 2, "n_won": 2}),
                                  (True, {"n_inputs": 2, "n_changed": 2, "n_lost": 2})):  # fmt: skip
        outcomes = Outcomes(1, TOP1, labels, only_correct=only_correct)
        for start in (0, 2):  # two chunks: an input's number counts over all of them
            outcomes.expect(np.array([0]), start, golden[start : start + 2])
            inputs = np.arange(start, start + 2)
            outcomes.pairs(np.zeros(2, int), inputs, flipped[inputs], golden[inputs])
        found = counted(outcomes)
        assert {name: count for name, count in found.items() if "confidence" not in name} == columns


def test_only_right_inputs_cannot_be_counted_without_labels():
    with pytest.raises(ValueError, match="labels"):
        Outcomes(1, TOP1, None, only_correct=True)


def test_an_input_whose_golden_output_is_not_finite_does_not_count():
    golden = np.array([[1.0, 0], [np.nan, 1], [np.inf, 0]])
    outcomes = Outcomes(1, TOP1, None)
    outcomes.expect(np.array([0]), 0, golden)
    outcomes.pairs(np.zeros(3, int), np.arange(3), np.array([[0.0, 1], [0, 1], [np.nan, 0]]), golden)
    found = counted(outcomes)
    assert (found["n_inputs"], found["n_changed"], "n_due" in found) == (1, 1, False)
    assert outcomes.max_abs_error[0] == 1.0


def test_a_build_that_gives_nothing_is_due_and_wrong_everywhere():
    golden = np.array([[1.0, 0], [0, 1], [1, 0]])
    outcomes = Outcomes(2, TOP1, np.array([0, 1, 1]))
    outcomes.expect(np.array([1]), 0, golden)
    outcomes.lose(1, np.arange(3), golden)
    assert counted(outcomes, 1) == {"n_inputs": 3, "n_due": 3, "n_lost": 2}
    assert outcomes.max_abs_error.tolist() == [0.0, np.inf]


def test_a_trial_that_is_cleared_can_be_counted_again():
    golden = np.array([[1.0, 0]])
    outcomes = Outcomes(2, TOP1, None)
    for trial in (0, 1):
        outcomes.expect(np.array([trial]), 0, golden)
        outcomes.lose(trial, np.arange(1), golden)
    outcomes.clear(0)
    assert counted(outcomes, 0) == {}
    assert outcomes.max_abs_error.tolist() == [0.0, np.inf]
    assert counted(outcomes, 1) == {"n_inputs": 1, "n_due": 1}


def test_one_trial_may_have_many_pairs_and_pairs_of_others_between():
    outcomes = Outcomes(2, TOP1, None)
    golden = np.tile([1.0, 0], (5, 1))
    outputs = np.array([[0, 1.0], [1, 0], [0, 1], [0, 1], [np.nan, 0]])
    outcomes.pairs(np.array([0, 1, 0, 1, 0]), np.arange(5), outputs, golden)
    changed, due = COLUMNS.index("n_changed"), COLUMNS.index("n_due")
    assert outcomes.counts[:, changed].tolist() == [2, 1]
    assert outcomes.counts[:, due].tolist() == [1, 0]


# The change of loss


@pytest.mark.parametrize("as_logits", [False, True])
def test_the_loss_is_cross_entropy_summed_over_inputs(as_logits):
    golden = np.array([[0.8, 0.15, 0.05], [0.5, 0.3, 0.2], [0.1, 0.1, 0.8]])
    faulty = np.array([[0.4, 0.55, 0.05], [0.5, 0.3, 0.2], [0.1, 0.1, np.nan]])
    labels = np.array([0, 1, 2])
    outcomes = Outcomes(2, TOP1, labels)
    with np.errstate(invalid="ignore"):
        given = (np.log(faulty) - 2, np.log(golden) + 7) if as_logits else (faulty, golden)
    outcomes.pairs(np.array([1, 1, 1]), np.arange(3), *given)
    assert outcomes.loss_change == pytest.approx([0, np.log(2)])


def test_one_hopeless_input_costs_no_more_than_the_least_probability():
    outcomes = Outcomes(3, TOP1, np.array([0, 0, 9]))
    golden = np.array([[50.0, 0], [0, 50], [50, 0]])
    outcomes.pairs(np.arange(3), np.arange(3), np.array([[0, 1e30], [0, 50], [0, 50]]), golden)
    assert outcomes.loss_change == pytest.approx([MAX_LOSS, 0, 0])  # class 9 is none of the output's
    assert outcomes.record(0)["loss_change"] == pytest.approx(MAX_LOSS)


def test_without_classes_the_loss_is_the_mean_squared_error():
    kind = {"kind": "tolerance", "tolerance": 1.0}
    outputs, golden = np.array([[3.0, 0], [1, 1], [np.inf, 0]]), np.array([[1.0, 0], [1, 2], [0, 0]])
    labels = np.array([[1.0, 2], [1, 1], [0, 0]])
    outcomes = Outcomes(1, kind, labels)
    outcomes.pairs(np.zeros(3, int), np.arange(3), outputs, golden)
    assert outcomes.loss_change == pytest.approx([(4 + 4) / 2 - 4 / 2 + 0 - 1 / 2])
    for other in (np.ones((3, 5)), np.array([["a", "b"]] * 3)):
        unfit = Outcomes(1, kind, other)
        unfit.pairs(np.zeros(3, int), np.arange(3), outputs, golden)
        assert unfit.loss_change.tolist() == [0.0]


def test_no_loss_without_labels():
    outcomes = Outcomes(1, TOP1, None)
    outcomes.pairs(np.array([0]), np.array([0]), np.array([[0.0, 9]]), np.array([[9.0, 0]]))
    assert outcomes.loss_change.tolist() == [0.0]
    outcomes.loss_change[0] = np.inf
    assert outcomes.record(0)["loss_change"] is None
    outcomes.clear(0)
    assert outcomes.loss_change.tolist() == [0.0]
