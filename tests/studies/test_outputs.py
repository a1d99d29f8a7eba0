from __future__ import annotations

import numpy as np
import pytest
import scipy

from hwbench.metrics import COSINE, MAE, R2, RMSE, TOP1, TOP5
from hwbench.studies.outputs import chunks, drop, estimate, per_sample, row

SCORES = np.array([[3, 2, 1], [1, 3, 2], [1, 2, 3], [1, 3, 2], [2, 3, 1]], np.float32)  # labels are 0 1 2 0 1


def test_values_come_from_whole_outputs_or_the_best_classes_alike(make_case, make_result):
    case = make_case()
    result = make_result({"full": SCORES, "top": np.argsort(-SCORES, axis=1).astype(np.int32)})
    assert per_sample(case, TOP1, result, "full").tolist() == [1, 1, 1, 0, 1]
    assert per_sample(case, TOP1, result, "top", top=True).tolist() == [1, 1, 1, 0, 1]
    assert per_sample(case, TOP5, result, "full").tolist() == [1, 1, 1, 1, 1]


def test_values_need_labels(make_case, make_result):
    with pytest.raises(ValueError, match="need labels"):
        per_sample(make_case(labels=None), TOP1, make_result({"golden": SCORES}), "golden")


def test_chunks_cover_all_rows_in_order(make_result):
    stored = np.arange(2500, dtype=np.float32).reshape(2500, 1)
    parts = list(chunks(make_result({"golden": stored}), "golden", 2500))
    assert [start for start, _ in parts] == [0, 1024, 2048]
    assert np.array_equal(np.concatenate([part for _, part in parts]), stored)


def test_a_proportion_has_the_exact_interval(make_case):
    found = estimate(make_case(), TOP1, np.array([1, 1, 1, 0, 1.0]))
    exact = scipy.stats.binomtest(4, 5).proportion_ci(method="exact")
    assert (found.value, found.low, found.high) == pytest.approx((0.8, exact.low, exact.high))


@pytest.mark.parametrize(
    ("metric", "values", "wanted"),
    [(RMSE, [1, 4, 0, 9, 1], np.sqrt(3)), (MAE, [1, 2, 0, 3, 1], 1.4), (R2, [1, 4, 0, 9, 1], 1 - 15 / 10)],
)
def test_other_metrics_are_aggregated_their_own_way_with_an_interval(make_case, metric, values, wanted):
    found = estimate(make_case(labels=np.arange(5.0), task="regression"), metric, np.array(values, float))
    assert found.value == pytest.approx(wanted)
    assert found.low <= found.value <= found.high


def test_a_drop_is_positive_where_the_build_is_worse_whichever_way_a_metric_points(make_case):
    good, bad = np.array([1.0, 1, 1, 1, 0]), np.array([1.0, 0, 0, 1, 0])
    assert drop(make_case(), TOP1, good, bad).whole.value == pytest.approx(0.4)
    case = make_case(labels=np.arange(5.0), task="regression")
    assert drop(case, RMSE, np.full(5, 1.0), np.full(5, 4.0)).whole.value == pytest.approx(1)
    assert drop(case, R2, np.full(5, 1.0), np.full(5, 4.0)).whole.value == pytest.approx((20 - 5) / 10)
    assert drop(case, COSINE, np.full(5, 1.0), np.full(5, 0.5)).whole.value == pytest.approx(0.5)


def test_a_row_carries_the_whole_estimate(make_case):
    found = estimate(make_case(), TOP1, np.array([1, 1, 1, 0, 1.0]))
    made = row("accuracy", "top1", found, "ratio", '{"class": 1}', "why")
    assert (made.study, made.metric, made.condition, made.unit, made.detail) == (
        "accuracy",
        "top1",
        '{"class": 1}',
        "ratio",
        "why",
    )
    assert (made.value, made.ci_low, made.ci_high, made.ci_level, made.n) == (0.8, found.low, found.high, 0.95, 5)
    assert made.status == "ok"
