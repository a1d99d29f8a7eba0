"""Users' own code, named as ``module:callable``: the only code that is ever run on their behalf."""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from hwbench.errors import HwbenchError, InputError


def is_reference(text: str) -> bool:
    """Whether a text reads as ``module:callable`` and not as a path."""
    module, colon, attribute = text.partition(":")
    return bool(colon) and all(part.isidentifier() for part in (*module.split("."), *attribute.split(".")))


def load_callable(reference: str, error: type[InputError] = InputError) -> Callable[..., Any]:
    """Import what ``module:callable`` names; modules in the current folder are found too.

    Args:
        reference: ``package.module:callable``.
        error: What to raise where it cannot be had.

    Raises:
        InputError: Not such a reference, no such module or attribute, importing it fails, or it is not callable.
    """
    if not is_reference(reference):
        raise error(f"{reference!r} is not of the form module:callable")
    module, _, attribute = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
        with foreign_code(f"importing {module!r}", error, (ImportError,)):
            found: Any = import_module(module)
        for part in attribute.split("."):
            found = getattr(found, part)
    except (ImportError, AttributeError) as cause:
        raise error(
            f"{reference!r} cannot be loaded: {cause}; modules are sought in {here} and among installed packages"
        ) from cause
    if not callable(found):
        raise error(f"{reference!r} is not callable but of type {type(found).__name__}")
    loaded: Callable[..., Any] = found
    return loaded


@contextmanager
def foreign_code(
    action: str, error: type[InputError] = InputError, passed: tuple[type[Exception], ...] = ()
) -> Iterator[None]:
    """Turn whatever a user's code raises, ``sys.exit`` included, into an error that names the code and the line.

    Args:
        action: The call in words, e.g. ``"the metric 'mine:f'"``.
        error: Class of the exception.
        passed: Exceptions that are not touched; those of hwbench never are.
    """
    kept: tuple[type[Exception], ...] = (HwbenchError, *passed)
    try:
        yield
    except kept:
        raise
    except (Exception, SystemExit) as cause:
        summary = " ".join(f"{type(cause).__name__}: {_text(cause)}".split())[:300]
        raise error(f"{action} failed: {summary}{_line(cause)}; correct it and run again") from cause


def _text(cause: BaseException) -> str:
    try:
        return str(cause)
    except Exception as second:  # noqa: BLE001  a user's exception whose text cannot be made
        return f"(its message raised {type(second).__name__})"


def _line(cause: BaseException) -> str:
    """The innermost line that is neither hwbench's call nor a library's."""
    frames = traceback.extract_tb(cause.__traceback__)[1:]
    frames = [one for one in frames if "site-packages" not in one.filename and not one.filename.startswith("<")]
    return f" ({Path(frames[-1].filename).name}, line {frames[-1].lineno})" if frames else ""
