"""Checks of the files that users name, made before anything opens them."""

from __future__ import annotations

import stat
import sys
from pathlib import Path

from hwbench.errors import InputError

_KINDS = {
    stat.S_IFIFO: "a FIFO or a pipe",
    stat.S_IFSOCK: "a socket",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFDIR: "a folder",
}


def require_file(path: Path, error: type[InputError], noun: str = "", *, most: int | None = None) -> None:
    """Refuse anything but a regular file: opening a FIFO, or reading a device, may never end.

    Links are followed. ``/dev/stdin`` is therefore accepted if a file is redirected into it, and refused if it is a pipe or a
    terminal.

    Args:
        path: The path.
        error: The exception to raise.
        noun: The noun for a missing file in the message; empty for the system's message.
        most: The largest size in bytes; None for any.

    Raises:
        InputError: Of the type ``error``: the path is missing, not a regular file, or too large.
    """
    try:
        found = path.stat()
    except OSError as cause:
        missing = noun and isinstance(cause, FileNotFoundError)
        raise error(f"{path}: " + (f"no such {noun}" if missing else f"cannot be read: {cause.strerror}")) from None
    except ValueError as cause:  # a NUL character
        raise error(f"{str(path)!r} is not a path: {cause}") from None
    if not stat.S_ISREG(found.st_mode):
        kind = _KINDS.get(stat.S_IFMT(found.st_mode), "something else")
        raise error(f"{path}: is {kind}, not a regular file; give a file that can be read more than once")
    if most is not None and found.st_size > most:
        raise error(f"{path}: has {found.st_size:,} bytes, more than the limit of {most:,}")


def require_text(path: Path, error: type[InputError]) -> None:
    """Refuse a path that is not UTF-8: runtimes, tables and reports cannot name it.

    Args:
        path: The path; a relative one is checked with the working folder.
        error: The exception to raise.

    Raises:
        InputError: Of the type ``error``.
    """
    name = str(path.absolute())
    try:
        name.encode()
    except UnicodeEncodeError:
        raise error(not_text(name)) from None


def not_text(name: str) -> str:
    """The message about a path that is not UTF-8."""
    shown = name.encode(errors="surrogateescape").decode(errors="backslashreplace")
    locale = "" if sys.getfilesystemencoding() == "utf-8" else ", or use a UTF-8 locale (LC_ALL=C.UTF-8)"
    return f"{shown}: its name is not UTF-8 here; rename it{locale}"
