"""What an exported model takes in: names, shapes and dtypes as the command line states them, and random values."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np

from hwbench.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

DTYPES: Final = ("float32", "float64", "float16", "int64", "int32", "int16", "int8", "uint8", "bool")
_PATTERN: Final = re.compile(r"(?:(?P<name>[^=:]+)=)?(?P<shape>\d+(?:x\d+)*)(?::(?P<dtype>\w+))?")


@dataclass(frozen=True)
class InputShape:
    """One input of a model to export.

    Attributes:
        name: Its name in the exported graph; empty to have one given.
        shape: Its dimensions; the first is the batch, which is exported as dynamic whatever number stands here.
        dtype: The numpy name of its element type, one of `DTYPES`.
    """

    name: str
    shape: tuple[int, ...]
    dtype: str = "float32"

    def __str__(self) -> str:
        prefix = f"{self.name}=" if self.name else ""
        return f"{prefix}{'x'.join(map(str, self.shape))}:{self.dtype}"


def parse_input(text: str) -> InputShape:
    """Read ``[NAME=]SHAPE[:DTYPE]``, e.g. ``1x3x32x32`` or ``ids=1x16:int64``.

    Raises:
        InputError: The text has another form, a dimension is 0, or the dtype is unknown.
    """
    match = _PATTERN.fullmatch(text.strip())
    if match is None:
        raise InputError(f"input {text!r} is not of the form [NAME=]SHAPE[:DTYPE], e.g. 1x3x32x32 or ids=1x16:int64")
    shape = tuple(int(size) for size in match["shape"].split("x"))
    dtype = match["dtype"] or "float32"
    if 0 in shape:
        raise InputError(f"input {text!r}: every dimension must be at least 1")
    if dtype not in DTYPES:
        raise InputError(f"input {text!r}: dtype {dtype!r} is not one of {', '.join(DTYPES)}")
    return InputShape(match["name"] or "", shape, dtype)


def named(inputs: Sequence[InputShape]) -> tuple[InputShape, ...]:
    """The same inputs, the nameless ones called ``input`` (a single one) or ``input_0``, ``input_1``, ...

    Raises:
        InputError: There is no input, or two share a name.
    """
    if not inputs:
        raise InputError("give the shape of every input of the model, e.g. --input 1x3x32x32")
    default = "input" if len(inputs) == 1 else "input_{}"
    full = tuple(replace(spec, name=spec.name or default.format(i)) for i, spec in enumerate(inputs))
    names = [spec.name for spec in full]
    for name in names:
        if names.count(name) > 1:
            raise InputError(f"two inputs are called {name!r}; give each its own name")
    return full


def random_inputs(inputs: Sequence[InputShape], batch: int, seed: int) -> dict[str, Array]:
    """A batch of random values: standard normal floats; integers and booleans from {0, 1}.

    0 and 1 are the only integers that are valid as a token of every vocabulary, as a mask and as a segment.
    """
    rng = np.random.default_rng(seed)
    return {spec.name: _random(rng, (batch, *spec.shape[1:]), np.dtype(spec.dtype)) for spec in inputs}


def _random(rng: np.random.Generator, shape: tuple[int, ...], dtype: np.dtype[Any]) -> Array:
    values = rng.standard_normal(shape) if dtype.kind == "f" else rng.integers(0, 2, shape)
    return np.asarray(values).astype(dtype)
