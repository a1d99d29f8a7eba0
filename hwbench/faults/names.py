"""The names of faults outside of a build's initializers: in nodes and functions, between operators, in the file."""

from __future__ import annotations

_ACTIVATION = "@activation/"
ARTEFACT = "@artefact"
_INSIDE = ("@attribute/", "@graph/", "@function/")


def activation(tensor: str) -> str:
    """The name under which a tensor between operators, or an input, has faults."""
    return f"{_ACTIVATION}{tensor}"


def activation_of(name: str) -> str | None:
    """The tensor between operators that a fault is in; None if it is in something else."""
    return name.removeprefix(_ACTIVATION) if name.startswith(_ACTIVATION) else None


def is_inside(name: str) -> bool:
    """True if a fault is in a number inside a node or a function (`hwbench.stored`)."""
    return name.startswith(_INSIDE)
