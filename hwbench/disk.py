"""Full and unwritable disks, named with their path."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from hwbench.errors import RunDirectoryError

_UNWRITABLE = frozenset(
    {errno.EACCES, errno.EROFS, errno.EPERM, errno.ENOTDIR, errno.ENAMETOOLONG, errno.EFBIG, errno.EIO}
)
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT})
# The C library's messages for these errors, which runtimes quote in their own.
_SIGNS = tuple(os.strerror(number) for number in (*_FULL, errno.EFBIG))
# With less free space, a worker cannot even write its result.
_LEAST_BYTES = 1 << 16


@contextmanager
def explained(path: Path, advice: str) -> Iterator[None]:
    """Turn errors of writing into messages.

    Args:
        path: The path written to, for errors that name no file.
        advice: What to do about a full disk.

    Raises:
        RunDirectoryError: The disk is full, or cannot be written.
    """
    with full_disk_named(path, advice):
        try:
            yield
        except OSError as error:
            if error.errno in _UNWRITABLE:
                raise RunDirectoryError(f"{_place(error, path)}: cannot be written: {error.strerror}") from error
            raise


@contextmanager
def full_disk_named(path: Path, advice: str) -> Iterator[None]:
    """As `explained`, for full disks only: for code that also reads the user's files."""
    try:
        yield
    except OSError as error:
        if error.errno in _FULL:
            raise RunDirectoryError(f"{_place(error, path)}: the disk is full; {advice}") from error
        raise


def require_space(folder: Path, detail: str, advice: str) -> None:
    """Raise `RunDirectoryError` if a worker failed because its disk was full.

    Args:
        folder: The job's folder.
        detail: The reason for the failure, from the worker or its exit.
        advice: What to do about it.
    """
    left = os.statvfs(folder)
    if left.f_bavail * left.f_frsize < _LEAST_BYTES or any(sign in detail for sign in _SIGNS):
        reason = f" ({detail.splitlines()[0]})" if detail else ""
        raise RunDirectoryError(f"{folder}: the disk is full{reason}; {advice}")


def _place(error: OSError, path: Path) -> object:
    """The file that could not be written; of a copy, the second one."""
    return error.filename2 or error.filename or path
