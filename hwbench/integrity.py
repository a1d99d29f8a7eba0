"""Hashes that verify files of earlier runs before their use (standard library only).

A hash shows that content is unchanged since it was written. It does not show who wrote it: whoever may write to a folder may
also write matching hashes. The build cache and run directories are as trustworthy as their owner.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SEAL = "sha256_of_record"
# File systems stamp changes with a clock that ticks every few milliseconds (every 2 s at the coarsest): a file changed so
# recently may change again without a new stamp, and is hashed again at its next use.
_TICK_NS = 2_000_000_000
_known: dict[tuple[int, int], tuple[tuple[int, int, int], str]] = {}


class DamagedError(ValueError):
    """Content is not what was written."""


def file_sha256(path: Path) -> str:
    """SHA-256 of a regular file.

    A process hashes a file once for every state of it: device, inode, size, and the times of its last modification and
    status change. The status change time cannot be set, unlike the modification time.

    Raises:
        OSError: It is missing, no regular file, or cannot be read.
    """
    if not stat.S_ISREG(path.stat().st_mode):
        raise OSError(f"{path}: no regular file")  # opening a pipe would wait for its other end
    with path.open("rb") as file:
        place, state = _state(file.fileno())
        if _known.get(place, (None, ""))[0] == state:
            return _known[place][1]
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        if _state(file.fileno())[1] == state and max(state[1:]) < time.time_ns() - _TICK_NS:
            _known[place] = state, digest
    return digest


def require_intact(folder: Path, hashes: Mapping[str, str]) -> None:
    """Compare files of a folder, by name, with the hashes that they had.

    Raises:
        DamagedError: One is missing, cannot be read, or is not what was written.
    """
    for name, digest in hashes.items():
        try:
            intact = file_sha256(folder / name) == digest
        except OSError as error:
            raise DamagedError(f"{name} cannot be read: {error.strerror or error}") from error
        if not intact:
            raise DamagedError(f"{name} is not what was written")


def sealed(record: Mapping[str, Any]) -> dict[str, Any]:
    """A JSON object with a hash over the rest of it."""
    content = json.loads(json.dumps({key: value for key, value in record.items() if key != SEAL}))  # as it is read back
    return {**content, SEAL: _record_hash(content)}


def read_sealed(path: Path) -> dict[str, Any]:
    """Read a JSON object that `sealed` made.

    Raises:
        FileNotFoundError: There is none.
        DamagedError: It cannot be read, or is not what was written.
    """
    record = read_object(path)
    if record.get(SEAL) != _record_hash({key: value for key, value in record.items() if key != SEAL}):
        raise DamagedError("its content is not what was written")
    return record


def read_object(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        FileNotFoundError: There is none.
        DamagedError: It cannot be read, or holds something else.
    """
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise DamagedError("no regular file")
        record = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise
    except OSError as error:
        raise DamagedError(f"cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise DamagedError(f"not JSON: {error}") from error
    if not isinstance(record, dict):
        raise DamagedError("not a JSON object")
    return record


def _record_hash(content: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()


def _state(descriptor: int) -> tuple[tuple[int, int], tuple[int, int, int]]:
    status = os.fstat(descriptor)
    return (status.st_dev, status.st_ino), (status.st_size, status.st_mtime_ns, status.st_ctime_ns)
