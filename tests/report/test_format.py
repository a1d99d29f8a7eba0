from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.report.format import exact, figure_text, interval_decimals, interval_text, number, plain, size, when, words
from hwbench.table import Row


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"),
        (-0.0, "0"),
        (1.0, "1"),
        (12, "12"),
        (0.981234, "0.981"),
        (12.345, "12.3"),
        (1234.56, "1\u202f235"),
        (1e-4, "1e-4"),
        (3.35e-5, "3.35e-5"),
        (-0.25, "−0.250"),
        (-1e-6, "−1e-6"),
        (math.inf, "∞"),
        (-math.inf, "−∞"),
        (math.nan, "not a number"),
        (2e12, "2e12"),
    ],
)
def test_numbers_have_three_significant_digits(value, text):
    assert number(value) == text


@pytest.mark.parametrize(
    ("row", "text"),
    [
        (Row("accuracy", "top1", value=0.981, unit="ratio", ci_low=0.9701, ci_high=0.9882), "0.981 [0.970, 0.988]"),
        (
            Row("latency", "p50_ms", value=0.21342, unit="ms", ci_low=0.2120, ci_high=0.2151),
            "0.2134 ms [0.2120, 0.2151]",
        ),
        (Row("latency", "p99_ms", value=0.9, unit="ms", ci_low=0.8, ci_high=math.inf), "0.900 ms [0.800, ∞]"),
        (
            Row("throughput", "samples_per_s", value=12345.6, unit="1/s", ci_low=12_000, ci_high=12_500),
            "12\u202f346/s [12\u202f000, 12\u202f500]",
        ),
        (
            Row("accuracy", "accuracy_drop", value=-0.00004, unit="ratio", ci_low=-0.004, ci_high=0.004),
            "0.0000 [−0.0040, 0.0040]",
        ),
        (Row("fidelity", "sqnr_db", value=math.inf, unit="dB"), "∞"),
        (Row("memory", "model_bytes", value=812_345, unit="bytes"), "793 KiB"),
        (Row("memory", "peak_mib", status="oom", detail="killed"), "oom"),
        (Row("bit_flips", "tolerated_ber", detail="below the grid"), "see note"),
        (
            Row("bit_flips", "sdc_rate", value=3e-5, unit="ratio", ci_low=3.63e-6, ci_high=2.49e-4),
            "3e-5 [3.63e-6, 2.49e-4]",
        ),
    ],
)
def test_figures_have_the_digits_their_interval_justifies(row, text):
    assert figure_text(row) == text


@given(value=st.floats(-1e6, 1e6), half=st.floats(1e-6, 1e3))
def test_rounding_an_interval_moves_its_bounds_by_little_of_its_width(value, half):
    decimals = interval_decimals(value - half, value + half)
    assert decimals is not None
    assert 10.0**-decimals <= 0.1 * 2 * half * 1.0001 or decimals == 0


def test_an_interval_without_width_or_bounds_has_no_digits_of_its_own():
    assert interval_decimals(0.5, 0.5) is None
    assert interval_text(None, 0.5) == ""
    assert interval_text(0.5, 0.5) == "[0.500, 0.500]"


def test_limits_keep_their_digits():
    assert [exact(value) for value in (0.01, 50.0, 0.0125, 1e-5, 20_000)] == [
        "0.01",
        "50",
        "0.0125",
        "1e-5",
        "20\u202f000",
    ]


def test_sizes_take_the_fitting_unit():
    assert [size(value) for value in (0, 512, 2048, 3 << 20, 5 << 30)] == ["0 B", "512 B", "2 KiB", "3 MiB", "5 GiB"]


def test_conditions_are_worded():
    assert words({"ber": 1e-4, "draw": "worst"}) == "bit error rate 1e-4, draw worst"
    assert words({"batch": 8, "threads": 2}) == "batch 8, threads 2"


def test_times_are_readable_and_other_text_is_kept():
    assert when("2026-11-22T14:36:05+00:00") == "2026-11-22 14:36:05 UTC"
    assert when("soon") == "soon"


@pytest.mark.parametrize("sign", ["\x00", "\x1b", "\x9b", "\u202e", "\u2066", "\ud800", "\uffff"])
def test_control_and_direction_characters_are_replaced(sign):
    assert plain(f"a{sign}b") == "a\ufffdb"


def test_ordinary_text_is_kept():
    assert plain("größe 模型 🙂\ttab\nline") == "größe 模型 🙂\ttab\nline"
