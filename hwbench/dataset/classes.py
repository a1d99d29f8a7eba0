"""Class maps: the class number of each folder of an image data set."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from hwbench.errors import DataError
from hwbench.files import require_file

_MAX_BYTES = 16 << 20
_DIGITS = 18  # of a class number, an int64
_SEPARATORS = re.compile(r"[,\t]")


def class_numbers(folders: Sequence[str], classes: Mapping[str, int] | str, origin: str) -> list[int]:
    """The class number of each folder.

    Args:
        folders: The folders' names.
        classes: Folder name to class number; or the path of a labels file, in which a class's number is the number of its
            line, counted from 0, or a JSON list or object (name to number, or number to name).
        origin: The data's name in messages.

    Raises:
        DataError: The labels file cannot be read, or a folder has no number, or several.
    """
    names = _read(Path(classes), origin) if isinstance(classes, str) else classes.items()
    where = classes if isinstance(classes, str) else "data.classes"
    found: dict[str, set[int]] = {}
    for name, number in names:
        found.setdefault(name, set()).add(number)
    for folder in folders:
        numbers = sorted(found.get(folder, ()))
        if not numbers:
            raise DataError(
                f"{origin}: folder {folder!r} is not a class in {where}; add it, or move the folder elsewhere"
            )
        if len(numbers) > 1:
            raise DataError(
                f"{origin}: folder {folder!r} is the name of several classes ({', '.join(map(str, numbers))}) in {where}; "
                f"give the number: classes = {{ {folder!r} = NUMBER }}"
            )
    return [min(found[folder]) for folder in folders]


def _read(path: Path, origin: str) -> list[tuple[str, int]]:
    """All names of a labels file with their class numbers."""
    require_file(path, DataError, "labels file")
    try:
        if path.stat().st_size > _MAX_BYTES:
            raise DataError(f"{origin}: the labels file {path} is longer than {_MAX_BYTES >> 20} MiB")
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise DataError(f"{origin}: the labels file {path} cannot be read: {error.strerror}") from None
    except UnicodeDecodeError as error:
        raise DataError(f"{origin}: the labels file {path} is not UTF-8 text: {error}") from None
    if path.suffix.lower() == ".json":
        return _from_json(path, text, origin)
    lines = text.rstrip().splitlines()
    return [(name, number) for number, line in enumerate(lines) for name in _names(line)]


def _names(line: str) -> set[str]:
    """Names of a class from its line: of ``n02084071 dog, domestic dog``, the whole line, its first word and its parts."""
    whole = line.strip()
    first, _, rest = whole.partition(" ")
    parts = [part.strip() for text in (whole, rest) for part in _SEPARATORS.split(text)]
    return {whole, first.rstrip(","), *parts} - {""}


def _from_json(path: Path, text: str, origin: str) -> list[tuple[str, int]]:
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:  # beside JSON's own: integers of thousands of digits
        raise DataError(f"{origin}: the labels file {path} is not JSON: {error}") from None
    pairs: list[tuple[Any, Any]] = list(enumerate(content)) if isinstance(content, list) else []
    if isinstance(content, dict):
        pairs = [
            (value, name)
            if isinstance(value, int)
            else (int(name) if name.isdecimal() and len(name) <= _DIGITS else name, value)
            for name, value in content.items()
        ]
    found = [(name, number) for number, value in pairs for name in (value if isinstance(value, list) else [value])]
    if not found or not all(
        isinstance(name, str) and isinstance(number, int) and 0 <= number < 10**_DIGITS for name, number in found
    ):
        raise DataError(
            f"{origin}: the labels file {path} must hold a list of names, or an object of names and class numbers"
        )
    return found
