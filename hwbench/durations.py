"""Durations as people write them: ``90``, ``"90s"``, ``"15m"``, ``"1h30m"``."""

from __future__ import annotations

import math
import re

_FORM = re.compile(r"(?=.)(?:(\d+(?:\.\d+)?)h)?(?:(\d+(?:\.\d+)?)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_duration(given: str | float) -> float:
    """Seconds of a duration.

    Args:
        given: Seconds, or hours, minutes and seconds with their units.

    Raises:
        ValueError: Another form, or no time at all.
    """
    text = str(given).replace(" ", "").lower()
    try:
        seconds = float(text)
    except ValueError:
        matched = _FORM.fullmatch(text)
        if matched is None:
            raise ValueError("a duration is seconds or of the form 90s, 15m or 1h30m") from None
        hours, minutes, rest = (float(part or 0) for part in matched.groups())
        seconds = 3600 * hours + 60 * minutes + rest
    if not 0 < seconds < math.inf:
        raise ValueError("a duration must be more than 0 seconds, and finite")
    return seconds


def format_duration(seconds: float) -> str:
    """A duration in words, e.g. ``"1 h 05 min"``, ``"6 min 00 s"``, ``"4 s"``."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours} h {minutes:02d} min"
    return f"{minutes} min {rest:02d} s" if minutes else f"{rest} s"
