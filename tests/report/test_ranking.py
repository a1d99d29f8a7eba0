from __future__ import annotations

import math

from hypothesis import given
from hypothesis import strategies as st

from hwbench.report.ranking import latencies, leaders, pareto_front
from hwbench.report.summary import best, comparison
from hwbench.report.view import View
from hwbench.table import Row, condition, to_frame
from hwbench.verdict import Verdict

whole = st.integers(0, 8)
intervals = st.tuples(whole, whole).map(lambda pair: (float(min(pair)), float(max(pair))))


def latency(profile, value, half, ratio=None):
    rows = [
        Row("latency", "p50_ms", condition(batch=1), value, "ms", value - half, value + half, 0.95, 5, profile=profile)
    ]
    if ratio is not None:
        setting = condition(batch=1, to="a")
        rows.append(
            Row("latency", "p50_ratio", setting, ratio, "ratio", ratio - 0.02, ratio + 0.02, 0.95, 5, profile=profile)
        )
    return rows


def view(*groups):
    rows = [row for group in groups for row in group]
    names = dict.fromkeys(row.profile for row in rows)
    passed = [Verdict(name, "max_p99_ms", "pass", 50.0, "latency", "p99_ms") for name in names]
    return View({}, to_frame(rows), passed)


def test_profiles_whose_intervals_overlap_share_the_lead():
    rows = [row for group in (latency("a", 1.0, 0.1), latency("b", 1.15, 0.1), latency("c", 2.0, 0.1)) for row in group]
    assert leaders(rows, lower_is_better=True) == ["a", "b"]
    assert leaders(rows, lower_is_better=False) == ["c"]


def test_ratios_distinguish_what_a_drifting_machine_blurs():
    run = view(latency("a", 1.0, 0.5), latency("b", 0.9, 0.5, ratio=0.9), latency("c", 1.5, 0.5, ratio=1.5))
    assert leaders(list(latencies(run, run.profiles).values()), lower_is_better=True) == ["b"]
    assert ("fastest", "b", "0.90 ms") in best(run)
    without = view(latency("a", 1.0, 0.5), latency("b", 0.9, 0.5), latency("c", 1.5, 0.5))
    assert not [title for title, *_ in best(without) if title == "fastest"]


def test_an_exact_figure_leads_alone():
    rows = [Row("memory", "model_bytes", value=value, profile=name) for name, value in (("a", 10.0), ("b", 11.0))]
    assert leaders(rows, lower_is_better=True) == ["a"]


def test_a_figure_that_nothing_bounds_is_apart_from_none():
    open_ended = Row("latency", "p50_ms", condition(batch=1), 9.0, "ms", 0.0, math.inf, 0.95, 5, profile="b")
    assert leaders([*latency("a", 1.0, 0.1), open_ended], lower_is_better=True) == ["a", "b"]


@given(st.dictionaries(st.sampled_from("abcdefgh"), st.tuples(intervals, whole), min_size=1), st.booleans())
def test_a_point_leaves_the_front_only_for_one_that_is_known_to_be_faster_and_no_worse(points, falls):
    front = pareto_front(points, falls=falls)
    sign = -1 if falls else 1
    for name, ((low, _), quality) in points.items():
        dominating = [o for o, ((_, high), q) in points.items() if high < low and sign * q >= sign * quality]
        assert (name in front) == (not dominating)
    assert front


def test_the_ratio_is_beside_the_latency_and_the_baseline_is_named():
    run = View({"baseline": "a"}, to_frame([*latency("a", 1.0, 0.1), *latency("b", 0.9, 0.1, ratio=0.9)]), [])
    cells = {row[0].text: row[-1] for row in comparison(run).rows}
    assert cells["a"].notes[-1] == "the ratios' baseline"
    assert cells["b"].notes[-1] == "0.900 [0.880, 0.920] × a"
