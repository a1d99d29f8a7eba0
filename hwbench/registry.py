"""The one registry mechanism: names to objects, declared as entry points and loaded when first used."""

from __future__ import annotations

from functools import cached_property
from importlib.metadata import EntryPoint, entry_points
from typing import Any, Generic, TypeVar

from hwbench.errors import InputError, UnknownNameError

T = TypeVar("T")


class Registry(Generic[T]):
    """The plugins of one entry-point group.

    Args:
        group: The entry-point group, e.g. ``"hwbench.backends"``.
        noun: What one entry is called in messages, e.g. ``"backend"``.
    """

    def __init__(self, group: str, noun: str) -> None:
        self.group = group
        self.noun = noun

    @cached_property
    def _points(self) -> dict[str, EntryPoint]:
        found: dict[str, EntryPoint] = {}
        for point in entry_points(group=self.group):
            other = found.setdefault(point.name, point)
            if other.value != point.value:
                raise InputError(
                    f"two distributions declare the {self.noun} {point.name!r}: {_origin(other)} and {_origin(point)}; "
                    "uninstall one of them"
                )
        return found

    def names(self) -> list[str]:
        """The known names, sorted."""
        return sorted(self._points)

    def reference(self, name: str) -> str:
        """The ``module:attribute`` a name stands for, without importing it.

        Raises:
            UnknownNameError: No such name.
        """
        try:
            return self._points[name].value
        except KeyError:
            raise UnknownNameError(self.noun, name, self._points) from None

    def get(self, name: str) -> T:
        """The object a name stands for.

        Raises:
            UnknownNameError: No such name.
        """
        self.reference(name)
        loaded: Any = self._points[name].load()
        return loaded  # type: ignore[no-any-return]  # an entry point's type is what the group promises


def _origin(point: EntryPoint) -> str:
    return f"{point.value} from {point.dist.name if point.dist else 'an unknown distribution'}"
