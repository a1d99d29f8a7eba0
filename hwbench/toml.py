"""TOML files of users: specifications and profiles, read within limits."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from hwbench.errors import InputError

_MAX_BYTES = 1 << 20
_MAX_DEPTH = 32
_MAX_INTEGER = 2**63


def read_toml(path: Path, label: str, error: type[InputError]) -> dict[str, Any]:
    """Read a TOML file.

    Args:
        path: The file.
        label: Its name in messages.
        error: Class of the exception.

    Raises:
        InputError: Of class ``error``: the file is missing, too long, not TOML, nested too deeply, or holds a number or a
        string that no setting can have.
    """
    try:
        if path.exists() and not path.is_file():
            raise error(f"{label}: not a regular file")
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as cause:
        raise error(f"{label}: cannot be read: {cause.strerror}") from None
    except ValueError:  # a NUL character in the path
        raise error(f"{label!r}: not a valid path") from None
    if len(data) > _MAX_BYTES:
        raise error(f"{label}: longer than the limit of {_MAX_BYTES >> 20} MiB")
    return parse_toml(data, label, error)


def parse_toml(data: bytes, label: str, error: type[InputError]) -> dict[str, Any]:
    """Parse TOML; arguments and errors as in `read_toml`."""
    try:
        content = tomllib.loads(data.decode("utf-8"))
    except UnicodeDecodeError:
        raise error(f"{label}: not valid TOML: not a text file in UTF-8") from None
    except RecursionError:
        raise error(f"{label}: not valid TOML: nested deeper than {_MAX_DEPTH} levels") from None
    except (ValueError, OverflowError) as cause:  # beside TOML's own: integers of thousands of digits, impossible dates
        raise error(f"{label}: not valid TOML: {cause}") from None
    _check(content, label, error)
    return content


def _check(content: dict[str, Any], label: str, error: type[InputError]) -> None:
    """Refuse values that no setting can have, level by level."""
    level: list[tuple[str, Any]] = list(content.items())
    for _ in range(_MAX_DEPTH):
        for key, value in level:
            if (isinstance(value, str) and "\0" in value) or "\0" in key:
                raise error(f"{label}: {key!r}: holds a NUL character; remove it")
            if isinstance(value, int) and not -_MAX_INTEGER <= value < _MAX_INTEGER:
                raise error(f"{label}: {key}: an integer beyond 64 bits; use a smaller one")
        level = [item for key, value in level for item in _items(key, value)]
        if not level:
            return
    raise error(f"{label}: not valid TOML: nested deeper than {_MAX_DEPTH} levels")


def _items(key: str, value: Any) -> list[tuple[str, Any]]:
    if isinstance(value, dict):
        return [(f"{key}.{name}", one) for name, one in value.items()]
    return [(f"{key}.{number}", one) for number, one in enumerate(value)] if isinstance(value, list) else []
