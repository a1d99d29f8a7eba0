"""Dimensions of a model's inputs and outputs: the batch axis, dynamic sizes, and fixing these to the data's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Literal

import onnx
import onnx_ir as ir

from hwbench.backend import BatchAxes, TensorSpec
from hwbench.errors import ModelError, UnknownNameError


def fix_dimensions(model: ir.Model, shapes: Mapping[str, Sequence[int]], batch_axes: BatchAxes) -> None:
    """Fix every input dimension but the batch to the data's.

    Raises:
        ModelError: A size is needed and not given.
    """
    fixed: dict[str, int] = {}
    for value in model.graph.inputs:
        if value.shape is None or not len(value.shape):
            continue
        sample = shapes.get(str(value.name), ())
        for place, index in enumerate(sample_dimensions(str(value.name), len(value.shape), batch_axes)):
            dimension = value.shape[index]
            if isinstance(dimension, int):
                continue
            if len(sample) <= place:
                raise ModelError(no_size(str(value.name), index))
            size = int(sample[place])
            name = dimension.value
            if name is not None and fixed.setdefault(name, size) != size:
                raise ModelError(f"dimension {name!r} is {fixed[name]} in one input and {size} in {value.name!r}")
            _fix(value, index, size)
    for value in model.graph.outputs:
        for index, dimension in enumerate(value.shape or ()):
            if isinstance(dimension, ir.SymbolicDim) and dimension.value in fixed:
                _fix(value, index, fixed[dimension.value])


def forget_placeholders(model: ir.Model) -> None:
    """Make dimensions of size -1, or with a placeholder as symbol (``?``), unknown and independent; Paddle exports such."""
    values = [*model.graph.inputs, *model.graph.outputs, *(out for node in model.graph for out in node.outputs)]
    for value in values:
        for index, dimension in enumerate(value.shape or ()):
            unnamed = isinstance(dimension, ir.SymbolicDim) and dimension.value and not _is_name(dimension.value)
            if unnamed or dimension == -1:
                _fix(value, index, None)


def sample_dimensions(name: str, rank: int, batch_axes: BatchAxes) -> list[int]:
    """The dimensions of an input that a sample has: all but the batch."""
    axis = batch_axes.get(name, 0)
    return [index for index in range(rank) if index != axis]


def no_size(name: str, index: int) -> str:
    """The message about a dimension without a size."""
    return f"input {name!r} has a dynamic dimension {index} without a size; give data, or --shape {name}=..."


def _fix(value: ir.Value, index: int, size: int | None) -> None:
    sizes = list(value.shape or ())
    sizes[index] = ir.SymbolicDim(None) if size is None else size
    value.shape = ir.Shape(sizes)  # a new one: what is read from a file is frozen


def samples_first(spec: TensorSpec, batch_axes: BatchAxes) -> tuple[int | None, ...]:
    """The shape of an input in the data: the batch axis moved to the front."""
    axis = batch_axes.get(spec.name, 0)
    if axis is None or not spec.shape:
        return (None, *spec.shape) if axis is None else ()
    return (spec.shape[axis], *spec.shape[:axis], *spec.shape[axis + 1 :])


def inferred_axes(
    inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto]
) -> dict[str, int | None]:
    """Batch axes inferred from the graph: none for scalar inputs, and the axis of the batch's symbol if it is not 0."""
    axes: dict[str, int | None] = {
        value.name: None for value in inputs if not value.type.tensor_type.shape.dim and _has_shape(value)
    }
    symbols = {name for value in inputs if (name := next(iter(_symbols(value)), ""))}
    if len(symbols) == 1:
        (batch,) = symbols
        for value in (*inputs, *outputs):
            names = _symbols(value)
            if names and names[0] != batch and names.count(batch) == 1:
                axes[value.name] = names.index(batch)
    return axes


def _symbols(value: onnx.ValueInfoProto) -> list[str]:
    """The symbol of each dimension; empty where there is none, or one that is no name."""
    return [dim.dim_param if _is_name(dim.dim_param) else "" for dim in value.type.tensor_type.shape.dim]


def _is_name(symbol: str) -> bool:
    """False for a placeholder such as ``?`` or ``-1``."""
    return any(character.isalpha() for character in symbol)


def _has_shape(value: onnx.ValueInfoProto) -> bool:
    return bool(value.type.tensor_type.HasField("shape"))


def given_axes(
    given: Mapping[str, int | Literal["none"]], inputs: Iterable[TensorSpec], outputs: Iterable[TensorSpec], path: Path
) -> dict[str, int | None]:
    """Batch axes as the user gives them, None for ``"none"``.

    Raises:
        UnknownNameError: A name is of no input or output.
        ModelError: An axis is out of range, or an output has none.
    """
    ranks = {spec.name: len(spec.shape) for spec in (*inputs, *outputs)}
    constant = {spec.name for spec in inputs}
    for name, axis in given.items():
        if name not in ranks:
            raise UnknownNameError("input or output in batch_axis", name, ranks)
        if axis == "none":
            if name not in constant:
                raise ModelError(f"{path}: batch_axis.{name}: an output needs a batch axis; give its number")
        elif axis >= ranks[name]:
            raise ModelError(
                f"{path}: batch_axis.{name} is {axis}, but {name!r} has {ranks[name]} dimensions; axes count from 0"
            )
    return {name: None if axis == "none" else axis for name, axis in given.items()}
