"""Differences between runs, paired by input."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hwbench import stats
from hwbench.comparison import compare_runs, evaluate_gates, parse_gate
from hwbench.comparison.pairs import pair_runs
from hwbench.metrics import MAE, R2, RMSE, label_spread
from hwbench.per_input import PerInput
from hwbench.table import Row, to_frame

RIGHT = np.repeat([1.0, 0.0], [270, 30])
RECORD: dict[str, Any] = {
    "primary": "top1",
    "higher_is_better": True,
    "seed": 0,
    "data": {"sha256": "d", "n": 300, "labels": True},
    "reference": {"sha256": "r"},
    "spec": {"metric": None},
}


@dataclass
class Measured:
    """A run with the figures of one profile."""

    per_input: dict[str, PerInput]
    metrics: dict[str, float]
    record: dict[str, Any] = field(default_factory=lambda: RECORD)

    @property
    def table(self) -> pl.DataFrame:
        rows = [
            Row("accuracy", metric, value=value, ci_low=value - 0.05, ci_high=value + 0.05, profile="p")
            for metric, value in self.metrics.items()
        ]
        return to_frame(rows)

    def inputs(self, profile: str) -> PerInput | None:
        return self.per_input.get(profile)

    def launches(self, study: str, profile: str) -> pl.DataFrame | None:
        return None


def measured(values=RIGHT, outputs=None, **record):
    found = PerInput(len(values), {"top1": np.asarray(values, float)}, outputs)
    metrics = {"top1": float(np.mean(values)), "accuracy_drop": float(RIGHT.mean() - np.mean(values))}
    reference = PerInput(300, {"top1": RIGHT})
    return Measured({"p": found, "reference": reference}, metrics, {**RECORD, **record})


def regression(values, spread=None, primary="rmse"):
    found = PerInput(len(values), {name: np.asarray(values, float) for name in ("rmse", "r2", "mae")}, spread=spread)
    figures = {"rmse": float(np.sqrt(np.mean(values))), "mae": float(np.mean(values)), "r2": 0.0}
    higher = primary == "r2"
    return Measured({"p": found}, figures, {**RECORD, "primary": primary, "higher_is_better": higher})


def flipped(lost, gained=0):
    values = RIGHT.copy()
    values[:lost] = 0
    values[len(values) - gained :] = 1
    return values


def row_of(a, b, metric="top1"):
    return compare_runs(a, b).filter(pl.col("metric") == metric).to_dicts()[0]


def gate(text, a, b):
    (found,) = evaluate_gates([parse_gate(text)], compare_runs(a, b))
    return found


def test_the_difference_has_the_paired_interval_of_the_accuracy():
    row = row_of(measured(), measured(flipped(5, 2)))
    low, high = stats.discordant_bounds(2, 5, 300)
    assert (row["difference"], row["difference_low"], row["difference_high"]) == pytest.approx((-0.01, low, high))
    assert (row["paired"], row["n"], row["only_a"], row["only_b"]) == (True, 300, 5, 2)
    assert row["pairing"] == "300 inputs, right only in A 5, only in B 2"
    assert (row["a_low"], row["a_high"]) == pytest.approx((0.85, 0.95))  # each run's own interval stays


def test_the_change_of_the_drop_is_that_of_the_accuracy_where_the_references_agree():
    row = row_of(measured(), measured(flipped(18)), "accuracy_drop")
    assert (row["difference"], row["paired"], row["verdict"]) == (pytest.approx(0.06), True, "worse")
    assert row["difference_low"] > 0.01
    other = measured(flipped(18))
    other.per_input["reference"] = PerInput(300, {"top1": flipped(1)})
    row = row_of(measured(), other, "accuracy_drop")
    assert (row["paired"], row["pairing"]) == (False, "the runs' references gave different values")


def test_bit_identical_outputs_are_an_exact_zero_and_equal_answers_are_not():
    bits = np.arange(300, dtype=np.uint64)
    same = row_of(measured(outputs=bits), measured(outputs=bits))
    assert (same["difference_low"], same["difference_high"], same["verdict"]) == (0, 0, "same")
    for outputs in (bits + np.uint64(1), None):
        equal = row_of(measured(outputs=bits), measured(outputs=outputs))
        assert equal["difference"] == 0
        assert equal["difference_high"] == pytest.approx(stats.discordant_bounds(0, 0, 300)[1])
        assert equal["verdict"] == "inconclusive"


@pytest.mark.parametrize(
    ("other", "reason"),
    [
        (measured(data={"sha256": "e", "n": 300, "labels": True}), "the runs evaluated different data"),
        (replace(measured(), per_input={}), "run B kept no results per input"),
    ],
)
def test_what_cannot_be_paired_is_compared_unpaired_and_that_is_in_the_detail(other, reason):
    row = row_of(measured(), other)
    assert (row["paired"], row["pairing"]) == (False, reason)
    assert row["difference_high"] == pytest.approx(np.hypot(0.05, 0.05))
    found = gate("top1:0.01", measured(), other)
    assert found.outcome == "inconclusive"
    assert found.detail.endswith(f"; unpaired: {reason}")


def test_without_labels_runs_pair_only_with_the_same_reference():
    unlabelled = {"data": {"sha256": "d", "n": 300, "labels": False}}
    assert row_of(measured(**unlabelled), measured(**unlabelled))["paired"]
    other = row_of(measured(**unlabelled), measured(**unlabelled, reference={"sha256": "s"}))
    assert "its own reference" in other["pairing"]


@pytest.mark.parametrize(
    ("text", "lost", "gained", "outcome"),
    [
        ("top1:0.01", 18, 0, "fail"),
        ("top1:0.01", 2, 1, "inconclusive"),
        ("top1:0.03", 2, 1, "pass"),
        ("top1:0.01", 0, 9, "pass"),
        ("top1:1%", 18, 0, "fail"),
        ("top1:4%", 2, 1, "pass"),
        ("accuracy_drop:0.01", 18, 0, "fail"),
    ],
)
def test_gates_decide_on_the_paired_interval(text, lost, gained, outcome):
    found = gate(text, measured(), measured(flipped(lost, gained)))
    assert found.outcome == outcome, found.detail
    assert "; paired: 300 inputs" in found.detail
    assert "by -" not in found.detail
    assert ("would decide" in found.detail) == (outcome == "inconclusive")


def test_details_name_the_direction_of_a_change():
    assert "worse by 0.06 [0.03" in gate("top1:0.01", measured(), measured(flipped(18))).detail
    assert "better by 0.03 [0.0" in gate("top1:0.01", measured(), measured(flipped(0, 9))).detail
    assert "unchanged [-0.0126, 0.0126]" in gate("top1:0.01", measured(), measured()).detail


@settings(deadline=None, max_examples=20)
@given(st.sampled_from([RMSE, MAE, R2]), st.integers(0, 99))
def test_errors_are_paired_by_input(metric, seed):
    rng = np.random.default_rng(seed)
    labels = rng.normal(size=80)
    before = rng.exponential(size=80) ** 3  # very unequal: unpaired, a change of 2 % is not visible
    a, b = (regression(values, label_spread(labels), metric.name) for values in (before, before * 1.02))
    pair = pair_runs(a, b)["p", "accuracy", metric.name, "{}"]
    figures = [metric.aggregate(values, labels) for values in (before, before * 1.02)]
    assert pair.difference.value == pytest.approx(figures[1] - figures[0])
    worse = pair.difference.scaled(-1.0 if metric.higher_is_better else 1.0)
    assert 0 < worse.low <= worse.value <= worse.high
    mirrored = pair_runs(b, a)["p", "accuracy", metric.name, "{}"].difference
    assert mirrored.value == pytest.approx(-pair.difference.value)


def test_an_infinite_error_fails_its_gate():
    values = np.ones(40)
    found = gate("rmse:0.5", regression(values), regression(np.where(np.arange(40) == 7, np.inf, values)))
    assert found.outcome == "fail"
    assert "1 of them without a finite output" in found.detail


def test_a_users_metric_of_zeros_and_ones_is_a_proportion():
    own = {"primary": "hit", "spec": {"metric": "module:hit"}}
    runs = []
    for values in (RIGHT, flipped(18)):
        found = PerInput(300, {"hit": values})
        runs.append(Measured({"p": found}, {"hit": float(values.mean())}, {**RECORD, **own}))
    row = row_of(*runs, "hit")
    assert (row["only_a"], row["only_b"], row["verdict"]) == (18, 0, "worse")
    assert (row["difference_low"], row["difference_high"]) == pytest.approx(stats.discordant_bounds(0, 18, 300))
