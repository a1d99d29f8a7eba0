"""Checks of an ONNX file beyond those of onnx's checker: names, sizes of tensors, locations of external data."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import onnx
from google.protobuf.message import Message
from onnx import TensorProto, numpy_helper

from hwbench.errors import ModelError
from hwbench.stored import inner_graphs

# More elements than any machine holds; as a size it is a mistake, or meant to overflow something.
_MAX_ELEMENTS = 2**40
_MAX_DIGITS = 20
_MAX_NODES = 1_000_000
_PACKED = {TensorProto.INT4: 4, TensorProto.UINT4: 4, TensorProto.FLOAT4E2M1: 4} | {
    number: 2 for name, number in TensorProto.DataType.items() if name in ("INT2", "UINT2")
}


def check_names(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse names that are not UTF-8, which nothing could print, sort or store.

    Raises:
        ModelError: There is one.
    """
    for message, field in _texts(proto):
        value = getattr(message, field)
        for text in [value] if isinstance(value, str | bytes) else value:
            if isinstance(text, bytes):
                kind = message.DESCRIPTOR.name.removesuffix("Proto")
                raise ModelError(
                    f"{path}: {field} of a {kind} is not UTF-8: {text[:80]!r}; rename it and save the model again"
                )


def _texts(message: Message) -> Iterator[tuple[Message, str]]:
    """Every text field below a message; fields of bytes and numbers, which may be large, are not touched."""
    texts, messages, repeated = _fields(message.DESCRIPTOR)
    for name in texts:
        yield message, name
    for name in messages:
        if message.HasField(name):
            yield from _texts(getattr(message, name))
    for name in repeated:
        for each in getattr(message, name):
            yield from _texts(each)


@cache
def _fields(descriptor: Any) -> tuple[list[str], list[str], list[str]]:
    """Names of a message's text fields, its single and its repeated messages."""
    texts = [field.name for field in descriptor.fields if field.type == field.TYPE_STRING]
    messages = [field for field in descriptor.fields if field.message_type is not None]
    single = [field.name for field in messages if not field.is_repeated]
    return texts, single, [field.name for field in messages if field.is_repeated]


def check_tensors(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse stored tensors whose content does not have the size that type and dimensions state.

    Raises:
        ModelError: There is one.
    """
    for tensor in onnx.external_data_helper._get_all_tensors(proto):
        where = f"{path}: tensor {tensor.name!r}"
        if tensor.data_type not in onnx.helper.get_all_tensor_dtypes():
            raise ModelError(f"{where} has no known element type ({tensor.data_type})")
        if any(size < 0 for size in tensor.dims) or math.prod(tensor.dims) > _MAX_ELEMENTS:
            raise ModelError(f"{where} has impossible dimensions {list(tensor.dims)[:8]}")
        if not onnx.external_data_helper.uses_external_data(tensor):
            _check_content(tensor, where)


def _check_content(tensor: TensorProto, where: str) -> None:
    if not tensor.HasField("raw_data"):
        try:
            numpy_helper.to_array(tensor)
        except (ValueError, TypeError, OverflowError) as error:
            raise ModelError(f"{where} is damaged: {' '.join(str(error).split())[:200]}") from None
        return
    bits = _PACKED.get(tensor.data_type) or 8 * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    wanted, stored = -(-math.prod(tensor.dims) * bits // 8), len(tensor.raw_data)
    if wanted != stored:
        raise ModelError(f"{where} is damaged: it holds {stored:,} bytes where its dimensions need {wanted:,}")


def check_functions(proto: onnx.ModelProto, path: Path) -> None:
    """Refuse functions that call each other so often that the inlined model exceeds any machine.

    Args:
        proto: The model; onnx's checker has excluded recursive functions.
        path: Its file.

    Raises:
        ModelError: There are more nodes than `_MAX_NODES`.
    """
    bodies = {(function.domain, function.name): function.node for function in proto.functions}
    sizes: dict[tuple[str, str], int] = {}

    def size(nodes: Iterable[onnx.NodeProto]) -> int:
        return sum(1 + called(node) + sum(size(graph.node) for graph in inner_graphs(node)) for node in nodes)

    def called(node: onnx.NodeProto) -> int:
        key = node.domain, node.op_type
        if key not in sizes:
            sizes[key] = size(bodies.get(key, ()))
        return sizes[key]

    try:
        total = size(proto.graph.node) if bodies else 0
    except RecursionError:
        raise ModelError(f"{path}: its functions call each other too deeply; inline them") from None
    if total > _MAX_NODES:
        raise ModelError(f"{path}: {total:,} nodes with its functions inlined, more than the limit of {_MAX_NODES:,}")


def check_inputs(shapes: Mapping[str, Sequence[int | None]], path: Path) -> None:
    """Refuse inputs that cannot be fed; ``shapes`` has None for dynamic sizes.

    Raises:
        ModelError: There is no input, or a size is not positive, or beyond what any machine holds.
    """
    if not shapes:
        raise ModelError(f"{path}: has no input, so its output is constant and cannot be evaluated")
    for name, shape in shapes.items():
        for index, size in enumerate(shape):
            if size is not None and size <= 0:
                raise ModelError(
                    f"{path}: input {name!r} has size {size} in dimension {index}; export it with a positive size, or a "
                    "symbolic name for a dynamic one"
                )
        if math.prod(size or 1 for size in shape) > _MAX_ELEMENTS:
            raise ModelError(f"{path}: input {name!r} has impossible dimensions {list(shape)[:8]}")


def external_files(proto: onnx.ModelProto, path: Path) -> list[Path]:
    """The external data files of a model, each inside the model's folder.

    Raises:
        ModelError: A location is absolute, leads outside the folder (by ``..`` or a link), is missing or too short.
    """
    folder = path.parent.resolve()
    found: dict[Path, None] = {}
    for tensor in onnx.external_data_helper._get_all_tensors(proto):
        if onnx.external_data_helper.uses_external_data(tensor):
            found[_external_file(tensor, folder, path)] = None
    return list(found)


def _external_file(tensor: TensorProto, folder: Path, path: Path) -> Path:
    entries: dict[str, str] = {entry.key: entry.value for entry in tensor.external_data}
    location = entries.get("location", "")
    where = f"{path}: tensor {tensor.name!r} refers to {location[:200]!r}"
    try:
        file: Path = (folder / location).resolve()
        size = file.stat().st_size if file.is_file() else None
    except (OSError, ValueError, RuntimeError) as error:  # too long, a NUL character, a loop of links
        reason = error.strerror if isinstance(error, OSError) else " ".join(str(error).split())
        raise ModelError(f"{where}, which is not a file: {reason}") from None
    if Path(location).is_absolute() or not file.is_relative_to(folder):
        raise ModelError(f"{where}, outside the model's folder; refused")
    if size is None:
        raise ModelError(f"{where}, which is missing")
    ends = [entries.get(key) or "0" for key in ("offset", "length")]
    if not all(end.isdecimal() and len(end) <= _MAX_DIGITS for end in ends) or sum(map(int, ends)) > size:
        raise ModelError(f"{where}, which is truncated")
    return file
