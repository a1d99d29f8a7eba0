"""The allowlist of a backend: the runtime's own options that a profile may set.

Runtimes have options that write files, read them, or load libraries, and a profile may come from anywhere. The metadata of the
fields of a backend's options class therefore list what any profile may set. They are plain Python values, because options are
also read where hwbench is not installed:

- ``{"allowed": {KEY: VALUES}}`` on a mapping that is passed on to the runtime. Its other keys are refused, and a mapping
  without this entry takes no key at all. ``VALUES`` is a tuple of strings, a range of whole numbers, a pair of
  floats (least and greatest), a compiled pattern, or the name of the option to set instead.
- ``{"trusted_only": REASON}`` on an option that only a trusted profile may set, e.g. a folder.
"""

from __future__ import annotations

import difflib
import json
import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any

Values = tuple[str, ...] | tuple[float, float] | range | re.Pattern[str] | str
_SHOWN = 100
"""Characters of a key or value that a message repeats."""


def beyond_allowlist(options_type: type[Any], options: Mapping[str, Any]) -> dict[str, str]:
    """The options that only a trusted profile may set: key path to the reason.

    Args:
        options_type: The backend's options class.
        options: Its options, of the right types.
    """
    refused: dict[str, str] = {}
    for field in fields(options_type):
        value = options.get(field.name)
        if isinstance(value, Mapping):
            refused |= _entries(f"options.{field.name}", value, field.metadata.get("allowed", {}))
        elif value and "trusted_only" in field.metadata:
            refused[f"options.{field.name}"] = field.metadata["trusted_only"]
    return refused


def _entries(path: str, given: Mapping[str, Any], allowed: Mapping[str, Values]) -> dict[str, str]:
    refused = {}
    for key, entry in given.items():
        value = entry if isinstance(entry, str) else json.dumps(entry)
        if key not in allowed:
            near = difflib.get_close_matches(key, allowed, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            refused[f"{path}.{_shown(key)}"] = (
                f"not on the backend's allowlist{hint} Allowed: {', '.join(sorted(allowed)) or 'none'}"
            )
        elif isinstance(choice := allowed[key], str):
            refused[f"{path}.{key}"] = f"set options.{choice} instead"
        elif not _fits(value, choice):
            refused[f"{path}.{key}"] = f"takes {_described(choice)}, not '{_shown(value)}'"
    return refused


def _fits(value: str, values: Values) -> bool:
    if isinstance(values, re.Pattern):
        return bool(values.fullmatch(value))
    if isinstance(values, range):
        return value.isascii() and value.isdigit() and len(value) < 20 and int(value) in values
    if isinstance(values[0], str):
        return value in values
    least, greatest = map(float, values)
    return bool(re.fullmatch(r"\d{1,20}(\.\d{1,20})?", value, re.ASCII)) and least <= float(value) <= greatest


def _described(values: Values) -> str:
    if isinstance(values, re.Pattern):
        return f"a string like {values.pattern}"
    if isinstance(values, range):
        return f"a whole number from {values[0]} to {values[-1]}, as a string"
    if isinstance(values[0], str):
        return " or ".join(map(repr, values))
    return f"a number from {values[0]} to {values[1]}, as a string"


def _shown(text: str) -> str:
    """Return the beginning of a user's text, with control characters escaped."""
    shown = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return shown if shown.isprintable() else repr(shown)
