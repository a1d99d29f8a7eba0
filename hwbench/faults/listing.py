"""Lists of faults: as a table, and as CSV files that can be replayed on another build."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hwbench.errors import InputError
from hwbench.faults import bits
from hwbench.faults.fault import KINDS

Array = np.ndarray[Any, np.dtype[Any]]

SCHEMA: dict[str, type[pl.DataType]] = {
    "tensor": pl.String,
    "element": pl.Int64,
    "bit": pl.Int64,
    "kind": pl.String,
    "width": pl.Int64,
    "value": pl.UInt64,
}
_REQUIRED = ("tensor", "element", "bit", "kind")


def read_faults(path: Path, stored: Mapping[str, Array]) -> pl.DataFrame:
    """Read a fault list and hold every row against a build.

    Args:
        path: A CSV file with the columns tensor, element, bit, kind, and width and value where a kind needs them; a column
            ``format``, if there is one, must be the element type the build stores.
        stored: The build's initializers.

    Raises:
        InputError: The file cannot be read, a column is missing, or a row names an unknown tensor, an element or bit out of
            range, an unknown kind, another element type than the build stores, or a fault that stands in the list already.
    """
    try:
        table = pl.read_csv(path)
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a CSV file: {str(error).splitlines()[0]}") from None
    missing = [name for name in _REQUIRED if name not in table.columns]
    if missing:
        raise InputError(f"{path}: the column {missing[0]!r} is missing; it needs {', '.join(_REQUIRED)}")
    if not table.height:
        raise InputError(f"{path}: lists no fault")
    table = table.with_columns(
        **{name: pl.lit(default) for name, default in (("width", 1), ("value", 0)) if name not in table.columns}
    )
    seen: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(table.iter_rows(named=True), start=2):
        where = f"{path}, line {number}"
        _check(row, stored, where)
        key = tuple(row[name] for name in SCHEMA)
        if key in seen:
            raise InputError(f"{where}: the same fault stands in line {seen[key]}")
        seen[key] = number
    return table.select([pl.col(name).cast(kind) for name, kind in SCHEMA.items()])


def write_faults(path: Path, faults: pl.DataFrame, stored: Mapping[str, Array]) -> None:
    """Write a fault list that `read_faults` reads; ``format`` states what each tensor stores."""
    formats = [stored[name].dtype.name for name in faults["tensor"]]
    faults.select(list(SCHEMA)).with_columns(format=pl.Series(formats)).write_csv(path)


def _check(row: Mapping[str, Any], stored: Mapping[str, Array], where: str) -> None:
    array = stored.get(row["tensor"])
    if array is None:
        raise InputError(f"{where}: the build has no initializer {row['tensor']!r}")
    stated = row.get("format")
    if stated is not None and stated != array.dtype.name:
        raise InputError(f"{where}: {row['tensor']!r} is stored as {array.dtype.name} in this build, not as {stated}")
    if row["kind"] not in KINDS:
        raise InputError(f"{where}: unknown kind {row['kind']!r}; it is one of {', '.join(KINDS)}")
    for name, limit in (("element", array.size), ("bit", bits.width(array.dtype))):
        value = row[name]
        if not isinstance(value, int) or not 0 <= value < limit:
            raise InputError(f"{where}: {name} {value} is not in 0 … {limit - 1} of {row['tensor']!r} ({array.dtype.name})")
    if row["kind"] == "burst" and not (isinstance(row["width"], int) and row["width"] >= 1):
        raise InputError(f"{where}: a burst needs a width of at least 1 bit, not {row['width']}")
