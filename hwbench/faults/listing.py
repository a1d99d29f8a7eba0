"""Lists of faults: as a table, and as CSV files that can be replayed on another build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hwbench.errors import InputError, first_line
from hwbench.faults import bits, names
from hwbench.faults.fault import KINDS
from hwbench.files import require_file

Array = np.ndarray[Any, np.dtype[Any]]

SCHEMA: dict[str, type[pl.DataType]] = {
    "tensor": pl.String,
    "element": pl.Int64,
    "bit": pl.Int64,
    "kind": pl.String,
    "width": pl.Int64,
    "value": pl.UInt64,
}
# Some million faults; polars takes several times as much for them.
_MAX_BYTES = 1 << 26
_REQUIRED = ("tensor", "element", "bit", "kind")
# A spreadsheet takes a cell that begins so for a formula: OWASP, "CSV Injection". A quote before it makes it text.
_FORMULA = r"^('*[=+\-@\t\r])"
_DIGITS = 100  # with leading zeros
_ESCAPED = r"^'('*[=+\-@\t\r])"


def read_faults(path: Path, stored: Mapping[str, Array], left_out: Mapping[str, str] | None = None) -> pl.DataFrame:
    """Read a fault list and hold every row against a build.

    Args:
        path: A CSV file with the columns tensor, element, bit, kind, and width and value where a kind needs them; a column
            ``format``, if there is one, must be the element type the build stores.
        stored: The build's initializers, and arrays like the other tensors that may be named.
        left_out: Tensors without faults of their own, to the reason why.

    Raises:
        InputError: As of `check_lines`; or a row names an unknown tensor, an element or bit out of range, or another element
            type than the build stores.
    """
    faults = check_lines(path)
    for number, (row, fault) in enumerate(zip(open_list(path).iter_rows(named=True), faults, strict=True), start=2):
        _check_in_build(fault, row.get("format"), stored, left_out or {}, f"{path}, line {number}")
    return pl.DataFrame(faults, schema=SCHEMA, orient="row")


def check_lines(path: Path) -> list[tuple[Any, ...]]:
    """The faults of a list, in the columns of `SCHEMA`, whatever build they are for.

    Raises:
        InputError: As of `open_list`; or a row has an unknown kind or no whole number where one belongs, or a fault that
            stands in the list already.
    """
    seen: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(open_list(path).iter_rows(named=True), start=2):
        where = f"{path}, line {number}"
        fault = _fault(row, where)
        if fault in seen:
            raise InputError(f"{where}: the same fault stands in line {seen[fault]}")
        seen[fault] = number
    return list(seen)


def open_list(path: Path) -> pl.DataFrame:
    """The lines of a fault list as they stand in the file, whatever build they are for.

    Raises:
        InputError: The file cannot be read, lists no fault, or a column is missing.
    """
    require_file(path, InputError, most=_MAX_BYTES)
    try:
        table = pl.read_csv(path.read_bytes(), infer_schema=False)  # a tensor may be called 12
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a CSV file: {first_line(error)}") from None
    missing = [name for name in _REQUIRED if name not in table.columns]
    if missing:
        raise InputError(f"{path}: the column {missing[0]!r} is missing; it needs {', '.join(_REQUIRED)}")
    if not table.height:
        raise InputError(f"{path}: lists no fault")
    return table.with_columns(pl.col("tensor").str.replace(_ESCAPED, "$1"))


def write_faults(path: Path, faults: pl.DataFrame, stored: Mapping[str, Array]) -> None:
    """Write a fault list that `read_faults` reads, each fault once; ``format`` states what each tensor stores."""
    path.write_bytes(as_csv(with_formats(faults, stored).unique(maintain_order=True)))


def as_csv(table: pl.DataFrame) -> bytes:
    """A table as CSV in which no cell is a formula to a spreadsheet; `open_list` gives the same names back."""
    return table.with_columns(pl.col(pl.String).str.replace(_FORMULA, "'$1")).write_csv().encode()


def with_formats(faults: pl.DataFrame, stored: Mapping[str, Array]) -> pl.DataFrame:
    """A fault list with the element type that each tensor stores."""
    formats = [stored[name].dtype.name for name in faults["tensor"]]
    return faults.select(list(SCHEMA)).with_columns(format=pl.Series(formats, dtype=pl.String))


def _fault(row: Mapping[str, str | None], where: str) -> tuple[Any, ...]:
    """One line's fault, in the columns of `SCHEMA`."""
    kind = row["kind"]
    if kind not in KINDS:
        raise InputError(f"{where}: unknown kind {kind!r}; it is one of {', '.join(KINDS)}")
    element, bit = (_number(row[name], f"{where}: {name}") for name in ("element", "bit"))
    width = _number(row.get("width"), f"{where}: width") if kind == "burst" else 1
    if width < 1:
        raise InputError(f"{where}: a burst needs a width of at least 1 bit, not {width}")
    value = _number(row.get("value"), f"{where}: value") if kind == "random_value" else 0
    return row["tensor"] or "", element, bit, kind, width, value


def _check_in_build(
    fault: tuple[Any, ...], stated: str | None, stored: Mapping[str, Array], left_out: Mapping[str, str], where: str
) -> None:
    """Hold one line against a build."""
    tensor, element, bit, kind, width, value = fault
    array = stored.get(tensor)
    if tensor in left_out:
        raise InputError(f"{where}: {tensor!r} has no faults of its own: {left_out[tensor]}")
    if array is None:
        inner = names.activation_of(tensor)
        raise InputError(
            f"{where}: the build has no "
            + (
                f"{'stored numbers' if names.is_inside(tensor) else 'initializer'} {tensor!r}"
                if inner is None
                else f"tensor {inner!r} between operators"
            )
        )
    if stated is not None and stated != array.dtype.name:
        raise InputError(f"{where}: {tensor!r} is stored as {array.dtype.name} in this build, not as {stated}")
    per = bits.width(array.dtype)
    limits = [("element", element, array.size), ("bit", bit, per)]
    limits += [("width", width, array.size * per + 1)] if kind == "burst" else []
    limits += [("value", value, 2**per)] if kind == "random_value" else []
    for what, number, limit in limits:
        if number >= limit:
            raise InputError(f"{where}: {what} {number} is not in 0 … {limit - 1} of {tensor!r} ({array.dtype.name})")


def _number(text: str | None, what: str) -> int:
    """A whole number."""
    if text is None or not (text.isascii() and text.isdecimal()) or len(text) > _DIGITS or int(text) >= 2**64:
        raise InputError(f"{what} {str(text)[:40]} is not a whole number of at least 0")
    return int(text)
