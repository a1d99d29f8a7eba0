"""Sizes that the footer of a Parquet file states: polars shows none of them, and reads a column of a row group whole.

The footer is a Thrift structure in the compact protocol. Apache Parquet, parquet.thrift: the row groups are field 4 of
FileMetaData, their columns field 1, a column's metadata field 3, its compressed size field 7.
"""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

_TAIL = 8  # the footer's length and the magic number
_MAX_FOOTER, _MAX_DEPTH = 4 << 20, 16
_TRUE, _FALSE, _BYTE, _DOUBLE, _BINARY, _LIST, _SET, _STRUCT = 1, 2, 3, 7, 8, 9, 10, 12
_INTEGERS = (4, 5, 6)


def largest_column(path: Path) -> int:
    """Compressed bytes of the largest column of a row group.

    A footer of many MiB describes so many of them that none is large; it is not read.

    Raises:
        ValueError: It is not the footer of a Parquet file.
    """
    with path.open("rb") as file:
        file.seek(-_TAIL, io.SEEK_END)
        length = int.from_bytes(file.read(4), "little")
        if length > _MAX_FOOTER:
            return 0
        file.seek(-_TAIL - length, io.SEEK_END)
        footer = _struct(io.BytesIO(file.read(length)), 0)
    try:
        return max((int(column[3][7]) for group in footer[4] for column in group[1]), default=0)
    except (KeyError, TypeError) as error:
        raise ValueError("its footer lists no columns") from error


def _struct(stream: io.BytesIO, depth: int) -> dict[int, Any]:
    """Field numbers to values."""
    fields: dict[int, Any] = {}
    number = 0
    while (head := _byte(stream)) != 0:
        number = number + (head >> 4) if head >> 4 else _integer(stream)
        kind = head & 0xF
        fields[number] = kind == _TRUE if kind in (_TRUE, _FALSE) else _value(stream, kind, depth + 1)
    return fields


def _value(stream: io.BytesIO, kind: int, depth: int) -> Any:
    if depth > _MAX_DEPTH:
        raise ValueError("its footer is nested too deeply")
    if kind in _INTEGERS:
        return _integer(stream)
    if kind in (_TRUE, _FALSE, _BYTE):
        return _byte(stream)
    if kind in (_DOUBLE, _BINARY):
        return stream.read(8 if kind == _DOUBLE else _varint(stream))
    if kind in (_LIST, _SET):
        head = _byte(stream)
        size = _varint(stream) if head >> 4 == 0xF else head >> 4
        return [_value(stream, head & 0xF, depth + 1) for _ in range(size)]
    if kind == _STRUCT:
        return _struct(stream, depth)
    raise ValueError(f"its footer has a field of an unknown kind ({kind})")


def _byte(stream: io.BytesIO) -> int:
    read = stream.read(1)
    if not read:
        raise ValueError("its footer ends early")
    return read[0]


def _varint(stream: io.BytesIO) -> int:
    value = 0
    for shift in range(0, 70, 7):
        part = _byte(stream)
        value |= (part & 0x7F) << shift
        if part < 0x80:
            return value
    raise ValueError("its footer holds a number of more than 64 bits")


def _integer(stream: io.BytesIO) -> int:
    """A signed number, zigzag encoded."""
    value = _varint(stream)
    return (value >> 1) ^ -(value & 1)
