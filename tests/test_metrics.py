import math
from dataclasses import dataclass

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from hwbench import metrics
from hwbench.errors import DataError, InputError, UnknownNameError
from hwbench.metrics import COSINE, MAE, R2, RMSE, TOP1, TOP5, Fidelity, cosine, resolve_task
from hwbench.topk import topk

NUMBERS = st.floats(-1e3, 1e3, width=32)
INT, FLOAT = np.dtype("int64"), np.dtype("float32")


@dataclass(frozen=True)
class Output:
    shape: tuple
    name: str = "logits"
    dtype: str = "float32"


def samples(rng, n=60, classes=8):
    return rng.normal(size=(n, classes)).astype(np.float32), rng.integers(0, classes, n)


def test_top1_and_top5_agree_with_scikit_learn(rng):
    sklearn = pytest.importorskip("sklearn.metrics")
    scores, labels = samples(rng)
    assert TOP1.aggregate(TOP1.per_sample(scores, labels)) == sklearn.accuracy_score(labels, scores.argmax(1))
    assert TOP5.aggregate(TOP5.per_sample(scores, labels)) == pytest.approx(
        sklearn.top_k_accuracy_score(labels, scores, k=5, labels=range(8))
    )


def test_the_best_classes_are_enough(rng):
    scores, labels = samples(rng)
    for metric in (TOP1, TOP5):
        np.testing.assert_array_equal(metric.from_topk(topk(scores, 5), labels), metric.per_sample(scores, labels))
    with pytest.raises(ValueError, match="rmse needs the whole outputs"):
        RMSE.from_topk(topk(scores, 5), labels)


def test_nan_is_wrong_and_squeezed_outputs_count():
    scores = np.array([[3, 1], [np.nan, 1], [1, 3]], np.float32).reshape(3, 2, 1, 1)
    assert TOP1.per_sample(scores, np.array([0, 1, 1])).tolist() == [1, 0, 1]


@pytest.mark.parametrize("labels", [np.zeros(3), np.zeros((3, 2), int), np.zeros((3, 1))])
def test_labels_that_are_no_classes_are_refused(labels):
    with pytest.raises(DataError, match="one integer label"):
        TOP1.per_sample(np.zeros((3, 4)), labels)


@pytest.mark.parametrize("shape", [(40,), (40, 1), (40, 3)])
def test_regression_agrees_with_scikit_learn(rng, shape):
    sklearn = pytest.importorskip("sklearn.metrics")
    y = rng.normal(size=shape)
    predicted = y + rng.normal(size=shape)

    def value(metric):
        chunks = [metric.per_sample(predicted[a : a + 7], y[a : a + 7]) for a in range(0, 40, 7)]
        return metric.aggregate(np.concatenate(chunks), y)

    assert value(MAE) == pytest.approx(sklearn.mean_absolute_error(y, predicted))
    assert value(RMSE) == pytest.approx(math.sqrt(sklearn.mean_squared_error(y, predicted)))
    assert value(R2) == pytest.approx(sklearn.r2_score(y, predicted, multioutput="variance_weighted"))


def test_a_column_and_a_vector_are_the_same_regression(rng):
    y = rng.normal(size=10)
    np.testing.assert_array_equal(MAE.per_sample(y[:, None] + 1, y), MAE.per_sample(y + 1, y))


def test_regression_edges():
    y = np.array([1.0, 2.0])
    assert RMSE.aggregate(RMSE.per_sample(np.array([np.nan, 2.0]), y)) == math.inf
    assert R2.aggregate(R2.per_sample(np.array([-np.inf, 2.0]), y), y) == -math.inf
    assert math.isnan(R2.aggregate(np.zeros(2), np.ones(2)))
    assert math.isnan(MAE.aggregate(np.zeros(0)))
    with pytest.raises(DataError, match="r2 needs the labels"):
        R2.aggregate(np.zeros(2))
    with pytest.raises(DataError, match="different numbers of values"):
        RMSE.per_sample(np.zeros((2, 3)), y)
    with pytest.raises(DataError, match="3 outputs for 2 labels"):
        RMSE.per_sample(np.zeros(3), y)


def test_worsening_is_positive_where_it_gets_worse():
    assert TOP1.worsening(0.9, 0.8) == pytest.approx(0.1)
    assert RMSE.worsening(1.0, 1.5) == pytest.approx(0.5)


@given(hnp.arrays(np.float64, (4, 3), elements=NUMBERS), st.floats(0.25, 1e200))
def test_cosine_ignores_scale(values, factor):
    np.testing.assert_allclose(cosine(values * factor, values), 1.0, atol=1e-9)
    np.testing.assert_allclose(cosine(-values * factor, values), np.where((values != 0).any(1), -1.0, 1.0), atol=1e-9)


def test_cosine_edges():
    a = np.array([[0.0, 0.0], [1.0, 0.0], [np.nan, 1.0], [1.0, 0.0]])
    b = np.array([[0.0, 1.0], [0.0, 2.0], [0.0, 1.0], [1.0, 1.0]])
    np.testing.assert_allclose(COSINE.per_sample(a, b), [0, 0, 0, math.sqrt(0.5)])
    with pytest.raises(DataError, match="differ in shape"):
        cosine(a, b[:, :1])


def brier(outputs, labels):
    return ((outputs[np.arange(len(labels)), labels] - 1) ** 2).astype(np.float32)


brier.higher_is_better = False


def scalar(outputs, labels):
    return 0.5


def test_a_metric_of_the_users_own(rng):
    scores, labels = samples(rng)
    (metric,) = resolve_task(None, f"{__name__}:brier", Output((None, 8)), INT)
    assert (metric.name, metric.higher_is_better, metric.proportion) == ("brier", False, False)
    np.testing.assert_allclose(metric.per_sample(scores, labels), brier(scores, labels))
    with pytest.raises(DataError, match=r"returned float64 of shape \[\].*one number a sample, shape \[60\]"):
        metrics.custom_metric(f"{__name__}:scalar").per_sample(scores, labels)
    with pytest.raises(InputError, match="cannot be loaded"):
        metrics.custom_metric("hwbench_no_such_module:f")


@pytest.mark.parametrize(
    ("task", "metric", "shape", "labels", "expected"),
    [
        (None, None, (None, 10), INT, [TOP1, TOP5]),
        (None, None, (None, 5), INT, [TOP1]),
        (None, None, (1, 10, 1, 1), INT, [TOP1, TOP5]),
        (None, None, (None, None), INT, [TOP1]),
        (None, None, (None, 10), None, [TOP1, TOP5]),
        (None, None, (None, 10), FLOAT, [RMSE, MAE, R2]),
        (None, None, (None, 1), None, [RMSE, MAE, R2]),
        ("regression", "mae", (None, 1), INT, [MAE, RMSE, R2]),
        ("classification", "top5", (None, 10), INT, [TOP5, TOP1]),
        ("embedding", None, (None, 128), None, [COSINE]),
    ],
)
def test_the_task_is_told_by_output_and_labels(task, metric, shape, labels, expected):
    assert resolve_task(task, metric, Output(shape), labels) == expected


def test_a_task_that_cannot_be_told_says_what_to_do():
    with pytest.raises(DataError, match=r"cannot be told.*'logits'.*state the task"):
        resolve_task(None, None, Output((None, 1)), INT)
    with pytest.raises(DataError, match="one column per class"):
        resolve_task("classification", None, Output((None, 1)), INT)
    with pytest.raises(UnknownNameError, match="Did you mean 'regression'"):
        resolve_task("regresion", None, Output((None, 1)), INT)
    with pytest.raises(UnknownNameError, match="metric of the task classification 'top5'"):
        resolve_task("classification", "top5", Output((None, 3)), INT)


@given(hnp.arrays(np.float64, (6, 4), elements=NUMBERS), st.integers(1, 6))
def test_fidelity_does_not_depend_on_chunks(reference, size):
    output = np.round(reference, 1)
    whole, parts = Fidelity(), Fidelity()
    whole.add(reference, output)
    for start in range(0, 6, size):
        parts.add(reference[start : start + size], output[start : start + size])
    one, other = whole.result(), parts.result()
    assert (one.samples, one.elements, one.top1_agreement) == (other.samples, other.elements, other.top1_agreement)
    assert one.max_abs_error == other.max_abs_error == np.abs(output - reference).max()
    assert one.mean_abs_error == pytest.approx(other.mean_abs_error)
    assert one.sqnr_db == pytest.approx(other.sqnr_db)
    assert one.cosine == pytest.approx(other.cosine)


@given(st.floats(-100, 100).filter(lambda db: abs(db) > 1e-3))
def test_sqnr_is_the_ratio_of_powers(db):
    reference = np.array([[3.0, -4.0], [0.0, 5.0]])
    fidelity = Fidelity()
    fidelity.add(reference, reference * (1 + 10 ** (-db / 20)))
    assert fidelity.result().sqnr_db == pytest.approx(db, abs=1e-6)


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 40), st.just(1)), elements=st.floats(-10, 10, width=32)),
    st.integers(1, 7),
)
def test_the_cosine_of_single_numbers_is_taken_over_the_samples(reference, size):
    output = np.roll(reference, 1) + 0.5
    fidelity = Fidelity()
    for start in range(0, len(reference), size):
        fidelity.add(reference[start : start + size], output[start : start + size])
    (whole,) = cosine(output.T, reference.T)
    assert fidelity.result().cosine == pytest.approx(whole, abs=1e-9)


def test_the_cosine_of_a_scalar_output_is_not_1_whatever_it_is():
    reference = np.abs(np.random.default_rng(0).standard_normal((500, 1)))
    fidelity = Fidelity()
    fidelity.add(reference, np.random.default_rng(1).permutation(reference))
    assert fidelity.result().cosine < 0.8


def test_fidelity_edges():
    same = Fidelity()
    same.add(np.ones((2, 3)), np.ones((2, 3)))
    assert same.result().sqnr_db == math.inf
    silent = Fidelity()
    silent.add(np.zeros((2, 3)), np.ones((2, 3)))
    assert silent.result().sqnr_db == -math.inf
    empty = Fidelity().result()
    assert math.isnan(empty.cosine)
    assert math.isnan(empty.sqnr_db)
    with pytest.raises(DataError, match="shape"):
        same.add(np.ones((2, 3)), np.ones((2, 4)))


def test_values_that_are_not_finite_are_counted_and_left_out():
    fidelity = Fidelity()
    reference = np.array([[1.0, 2.0], [3.0, 1.0], [1.0, 5.0]])
    output = np.array([[np.nan, np.inf], [3.5, np.nan], [1.0, 5.0]])
    fidelity.add(reference, output)
    result = fidelity.result()
    assert (result.samples, result.elements, result.non_finite) == (3, 6, 3)
    assert result.max_abs_error == 0.5
    assert result.mean_abs_error == pytest.approx(0.5 / 3)
    assert result.sqnr_db == pytest.approx(10 * math.log10((9 + 1 + 25) / 0.25))
    assert result.cosine == pytest.approx(2 / 3)
    assert result.top1_agreement == 1


def test_outputs_without_classes_have_no_agreement():
    fidelity = Fidelity()
    fidelity.add(np.ones((2, 3, 4)), np.ones((2, 3, 4)))
    assert fidelity.result().top1_agreement is None


@pytest.fixture
def rng():
    return np.random.default_rng(7)
