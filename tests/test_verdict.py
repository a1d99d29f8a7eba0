"""From figures and limits to verdicts, and from verdicts to an exit code."""

import math
import re
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench import stats
from hwbench.profile import Accept, Profile, TargetSpec
from hwbench.table import NO_LABELS, Row, condition
from hwbench.verdict import RULES, WORST_SLICE_DB, Verdict, exit_code, judge

LIMITED = {name for name in Accept.model_fields if name != "as_asked"}


def profile(memory_mib=None, as_asked=False, **limits):
    accept = Accept(as_asked=as_asked, **limits)
    return Profile(name="p", backend="onnxruntime", accept=accept, target=TargetSpec(memory_mib=memory_mib))


def row_for(rule, value, low=None, high=None, **more):
    at = RULES[rule]
    metric = "top1" if at.metric == "primary" else at.metric
    return Row(at.study, metric, at.condition, value=value, ci_low=low, ci_high=high, profile="p", **more)


def verdict_on(rule, limit, *rows):
    (found,) = judge(profile(**{rule: limit}), rows, "top1")
    return found


# One rule


@pytest.mark.parametrize(
    ("rule", "limit", "figure", "outcome"),
    [
        ("max_accuracy_drop", 0.01, (0.002, -0.003, 0.007), "pass"),
        ("max_accuracy_drop", 0.01, (0.02, 0.011, 0.03), "fail"),
        ("max_accuracy_drop", 0.01, (0.008, 0.002, 0.015), "inconclusive"),
        ("max_accuracy_drop", 0.01, (0.005, 0.0, 0.01), "pass"),  # touching the limit is inside it
        ("min_accuracy", 0.95, (0.97, 0.96, 0.98), "pass"),
        ("min_accuracy", 0.95, (0.90, 0.88, 0.92), "fail"),
        ("min_accuracy", 0.95, (0.95, 0.93, 0.97), "inconclusive"),
        ("min_accuracy", 0.95, (0.97, 0.95, 0.98), "pass"),
        ("max_model_mib", 2.0, (2.0 * 2**20, None, None), "pass"),
        ("max_model_mib", 2.0, (2.0 * 2**20 + 1, None, None), "fail"),
        ("max_p99_ms", 5.0, (4.0, 3.5, math.inf), "inconclusive"),
        ("max_p99_ms", 5.0, (6.0, 5.5, math.inf), "fail"),
        ("min_sqnr_db", 20.0, (math.inf, None, None), "pass"),
        ("min_tolerated_ber", 1e-4, (0.0, None, None), "fail"),
    ],
)
def test_the_whole_interval_decides(rule, limit, figure, outcome):
    found = verdict_on(rule, limit, row_for(rule, *figure, unit="u", detail="d"))
    assert found.outcome == outcome
    assert (found.value, found.ci_low, found.ci_high, found.unit, found.detail) == (*figure, "u", "d")
    assert found.limit == limit * RULES[rule].scale


numbers = st.floats(-1e6, 1e6)


def discordant(only_reference, only_build, n):
    sides = (("reference", only_reference), ("build", only_build))
    return [Row("accuracy", "discordant", condition(right=side), float(count), "count", n=n) for side, count in sides]


@pytest.mark.parametrize(
    ("only_reference", "only_build", "low", "high"), [(0, 0, 330, 440), (1, 0, 500, 1200), (3, 3, 900, 2500)]
)
def test_an_inconclusive_accuracy_rule_says_how_many_inputs_decide(only_reference, only_build, low, high):
    bounds = stats.discordant_bounds(only_reference, only_build, 300)
    row = row_for("max_accuracy_drop", (only_reference - only_build) / 300, *bounds, n=300)
    found = verdict_on("max_accuracy_drop", 0.01, row, *discordant(only_reference, only_build, 300))
    assert found.outcome == "inconclusive"
    needed = int(re.fullmatch(r"n = 300 does not decide; about (\d+) inputs like these would", found.detail)[1])
    assert low <= needed <= high
    share = needed / 300
    assert stats.discordant_bounds(only_reference * share, only_build * share, needed)[1] <= 0.01


def test_other_figures_narrow_with_the_square_root_of_the_inputs():
    found = verdict_on("min_accuracy", 0.9, row_for("min_accuracy", 0.92, 0.88, 0.95, n=100, detail="d"))
    assert found.detail == "d; n = 100 does not decide; about 400 inputs like these would"
    never = verdict_on("min_accuracy", 0.9, row_for("min_accuracy", 0.9, 0.88, 0.95, n=100))
    assert "no number of inputs would" in never.detail
    latency = verdict_on("max_p99_ms", 5.0, row_for("max_p99_ms", 4.0, 3.5, 6.0, n=100))
    assert (latency.outcome, latency.detail) == ("inconclusive", "")


@given(rule=st.sampled_from(sorted(LIMITED)), limit=numbers, ends=st.tuples(numbers, numbers, numbers).map(sorted))
def test_outcomes_are_what_every_point_of_the_interval_says(rule, limit, ends):
    low, value, high = ends
    bound = limit * RULES[rule].scale
    allowed = [point <= bound if RULES[rule].at_most else point >= bound for point in (low, high)]
    expected = "pass" if all(allowed) else "inconclusive" if any(allowed) else "fail"
    assert verdict_on(rule, limit, row_for(rule, value, low, high)).outcome == expected


@given(rule=st.sampled_from(sorted(LIMITED)), limit=numbers, value=numbers)
def test_exact_figures_are_never_inconclusive(rule, limit, value):
    assert verdict_on(rule, limit, row_for(rule, value)).outcome in ("pass", "fail")


@pytest.mark.parametrize(
    ("rows", "detail"),
    [
        ([], "the study 'accuracy' gave no accuracy_drop in this run"),
        ([row_for("min_accuracy", 0.9)], "the study 'accuracy' gave no accuracy_drop in this run"),
        (
            [row_for("max_accuracy_drop", None, status="unavailable", detail="there are no labels")],
            "there are no labels",
        ),
        ([Row("accuracy", "status", status="crash", detail="died of SIGSEGV")], "died of SIGSEGV"),
        ([row_for("max_accuracy_drop", math.nan, math.nan, math.nan)], "the study 'accuracy' gave no accuracy_drop"),
        ([replace(row_for("max_accuracy_drop", 0.0), condition='{"ber": 0.1}')], "gave no accuracy_drop"),
    ],
)
def test_a_rule_without_a_figure_is_unavailable(rows, detail):
    found = verdict_on("max_accuracy_drop", 0.01, *rows)
    assert (found.outcome, found.value) == ("unavailable", None)
    assert detail in found.detail


@pytest.mark.parametrize(
    ("agreement", "outcome"),
    [((1.0, 0.9911, 1.0), "pass"), ((0.995, 0.985, 0.999), "inconclusive"), ((0.5, 0.45, 0.55), "inconclusive")],
)
def test_without_labels_answers_that_differ_bound_the_loss_of_accuracy(agreement, outcome):
    value, low, high = agreement
    rows = [
        Row("accuracy", "accuracy", status="unavailable", detail=NO_LABELS),
        Row("fidelity", "top1_agreement", value=value, ci_low=low, ci_high=high, unit="ratio"),
    ]
    found = verdict_on("max_accuracy_drop", 0.01, *rows)
    assert (found.outcome, found.study, found.limit) == (outcome, "fidelity", 0.01)
    assert (found.value, found.ci_low, found.ci_high) == pytest.approx((1 - value, 1 - high, 1 - low))
    assert found.detail.startswith("the data have no labels: the share of answers that differ")
    assert found.detail.endswith("labels would decide") == (outcome == "inconclusive")


@pytest.mark.parametrize(
    ("error", "detail", "outcome"), [(0.0, "", "pass"), (1e-9, "", "unavailable"), (0.0, "2 values", "unavailable")]
)
def test_without_labels_outputs_equal_to_the_references_lose_nothing(error, detail, outcome):
    rows = [
        Row("accuracy", "accuracy", status="unavailable", detail=NO_LABELS),
        Row("fidelity", "max_abs_error", value=error, n=12, detail=detail),
    ]
    assert verdict_on("max_accuracy_drop", 0.01, *rows).outcome == outcome


def test_without_labels_and_classes_the_rules_that_judge_fidelity_are_named():
    found = verdict_on("max_accuracy_drop", 0.01, Row("accuracy", "accuracy", status="unavailable", detail=NO_LABELS))
    assert found.outcome == "unavailable"
    assert "min_sqnr_db" in found.detail


@pytest.mark.parametrize(
    ("interval", "outcome"), [((7.0, 6.0, 8.0), "pass"), ((2.3, 1.9, 2.8), "fail"), ((5.5, 3.0, 7.0), "inconclusive")]
)
def test_without_labels_the_worst_slice_has_a_limit_of_its_own(interval, outcome):
    value, low, high = interval
    rows = [Row("fidelity", "worst_slice_sqnr_db", value=value, ci_low=low, ci_high=high, unit="dB", n=80)]
    (found,) = judge(profile(), rows, "top1", unlabeled=True)
    assert (found.rule, found.outcome, found.limit) == ("min_worst_slice_sqnr_db", outcome, WORST_SLICE_DB)
    assert judge(profile(), rows, "top1") == []
    (lowered,) = judge(profile(min_worst_slice_sqnr_db=1.0), rows, "top1", unlabeled=True)
    assert (lowered.limit, lowered.outcome) == (1.0, "pass")


def test_a_worst_slice_that_cannot_be_judged_is_no_rule():
    rows = [Row("fidelity", "worst_slice_sqnr_db", status="unavailable", detail="TopK sorts the output's rows")]
    assert judge(profile(), rows, "top1", unlabeled=True) == []


def test_every_limit_of_a_profile_has_its_rule():
    assert set(RULES) == LIMITED
    found = judge(profile(**dict.fromkeys(LIMITED, 1.0)), [], "top1")
    assert [verdict.rule for verdict in found] == list(RULES)
    assert judge(profile(), [row_for("min_accuracy", 0.1)], "top1") == []


def test_the_primary_metric_is_the_runs_own():
    rows = [Row("accuracy", "r2", value=0.9), Row("accuracy", "top1", value=0.1)]
    (found,) = judge(profile(min_accuracy=0.5), rows, "r2")
    assert (found.metric, found.outcome) == ("r2", "pass")


def test_latency_rules_are_about_one_sample_at_a_time():
    rows = [
        Row("latency", "p99_ms", condition(batch=8), value=80.0),
        Row("latency", "p99_ms", condition(batch=1), value=4.0),
    ]
    assert verdict_on("max_p99_ms", 5.0, *rows).outcome == "pass"


# Rules without a limit


@pytest.mark.parametrize(("share", "outcome"), [(1.0, "pass"), (0.99, "fail"), (None, "unavailable")])
def test_a_build_must_run_as_asked(share, outcome):
    status = "ok" if share is not None else "unavailable"
    rows = [Row("coverage", "nodes_as_asked", value=share, status=status, detail="conv1 ran on the CPU")]
    (found,) = judge(profile(as_asked=True), rows, "top1")
    assert (found.rule, found.outcome) == ("as_asked", outcome)
    assert found.detail == "conv1 ran on the CPU"


def test_what_no_study_looked_at_is_not_judged():
    assert judge(profile(as_asked=True), [Row("accuracy", "top1", value=0.9)], "top1") == []


@pytest.mark.parametrize(
    ("status", "outcome"),
    [
        ("ok", "pass"),
        ("oom", "fail"),
        ("timeout", "unavailable"),
        ("unavailable", "unavailable"),
        (None, "unavailable"),
    ],
)
def test_a_build_must_fit_the_memory_of_its_target(status, outcome):
    at = condition(cap_mib=64)
    figure = Row("memory", "peak_mib", at, value=50.0 if status == "ok" else None, status=status or "ok", detail="why")
    uncapped = Row("memory", "peak_mib", value=90.0)
    (found,) = judge(profile(memory_mib=64), [uncapped, *([figure] if status else [])], "top1")
    assert (found.rule, found.outcome, found.limit, found.unit) == ("fits_memory", outcome, 64.0, "MiB")
    assert found.condition == at
    assert found.value == (50.0 if status == "ok" else None)
    assert found.detail == ("why" if status else "the study 'memory' made no run under the cap")


# Exit codes


def said(*outcomes):
    return [Verdict("p", "rule", outcome, 1.0, "s", "m") for outcome in outcomes]


def ended(*statuses, name="p"):
    return [Row("s", "m", status=status, profile=name) for status in statuses]


GONE = ended("unavailable", "unavailable", name="gone")


@pytest.mark.parametrize(
    ("outcomes", "rows", "how", "code"),
    [
        (["pass"], ended("ok"), {}, 0),
        (["pass", "unavailable", "inconclusive"], ended("ok", "unavailable", "skipped"), {}, 0),
        ([], [], {}, 0),
        (["pass"], ended("ok") + GONE, {}, 0),
        (["pass"], ended("ok") + GONE, {"required": ["p"]}, 0),
        (["pass"], ended("ok", "unavailable"), {"strict": True, "required": ["p"]}, 0),
        (["fail"], ended("ok"), {}, 1),
        *((["pass"], ended("ok", status), {}, 1) for status in ("error", "timeout", "oom", "crash")),
        (["pass"], ended("ok") + GONE, {"required": ["gone"]}, 3),
        (["pass"], ended("ok"), {"required": ["never-run"]}, 3),
        (["pass"], ended("ok") + GONE, {"strict": True}, 3),
        (["pass", "inconclusive"], ended("ok"), {"strict": True}, 4),
        # Precedence: 1, then 3, then 4
        (["fail", "inconclusive"], ended("ok") + GONE, {"strict": True, "required": ["gone"]}, 1),
        (["inconclusive"], ended("ok", "crash") + GONE, {"strict": True, "required": ["gone"]}, 1),
        (["inconclusive"], ended("ok") + GONE, {"strict": True}, 3),
        (["inconclusive"], ended("ok") + GONE, {"strict": True, "required": ["gone"]}, 3),
    ],
)
def test_exit_codes_and_their_precedence(outcomes, rows, how, code):
    assert exit_code(iter(said(*outcomes)), iter(rows), **how) == code
