from __future__ import annotations

import math

import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.comparison import COMPARISON_SCHEMA, DIRECTIONS, Figure, compare_tables, evaluate_gates, parse_gate
from hwbench.errors import InputError, UnknownNameError
from hwbench.metrics import TASKS
from hwbench.studies import studies
from hwbench.table import Row, condition, to_frame
from hwbench.verdict import RULES


def row(metric, value, low=None, high=None, study="accuracy", at="{}", profile="p", **more):
    return Row(study, metric, at, value=value, ci_low=low, ci_high=high, profile=profile, **more)


def judged(a, b, **more):
    return compare_tables(to_frame([a]), to_frame([b]), **more).to_dicts()[0]


def outcome(gate, a, b):
    (found,) = evaluate_gates([parse_gate(gate)], compare_tables(to_frame([a]), to_frame([b])))
    return found


@pytest.mark.parametrize(
    ("a", "b", "verdict"),
    [
        (row("top1", 0.90, 0.88, 0.92), row("top1", 0.97, 0.95, 0.98), "better"),
        (row("top1", 0.97, 0.95, 0.98), row("top1", 0.90, 0.88, 0.92), "worse"),
        (row("top1", 0.97, 0.95, 0.98), row("top1", 0.96, 0.94, 0.97), "inconclusive"),
        (row("top1", 0.97, 0.95, 0.98), row("top1", 0.97, 0.95, 0.98), "same"),
        (row("p50_ms", 1.0, 0.9, 1.1, "latency"), row("p50_ms", 2.0, 1.9, 2.1, "latency"), "worse"),
        (row("model_bytes", 100.0, study="memory"), row("model_bytes", 99.0, study="memory"), "better"),
        (row("sqnr_db", math.inf, study="fidelity"), row("sqnr_db", math.inf, study="fidelity"), "same"),
        (row("sqnr_db", math.inf, study="fidelity"), row("sqnr_db", 30.0, study="fidelity"), "worse"),
        (row("my_score", 0.5), row("my_score", 0.7), "better"),
        (row("mcnemar_p", 0.5), row("mcnemar_p", 0.7), "different"),
        (row("upsets", 5.0, study="radiation"), row("upsets", 7.0, study="radiation"), "different"),
        (row("top1", None, status="timeout"), row("top1", 0.9), "only in B"),
        (row("top1", 0.9), row("top1", None, status="oom"), "only in A"),
        (row("top1", None, status="unavailable"), row("top1", None, status="unavailable"), "no figure"),
    ],
)
def test_verdicts(a, b, verdict):
    assert judged(a, b)["verdict"] == verdict


def test_differences_and_ratios_are_b_against_a():
    found = judged(
        row("p50_ms", 2.0, 1.9, 2.1, "latency", unit="ms"), row("p50_ms", 3.0, 2.8, 3.3, "latency", unit="ms")
    )
    assert found["difference"] == pytest.approx(1.0)
    assert found["ratio"] == pytest.approx(1.5)
    assert found["difference_low"] == pytest.approx(1.0 - math.hypot(0.2, 0.1))
    assert found["difference_high"] == pytest.approx(1.0 + math.hypot(0.3, 0.1))
    assert (found["unit"], found["direction"]) == ("ms", "lower")


def test_rows_join_on_profile_study_metric_and_condition():
    a = to_frame(
        [
            row("top1", 0.9),
            row("top1", 0.8, at=condition(ber=1e-4), study="bit_flips"),
            row("top1", 0.7, profile="gone"),
        ]
    )
    b = to_frame([row("top1", 0.9), row("top1", 0.8, at=condition(ber=1e-3), study="bit_flips")])
    found = compare_tables(a, b)
    assert found.schema == pl.Schema(COMPARISON_SCHEMA)
    assert found["verdict"].to_list() == ["same", "only in A", "only in A", "only in B"]


def test_empty_tables_compare_to_an_empty_one():
    assert compare_tables(to_frame([]), to_frame([])).schema == pl.Schema(COMPARISON_SCHEMA)


def test_the_users_own_metric_may_fall():
    assert judged(row("loss", 0.5), row("loss", 0.7), directions={"loss": "lower"})["verdict"] == "worse"


def test_the_interval_is_newcombes_for_two_proportions():
    # Newcombe (1998), table II, method 10, example (a): 56/70 against 48/80 gives 0.0524 to 0.3339.
    def wilson(k, n):
        z = 1.959963984540054
        p, centre, spread = (
            k / n,
            (k / n + z * z / (2 * n)) / (1 + z * z / n),
            z * math.sqrt(k / n * (1 - k / n) / n + z * z / (4 * n * n)) / (1 + z * z / n),
        )
        return Figure(p, centre - spread, centre + spread)

    found = wilson(56, 70).minus(wilson(48, 80))
    assert (round(found.low, 4), round(found.high, 4)) == (0.0524, 0.3339)


def test_the_interval_covers_the_true_difference_as_often_as_it_says():
    generator, hits, trials, z = np.random.default_rng(1), 0, 4000, 1.959963984540054
    for a, b in generator.normal((3.0, 5.0), (0.5, 1.0), size=(trials, 2)):
        found = Figure(b, b - z * 1.0, b + z * 1.0).minus(Figure(a, a - z * 0.5, a + z * 0.5))
        hits += found.low <= 2.0 <= found.high
    assert 0.94 <= hits / trials <= 0.96


@given(st.lists(st.floats(-1e6, 1e6), min_size=6, max_size=6))
def test_swapping_the_runs_mirrors_the_difference(values):
    a, b = (Figure(part[1], part[0], part[2]) for part in (sorted(values[:3]), sorted(values[3:])))
    there, back = b.minus(a), a.minus(b)
    assert (there.value, there.low, there.high) == pytest.approx((-back.value, -back.high, -back.low))
    assert there.low <= there.value <= there.high


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("p99_ms:10%", ("", "p99_ms", 0.1, True)),
        ("top1:0.01", ("", "top1", 0.01, False)),
        ("bit_flips.top1:0.02", ("bit_flips", "top1", 0.02, False)),
        ("latency.p50_ms:2.5e-1%", ("latency", "p50_ms", 0.0025, True)),
        (" top1:0 ", ("", "top1", 0.0, False)),
        ("top1:.5", ("", "top1", 0.5, False)),
    ],
)
def test_gates_are_read(text, parts):
    gate = parse_gate(text)
    assert (gate.study, gate.metric, gate.limit, gate.relative) == (*parts[:2], pytest.approx(parts[2]), parts[3])


@pytest.mark.parametrize(
    "text", ["", "top1", "top1:", "top1:-1", "top1:1%%", "a.b.c:1", ":1", "top1:nan", "top1:inf", "top1=1", "top1:1 %"]
)
def test_other_text_is_refused_with_an_example(text):
    with pytest.raises(InputError, match=r"is not a gate: write \[study\.\]metric:limit"):
        parse_gate(text)


@pytest.mark.parametrize(
    ("gate", "a", "b", "expected"),
    [
        ("top1:0.01", (0.98, 0.979, 0.981), (0.978, 0.977, 0.979), "pass"),
        ("top1:0.01", (0.98, 0.979, 0.981), (0.95, 0.949, 0.951), "fail"),
        ("top1:0.01", (0.98, 0.97, 0.99), (0.97, 0.96, 0.98), "inconclusive"),
        ("top1:0.01", (0.90, 0.899, 0.901), (0.99, 0.989, 0.991), "pass"),
        ("top1:0", (0.9, None, None), (0.9, None, None), "pass"),
        ("p99_ms:10%", (1.0, 0.99, 1.01), (1.05, 1.04, 1.06), "pass"),
        ("p99_ms:10%", (1.0, 0.99, 1.01), (1.2, 1.19, 1.21), "fail"),
        ("p99_ms:10%", (1.0, 0.95, 1.05), (1.1, 1.05, 1.15), "inconclusive"),
        ("samples_per_s:10%", (1000.0, 990.0, 1010.0), (800.0, 790.0, 810.0), "fail"),
        ("samples_per_s:10%", (1000.0, 990.0, 1010.0), (950.0, 945.0, 955.0), "pass"),
        ("model_bytes:1%", (100.0, None, None), (101.0, None, None), "pass"),
        ("model_bytes:1%", (100.0, None, None), (102.0, None, None), "fail"),
        ("r2:10%", (-0.5, -0.51, -0.49), (-0.6, -0.61, -0.59), "fail"),
        ("sqnr_db:3", (math.inf, None, None), (30.0, None, None), "fail"),
        ("sqnr_db:3", (math.inf, None, None), (math.inf, None, None), "pass"),
    ],
)
def test_a_gate_takes_the_whole_interval_of_the_worsening(gate, a, b, expected):
    metric = gate.partition(":")[0]
    study = {"p99_ms": "latency", "samples_per_s": "throughput", "model_bytes": "memory", "sqnr_db": "fidelity"}.get(
        metric, "accuracy"
    )
    found = outcome(gate, row(metric, *a, study=study), row(metric, *b, study=study))
    assert found.outcome == expected, found.detail


def test_a_figure_that_is_gone_is_unavailable_not_passed():
    found = outcome("top1:0.01", row("top1", 0.9), row("top1", None, status="timeout"))
    assert (found.outcome, found.detail) == ("unavailable", "top1: only in A")


def test_gates_take_the_headline_and_the_metrics_own_study():
    rows = [
        row("top1", 0.9),
        row("top1", 0.5, at=condition(**{"class": 3})),
        row("top1", 0.4, study="bit_flips", at=condition(ber=1e-3)),
        row("top1", 0.6, study="bit_flips", at=condition(ber=1e-4)),
        row("p50_ms", 1.0, study="latency", at=condition(batch=1)),
    ]
    comparison = compare_tables(to_frame(rows), to_frame(rows))
    found = evaluate_gates([parse_gate(text) for text in ("top1:0", "bit_flips.top1:0", "p50_ms:5%")], comparison)
    assert [(one.study, one.condition) for one in found] == [
        ("accuracy", "{}"),
        ("bit_flips", condition(ber=1e-3)),
        ("bit_flips", condition(ber=1e-4)),
        ("latency", condition(batch=1)),
    ]


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("p59_ms:10%", "Did you mean 'p50_ms'"),
        ("latensy.p50_ms:1", "Did you mean 'latency'"),
        ("accuracy.p50_ms:1", "unknown metric of the study 'accuracy'"),
    ],
)
def test_unknown_names_get_the_nearest_one(gate, message):
    comparison = compare_tables(*[to_frame([row("p50_ms", 1.0, study="latency"), row("top1", 1.0)])] * 2)
    with pytest.raises(UnknownNameError, match=message):
        evaluate_gates([parse_gate(gate)], comparison)


def test_a_metric_without_a_direction_cannot_be_gated():
    with pytest.raises(InputError, match="direction of improvement of 'upsets' is unknown"):
        outcome("upsets:1", row("upsets", 1.0, study="radiation"), row("upsets", 2.0, study="radiation"))


@pytest.mark.parametrize("rule", sorted(RULES))
def test_a_gate_knows_the_direction_of_every_metric_with_an_acceptance_rule(rule):
    limited = RULES[rule]
    metrics = [metric.name for task in TASKS.values() for metric in task if metric.higher_is_better]
    wanted = "lower" if limited.at_most else "higher"
    for metric in metrics if limited.metric == "primary" else [limited.metric]:
        assert DIRECTIONS[metric] == wanted
        better, worse = (1.0, 2.0) if limited.at_most else (2.0, 1.0)
        found = [row(metric, value, study=limited.study, at=limited.condition) for value in (better, worse)]
        assert outcome(f"{limited.study}.{metric}:0.5", *found).outcome == "fail"
        assert outcome(f"{limited.study}.{metric}:0.5", *reversed(found)).outcome == "pass"


def test_a_gate_knows_the_direction_of_every_studys_headline():
    headlines = {name: studies.get(name).headline for name in studies.names()}
    assert {name for name, metric in headlines.items() if metric not in DIRECTIONS} == {"accuracy"}
    assert headlines["accuracy"] == "accuracy"  # stands for the metrics of the task
    assert all(DIRECTIONS[metric.name] for task in TASKS.values() for metric in task)
