"""The files that a job's worker must be able to read."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any


def files_in(params: Any) -> tuple[str, ...]:
    """Every file that a job's params name."""
    return tuple(sorted({text for text in _texts(params) if text.startswith("/") and Path(text).is_file()}))


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _texts(item)
