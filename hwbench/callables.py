"""Users' own code, named as ``module:callable``: the only code that is ever run on their behalf."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

from hwbench.errors import InputError


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
        InputError: Not such a reference, no such module or attribute, or it is not callable.
    """
    if not is_reference(reference):
        raise error(f"{reference!r} is not of the form module:callable")
    module, _, attribute = reference.partition(":")
    here = str(Path.cwd())
    if here not in sys.path:
        sys.path.append(here)
    try:
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
