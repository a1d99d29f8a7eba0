import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.durations import format_duration, parse_duration


@pytest.mark.parametrize(
    ("written", "seconds"),
    [("90", 90), (90, 90), (1.5, 1.5), ("90s", 90), ("15m", 900), ("1h30m", 5400), ("1H 30M 5s", 5405), ("0.5h", 1800)],
)
def test_every_way_to_write_a_duration(written, seconds):
    assert parse_duration(written) == seconds


@pytest.mark.parametrize("written", ["", "m", "15 minutes", "30m1h", "-5", 0, "0s", "nan", math.inf, "1e400"])
def test_what_is_no_duration_is_refused(written):
    with pytest.raises(ValueError, match="duration"):
        parse_duration(written)


@given(st.integers(1, 10**6))
def test_a_duration_in_words_reads_back(seconds):
    assert parse_duration(format_duration(seconds).replace("min", "m")) == pytest.approx(seconds, abs=59)


@pytest.mark.parametrize(("seconds", "text"), [(4.4, "4 s"), (360, "6 min 00 s"), (3900, "1 h 05 min")])
def test_durations_in_words(seconds, text):
    assert format_duration(seconds) == text
