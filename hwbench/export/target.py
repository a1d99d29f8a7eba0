"""From ``package.module:callable``, as named by the user, to a model object and the exporter of its framework."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import Any

from hwbench.callables import is_reference
from hwbench.errors import HwbenchError, InputError, UnavailableError
from hwbench.export.base import Exporter, exporters, summary


def load_target(target: str) -> Any:
    """The object that ``package.module:attribute`` names, modules of the current directory included.

    Raises:
        InputError: The form is another, or the module or the attribute does not exist, or importing the module failed.
        UnavailableError: The module needs a framework that is not installed.
    """
    if not is_reference(target):
        raise InputError(f"target {target!r} is not of the form package.module:callable")
    module_name, _, attribute = target.partition(":")
    with _working_directory_first():
        found: Any = _import(module_name, target)
    walked = f"module {module_name!r}"
    for name in attribute.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise InputError(f"target {target!r}: {walked} has no attribute {name!r}") from None
        walked = repr(name)
    return found


def build_model(found: Any, target: str, framework: str | None = None) -> tuple[Any, Exporter]:
    """The model that ``found`` is, or returns when called, and the exporter of its framework.

    Args:
        found: A model, or a callable without arguments that returns one.
        target: What the user calls it, for messages.
        framework: The only exporter to consider; None considers all.

    Raises:
        InputError: The call fails, or no exporter considered knows the object.
        UnavailableError: The call needs a framework that is not installed.
    """
    names = [framework] if framework else exporters.names()
    known = [exporters.get(name)() for name in names]
    exporter = _exporter_of(found, known)
    if exporter is None and callable(found):
        with _working_directory_first():
            found = _call(found, target)
        exporter = _exporter_of(found, known)
    if exporter is None:
        raise InputError(f"{target} gives a {_type_name(found)}, which is not a model of {' or '.join(names)}")
    return found, exporter


def _exporter_of(model: Any, known: Sequence[Exporter]) -> Exporter | None:
    """The exporter of the framework that the model's class is nearest to; None if it is of no known one.

    Nearest decides because one framework's models may be another's too: Keras models on torch are torch modules.
    """
    matches = (exporter for kind in type(model).__mro__ for exporter in known if exporter.recognises(kind))
    return next(matches, None)


def _import(module_name: str, target: str) -> Any:
    try:
        return import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name and f"{module_name}.".startswith(f"{error.name}."):
            raise InputError(
                f"target {target!r}: there is no module {error.name!r} in {Path.cwd()} or the Python path"
            ) from None
        raise _missing(error, target) from error
    except HwbenchError:
        raise
    except (Exception, SystemExit) as error:  # a user's module may raise anything
        raise InputError(f"target {target!r}: importing {module_name!r} failed: {summary(error)}") from error


def _call(found: Any, target: str) -> Any:
    try:
        return found()
    except HwbenchError:
        raise
    except ModuleNotFoundError as error:
        raise _missing(error, target) from error
    except (Exception, SystemExit) as error:  # a user's callable may raise anything
        raise InputError(f"{target}() failed: {summary(error)}") from error


def _missing(error: ModuleNotFoundError, target: str) -> HwbenchError:
    top = (error.name or "").partition(".")[0]
    for name in exporters.names():
        exporter = exporters.get(name)
        if exporter.package == top:
            return UnavailableError(f"{target} needs {top}, which is not installed", exporter.install)
    return InputError(f"{target} needs the package {top!r}, which is not installed")


@contextmanager
def _working_directory_first() -> Iterator[None]:
    """Resolve modules from the current directory too, as ``python -m`` does."""
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        yield
    finally:
        sys.path.remove(here)


def _type_name(found: Any) -> str:
    kind = type(found)
    return kind.__qualname__ if kind.__module__ == "builtins" else f"{kind.__module__}.{kind.__qualname__}"
