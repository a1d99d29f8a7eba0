"""What faults outside of a build's initializers are called: tensors between operators, and the build's file."""

from __future__ import annotations

_ACTIVATION = "@activation/"
ARTEFACT = "@artefact"


def activation(tensor: str) -> str:
    """The name under which a tensor between operators, or an input, has faults."""
    return f"{_ACTIVATION}{tensor}"


def activation_of(name: str) -> str | None:
    """The tensor between operators that a fault is in; None if it is in something else."""
    return name.removeprefix(_ACTIVATION) if name.startswith(_ACTIVATION) else None
