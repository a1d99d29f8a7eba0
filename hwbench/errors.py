"""Every error hwbench raises on purpose.

    HwbenchError
    ├── InputError              what the user gave cannot be used (exit code 2)
    │   ├── ModelError          a model file or its graph
    │   ├── DataError           evaluation or calibration data
    │   ├── ProfileError        a profile, with the key path
    │   ├── SpecError           a run specification
    │   ├── RunDirectoryError   a results folder
    │   └── UnknownNameError    a name that no registry knows, with the nearest one
    ├── UnsupportedError        a backend cannot run this model, with the node or option at fault
    ├── UnavailableError        this machine lacks something, with the command that would help
    └── JobError                a worker's job ended otherwise than ok
        └── TargetLostError     the machines a run needs cannot be reached any more

A message says what is wrong, where, and what to do about it. Exit codes of the command line:

    0    no acceptance rule fails
    1    a rule fails, or a job ended in error (JobError)
    2    bad input or usage, or the system refused a file (every other HwbenchError, OSError)
    3    a required profile is unavailable
    4    a verdict is inconclusive under --strict
    70   an error of hwbench's own: any other exception, with a report file
    130  Ctrl-C; 143 and 129 for SIGTERM and SIGHUP
    141  the reader of the output closed it
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable

EXIT_JOB = 1
EXIT_INPUT = 2
EXIT_INTERNAL = 70  # EX_SOFTWARE of sysexits.h
EXIT_INTERRUPTED = 130  # 128 + SIGINT
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE


class HwbenchError(Exception):
    """Base of every error raised on purpose; shown to users without a traceback."""


class InputError(HwbenchError):
    """Something the user gave cannot be used."""


class ModelError(InputError):
    """A model file is missing, damaged, unsafe or not usable as asked."""


class DataError(InputError):
    """Evaluation or calibration data do not fit the model or are damaged."""


class ProfileError(InputError):
    """A profile is malformed or contradicts itself."""


class SpecError(InputError):
    """A run specification is malformed."""


class RunDirectoryError(InputError):
    """A results folder cannot be used as asked."""


class UnknownNameError(InputError):
    """A name that is not in a registry.

    Args:
        noun: What was looked up, e.g. ``"profile"``.
        name: The name that is not known.
        known: The names that are.
    """

    def __init__(self, noun: str, name: str, known: Iterable[str]) -> None:
        self.name = name
        self.known = sorted(known)
        near = difflib.get_close_matches(name, self.known, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        super().__init__(f"unknown {noun} {name!r}.{hint} Known: {', '.join(self.known) or 'none'}.")


class UnsupportedError(HwbenchError):
    """A backend cannot run this model with these options."""


class UnavailableError(HwbenchError):
    """This machine lacks something a backend or a target needs.

    Args:
        reason: What is missing.
        hint: The exact command or step that would help; empty if there is none.
    """

    def __init__(self, reason: str, hint: str = "") -> None:
        self.reason = reason
        self.hint = hint
        super().__init__(f"{reason} ({hint})" if hint else reason)


class JobError(HwbenchError):
    """A worker's job that a run cannot do without ended otherwise than ok."""


class TargetLostError(JobError):
    """The machines a run needs cannot be reached any more; the run can be resumed once they are back."""


def first_line(error: BaseException, most: int = 200) -> str:
    """The first line of a library's message, cut to ``most`` characters; its type if it has no message."""
    lines = str(error).strip().splitlines()
    return lines[0][:most] if lines else type(error).__name__
