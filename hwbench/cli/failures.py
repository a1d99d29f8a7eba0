"""Every exception as one message and an exit code; errors of hwbench's own leave a report file."""

from __future__ import annotations

import errno
import os
import shlex
import sys
import tempfile
import traceback
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from hwbench.cli.signals import Interrupted
from hwbench.errors import (
    EXIT_BROKEN_PIPE,
    EXIT_INPUT,
    EXIT_INTERNAL,
    EXIT_INTERRUPTED,
    EXIT_JOB,
    HwbenchError,
    JobError,
)

# Advice on errors of the operating system.
_ADVICE = {
    errno.ENOSPC: "free some space, or name a folder on another disk",
    errno.EDQUOT: "free some space, or name a folder on another disk",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "change its permissions, or name another path",
    errno.EPERM: "change its permissions, or name another path",
    errno.ENOENT: "",
    errno.ENOTDIR: "",
    errno.EISDIR: "",
    errno.EEXIST: "name another path",
    errno.ENOTEMPTY: "name another path",
    errno.ENAMETOOLONG: "use a shorter path",
    errno.ELOOP: "its links form a loop; name the file itself",
    errno.EFBIG: "raise the limit on file sizes (ulimit -f)",
    errno.EIO: "check the disk",
    errno.ENXIO: "name a regular file",
    errno.ENODEV: "name a regular file",
    errno.EMFILE: "raise the limit on open files (ulimit -n)",
    errno.ENFILE: "close other programs: the system has reached its limit on open files",
    errno.EAGAIN: "raise the limit on processes (ulimit -u)",
    errno.ETXTBSY: "wait until the program that uses it ends",
    errno.ESTALE: "mount the file system again",
}


@dataclass(frozen=True)
class Failure:
    """Message and exit code of a command that an exception ends.

    Attributes:
        code: The exit code, as documented in `hwbench.errors`.
        message: What is wrong, where, and what to do; empty if nothing is to be printed.
    """

    code: int
    message: str = ""


def explain(error: BaseException) -> Failure:
    """Return the message and exit code of any exception; an unexpected one is written to a report file."""
    if isinstance(error, KeyboardInterrupt):
        code = error.code if isinstance(error, Interrupted) else EXIT_INTERRUPTED
        return Failure(code, "interrupted: finished work is kept; --resume continues from there")
    if isinstance(error, BrokenPipeError):
        return Failure(EXIT_BROKEN_PIPE)
    if isinstance(error, HwbenchError):
        return Failure(EXIT_JOB if isinstance(error, JobError) else EXIT_INPUT, f"error: {error}")
    if isinstance(error, OSError) and error.errno in _ADVICE:
        return Failure(EXIT_INPUT, f"error: {_system_error(error)}")
    return Failure(EXIT_INTERNAL, f"error: {_internal(error)}; {_report_note(error)}")


def _system_error(error: OSError) -> str:
    """The system's message with the file's name and advice."""
    if error.filename is None:
        return _joined(f"the system refused: {error.strerror}", _ADVICE[error.errno or 0])
    return _joined(f"{os.fsdecode(error.filename)}: {error.strerror}", _ADVICE[error.errno or 0])


def _joined(*parts: str) -> str:
    return "; ".join(part for part in parts if part)


def _internal(error: BaseException) -> str:
    """One sentence on an exception that is hwbench's own fault."""
    if isinstance(error, MemoryError):
        return f"this process ran out of memory{_place(error)}. Use less data or a smaller batch, or report it"
    summary = " ".join(f"{type(error).__name__}: {error}".split())[:300]
    return f"unexpected {summary}{_place(error)}. This is a bug in hwbench"


def _place(error: BaseException) -> str:
    """The innermost line of hwbench that an exception passed."""
    frames = [frame for frame in traceback.extract_tb(error.__traceback__) if "hwbench" in Path(frame.filename).parts]
    return f" ({Path(frames[-1].filename).name}:{frames[-1].lineno})" if frames else ""


def _report_note(error: BaseException) -> str:
    file = write_report(error)
    return f"details in {file}" if file is not None else "no report could be written; --debug shows the details"


def write_report(error: BaseException) -> Path | None:
    """Write traceback, versions and command line to a new file in the user's state folder.

    Returns:
        The file; None if neither that folder nor the temporary one can be written.
    """
    text = "".join(_report(error)).encode("utf-8", errors="backslashreplace")
    name = f"hwbench-error-{datetime.now(UTC):%Y%m%dT%H%M%S}-{os.getpid()}"
    for folder in _folders():
        with suppress(OSError):
            folder.mkdir(parents=True, exist_ok=True)
            for number in range(100):
                file = folder / (f"{name}.txt" if not number else f"{name}-{number}.txt")
                with suppress(FileExistsError), file.open("xb") as stream:
                    stream.write(text)
                    return file
    return None


def _folders() -> Iterator[Path]:
    """Folders for reports, in order of preference."""
    with suppress(RuntimeError):  # a user without a home
        yield Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "hwbench"
    with suppress(OSError):  # no folder for temporary files can be written
        yield Path(tempfile.gettempdir())


def _report(error: BaseException) -> Iterator[str]:
    from hwbench import __version__
    from hwbench.host import package_versions

    yield f"hwbench {__version__}, Python {sys.version}\n"
    yield f"platform: {' '.join(os.uname())}\n"
    yield f"command: {shlex.join(sys.argv)}\n"
    yield from (f"{name}: {version}\n" for name, version in package_versions().items())
    yield "\n"
    yield from traceback.format_exception(error)
