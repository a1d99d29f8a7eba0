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
    seen: dict[tuple[Any, ...], int] = {}
    for number, row in enumerate(open_list(path).iter_rows(named=True), start=2):
        where = f"{path}, line {number}"
        fault = _fault(row, stored, where)
        if fault in seen:
            raise InputError(f"{where}: the same fault stands in line {seen[fault]}")
        seen[fault] = number
    return pl.DataFrame(list(seen), schema=SCHEMA, orient="row")


def open_list(path: Path) -> pl.DataFrame:
    """The lines of a fault list as they stand in the file, whatever build they are for.

    Raises:
        InputError: The file cannot be read, lists no fault, or a column is missing.
    """
    try:
        table = pl.read_csv(path.read_bytes(), infer_schema=False)  # a tensor may be called 12
    except OSError as error:
        raise InputError(f"{path}: cannot be read: {error.strerror or error}") from None
    except pl.exceptions.PolarsError as error:
        raise InputError(f"{path}: not a CSV file: {str(error).splitlines()[0]}") from None
    missing = [name for name in _REQUIRED if name not in table.columns]
    if missing:
        raise InputError(f"{path}: the column {missing[0]!r} is missing; it needs {', '.join(_REQUIRED)}")
    if not table.height:
        raise InputError(f"{path}: lists no fault")
    return table


def write_faults(path: Path, faults: pl.DataFrame, stored: Mapping[str, Array]) -> None:
    """Write a fault list that `read_faults` reads; ``format`` states what each tensor stores."""
    formats = [stored[name].dtype.name for name in faults["tensor"]]
    faults.select(list(SCHEMA)).with_columns(format=pl.Series(formats)).write_csv(path)


def _fault(row: Mapping[str, str | None], stored: Mapping[str, Array], where: str) -> tuple[Any, ...]:
    """One line's fault, in the columns of `SCHEMA`."""
    tensor, kind = row["tensor"] or "", row["kind"]
    array = stored.get(tensor)
    if array is None:
        raise InputError(f"{where}: the build has no initializer {tensor!r}")
    stated = row.get("format")
    if stated is not None and stated != array.dtype.name:
        raise InputError(f"{where}: {tensor!r} is stored as {array.dtype.name} in this build, not as {stated}")
    if kind not in KINDS:
        raise InputError(f"{where}: unknown kind {kind!r}; it is one of {', '.join(KINDS)}")
    per = bits.width(array.dtype)
    element, bit = (
        _number(row[name], limit, f"{where}: {name}", f"{tensor!r} ({array.dtype.name})")
        for name, limit in (("element", array.size), ("bit", per))
    )
    width = _number(row.get("width"), array.size * per + 1, f"{where}: width", repr(tensor)) if kind == "burst" else 1
    if width < 1:
        raise InputError(f"{where}: a burst needs a width of at least 1 bit, not {width}")
    value = _number(row.get("value"), 2**per, f"{where}: value", f"{per} bits") if kind == "random_value" else 0
    return tensor, element, bit, kind, width, value


def _number(text: str | None, limit: int, what: str, of: str) -> int:
    """A whole number below ``limit``."""
    if text is None or not text.isdecimal() or int(text) >= limit:
        raise InputError(f"{what} {text} is not in 0 … {limit - 1} of {of}")
    return int(text)
