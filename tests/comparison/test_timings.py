"""Ratios of timings between runs."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import polars as pl
import pytest

from hwbench import stats
from hwbench.comparison import compare_runs, evaluate_gates, parse_gate
from hwbench.per_input import PerInput
from hwbench.studies.launch_series import PART_SCHEMA
from hwbench.table import Row, condition, to_frame

SPELLS = np.array([1.0, 1.6, 1.1, 1.3, 1.0])


@dataclass
class Timed:
    """A run with launches of one profile: milliseconds per launch at each batch."""

    medians: dict[int, np.ndarray]
    disturbed: tuple[int, ...] = ()
    interleaved: str | None = None
    record: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.record = {
            "primary": "top1", "higher_is_better": True, "interleaved": self.interleaved, "reference": {"sha256": "r"},
            "data": {"sha256": "d", "n": 10, "labels": True},
        }  # fmt: skip

    @property
    def table(self) -> pl.DataFrame:
        batch, medians = next(iter(self.medians.items()))
        figure = stats.over_launches(medians)
        rows = [Row("latency", "p50_ms", condition(batch=batch), figure.value, "ms", figure.low, figure.high, 0.95, 5)]
        paces = {f"b{batch}": stats.over_launches(batch * 1e3 / values) for batch, values in self.medians.items()}
        best = max(paces.values(), key=lambda pace: pace.value)
        rows.append(Row("throughput", "samples_per_s", "{}", best.value, "1/s", best.low, best.high, 0.95, 5))
        return to_frame([Row(**{**vars(row), "profile": "p"}) for row in rows])

    def inputs(self, profile: str) -> PerInput | None:
        return None

    def launches(self, study: str, profile: str) -> pl.DataFrame | None:
        batches = dict(list(self.medians.items())[:1]) if study == "latency" else self.medians
        rows = [
            {"block": block, "point": f"b{batch}", "batch": batch, "p50_ms": value, "samples_per_s": batch * 1e3 / value,
             "disturbed": block in self.disturbed}
            for batch, values in batches.items() for block, value in enumerate(values)
        ]  # fmt: skip
        return pl.DataFrame(rows, schema=PART_SCHEMA)


def compared(a, b, study="latency"):
    (row,) = compare_runs(a, b).filter(pl.col("study") == study).to_dicts()
    return row


def gate(a, b, text):
    (outcome,) = evaluate_gates([parse_gate(text)], compare_runs(a, b))
    return outcome


def test_interleaved_runs_are_paired_by_block():
    a, b = Timed({1: SPELLS}, interleaved="x"), Timed({1: 1.2 * SPELLS}, interleaved="x")
    row = compared(a, b)
    assert (row["ratio"], row["ratio_low"], row["ratio_high"]) == pytest.approx((1.2, 1.2, 1.2))
    assert row["paired"]
    assert row["verdict"] == "worse"
    assert gate(a, b, "p50_ms:10%").outcome == "fail"
    assert gate(a, b, "p50_ms:25%").outcome == "pass"
    assert "interleaved, paired over 5 blocks" in gate(a, b, "p50_ms:10%").detail


@pytest.mark.parametrize("names", [(None, None), ("x", "y"), ("x", None)])
def test_runs_measured_apart_are_compared_launch_against_launch(names):
    a, b = Timed({1: SPELLS}, interleaved=names[0]), Timed({1: 1.2 * SPELLS}, interleaved=names[1])
    row = compared(a, b)
    expected = stats.ratio_of_launches(1.2 * SPELLS, SPELLS)
    assert (row["ratio_low"], row["ratio_high"]) == pytest.approx((expected.low, expected.high))
    assert not row["paired"]
    assert row["verdict"] == "inconclusive"
    assert gate(a, b, "p50_ms:10%").outcome == "inconclusive"
    assert "measured separately, 5 and 5 launches" in gate(a, b, "p50_ms:10%").detail


def test_the_best_points_throughput_is_compared_best_to_best():
    a, b = Timed({1: SPELLS, 8: 2 * SPELLS}, interleaved="x"), Timed({1: SPELLS, 8: 9 * SPELLS}, interleaved="x")
    row = compared(a, b, "throughput")
    assert row["ratio"] == pytest.approx(0.25)  # 4,000 samples a second, then 1,000
    assert gate(a, b, "samples_per_s:10%").outcome == "fail"
    assert gate(b, a, "samples_per_s:10%").outcome == "pass"


def test_disturbed_launches_are_left_out_or_leave_the_ratio_open():
    slow = SPELLS.copy()
    slow[3] *= 9
    a = Timed({1: SPELLS}, interleaved="x")
    row = compared(a, Timed({1: slow}, disturbed=(3,), interleaved="x"))
    assert (row["ratio"], row["n"]) == (pytest.approx(1.0), 4)
    noisy = Timed({1: 5 * SPELLS}, disturbed=(0, 1, 2, 3), interleaved="x")
    assert gate(a, noisy, "p50_ms:10%").outcome == "inconclusive"
    assert "noisy" in gate(a, noisy, "p50_ms:10%").detail


def test_a_run_that_kept_no_launches_compares_by_its_intervals():
    old = Timed({1: SPELLS})
    old.launches = lambda study, profile: None
    row = compared(old, Timed({1: SPELLS}))
    assert row["ratio_low"] is None
    assert row["verdict"] == "same"
