"""CSV and Parquet tables, read a block of rows at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
import polars as pl

from hwbench.dataset.footer import largest_column
from hwbench.dataset.source import MIB, Batch, Sample, Source, require_samples, row
from hwbench.dataset.spec import LABEL_NAMES, DataSpec
from hwbench.errors import DataError, first_line
from hwbench.files import require_file
from hwbench.npy import Array

FEATURES = "*"  # stands for all the feature columns, side by side
# polars takes some 6 KiB for a column of a CSV file, whatever is in it.
MAX_COLUMNS = 16_384
# Of the text of a CSV file at a time, and the longest record: what follows an open quote is one.
BLOCK_BYTES, RECORD_BYTES = 1 * MIB, 16 * MIB
# Of the numbers of a Parquet file at a time, and of its compressed pages, which are held while a part of them is decoded.
NUMBER_BYTES, PAGE_BYTES = 16 * MIB, 96 * MIB
# Of one column of a row group, which is held whole.
COLUMN_BYTES = 192 * MIB
WHOLE_NUMBER = r"^\s*[+-]?\d+\s*$"
_FAILURES = (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError)


class TableSource(Source):
    """A table whose columns are features, but for the label's.

    A model with one input gets all features as one matrix; one with several gets a column each, by name.

    Raises:
        DataError: The file is missing or damaged, or has no such column.
    """

    loose: ClassVar[bool] = True

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self._path = Path(spec.source)
        require_file(self._path, DataError, "file")
        self._schema = self._columns()
        columns = list(self._schema)
        if len(columns) > MAX_COLUMNS:
            raise DataError(f"{self._path}: {_too_many(len(columns))}")
        self._label_name = self._label(columns)
        self.names = tuple(name for name in columns if name != self._label_name)

    def resolve(self, inputs: Sequence[str]) -> dict[str, str]:
        """As for any source, but one input without a stated column gets all of them."""
        if len(inputs) == 1 and not self.spec.inputs:
            if not self.names:
                raise DataError(
                    f"{self._path}: no column but the labels' {self._label_name!r}; there is nothing to feed"
                )
            return {inputs[0]: FEATURES}
        return super().resolve(inputs)

    def sample(self, array: str) -> Sample | None:
        """The number of feature columns, or the width of one column; None for lists, whose length only reading shows.

        Raises:
            DataError: A column does not hold numbers.
        """
        names = self.names if array == FEATURES else (array,)
        for name in names:
            self._require_numbers(name)
        if any(isinstance(self._schema[name], pl.List) for name in names):
            return None
        widths = [self._width(name) for name in names]
        if array != FEATURES and not isinstance(self._schema[array], pl.Array):
            return Sample(np.dtype(np.float64), ())
        return Sample(np.dtype(np.float64), (sum(widths),))

    def _width(self, name: str) -> int:
        """Numbers in each cell of a column; of a list at least one."""
        dtype = self._schema[name]
        return dtype.size if isinstance(dtype, pl.Array) else 1

    def describe(self, array: str) -> str:
        """What to call a column in messages."""
        return "the feature columns" if array == FEATURES else f"column {array!r}"

    def _label(self, names: Sequence[str]) -> str | None:
        if self.spec.label is None:
            return next((name for name in reversed(names) if name in LABEL_NAMES), None)
        return super()._label(names)

    def _read(self, size: int, names: tuple[str, ...]) -> Iterator[Batch]:
        columns = self.names if FEATURES in names else names
        start = 0
        for block in self._blocks(list(dict.fromkeys([*columns, *([self._label_name] if self._label_name else [])]))):
            arrays = {
                name: self._features(block, start) if name == FEATURES else self._numbers(block[name], start)
                for name in names
            }
            labels = self._numbers(block[self._label_name], start) if self._label_name else None
            start += len(block)
            for at in range(0, len(block), size):
                part = slice(at, at + size)
                yield {name: values[part] for name, values in arrays.items()}, None if labels is None else labels[part]

    def _features(self, block: pl.DataFrame, start: int) -> Array:
        """All feature columns side by side."""
        chosen = block.select(self.names)
        is_plain = all(dtype.is_numeric() and not dtype.is_decimal() for dtype in chosen.dtypes)
        if is_plain and not any(column.null_count() for column in chosen):
            return chosen.to_numpy()  # at once: a table may have thousands of columns
        return np.column_stack([self._numbers(block[name], start) for name in self.names])

    def _numbers(self, column: pl.Series, start: int) -> Array:
        """A column's values; ``[n]``, or ``[n, width]`` for a column of lists."""
        self._require_numbers(column.name)
        if column.null_count():
            missing = int(column.is_null().arg_true()[0])
            raise DataError(f"{self._path}: {row(start + missing)}: column {column.name!r} is empty")
        if isinstance(column.dtype, pl.List):
            width = column.list.len()
            odd = (width != width[0]).arg_true()
            if len(odd):
                raise DataError(
                    f"{self._path}: {row(start + int(odd[0]))}: list of another length in column {column.name!r}"
                )
            column = column.list.to_array(int(width[0]))
        return column.to_numpy()

    def _require_numbers(self, name: str) -> None:
        dtype = self._schema[name]
        inner = dtype.inner if isinstance(dtype, pl.Array | pl.List) else dtype
        if not (inner.is_numeric() or inner == pl.Boolean) or inner.is_decimal():
            raise DataError(
                f"{self._path}: column {name!r} holds {str(dtype)[:200]}, not numbers; number it, or leave it out"
            )

    @abstractmethod
    def _columns(self) -> Mapping[str, pl.DataType]:
        """Names and types of the columns, without a row read."""

    @abstractmethod
    def _blocks(self, columns: list[str]) -> Iterator[pl.DataFrame]:
        """The table's rows in order, ``columns`` only."""


class CsvSource(TableSource):
    """A CSV file with a header line."""

    def _columns(self) -> Mapping[str, pl.DataType]:
        self._whole_labels: bool | None = None
        with self._path.open("rb") as file:
            header = file.readline(RECORD_BYTES)
        if len(header) == RECORD_BYTES:
            raise DataError(f"{self._path}: its header is longer than {RECORD_BYTES // MIB} MiB; this is not a table")
        if header.count(b'"') % 2:
            raise DataError(
                f"{self._path}: a quote in the header line is not closed; names of columns cannot have line breaks"
            )
        if header.count(b",") > 2 * MAX_COLUMNS:  # before anything is made of them
            raise DataError(f"{self._path}: {_too_many(header.count(b',') + 1)}")
        return dict.fromkeys(self._text(header, 0).columns, pl.Float64())

    def _blocks(self, columns: list[str]) -> Iterator[pl.DataFrame]:  # a block is a number of bytes
        label = self._label_name
        whole = label is not None and label in columns and self._whole(label)
        kinds = {name: pl.Int64() if whole and name == label else pl.Float64() for name in columns}
        start = 0
        for text in self._records():
            block = self._parsed(text, kinds, start)
            yield block
            start += len(block)

    def _records(self) -> Iterator[bytes]:
        """The header and some whole records after it; by hand, for polars' own streaming maps the whole file."""
        with self._path.open("rb") as file:
            header = file.readline(RECORD_BYTES)
            while text := file.read(BLOCK_BYTES):
                yield header + text + self._rest_of_record(text, file)

    def _rest_of_record(self, text: bytes, file: BinaryIO) -> bytes:
        """The bytes that must follow ``text`` for it to end with a line, and outside quotes."""
        quotes, last, rest = text.count(b'"'), text[-1:], bytearray()
        while quotes % 2 or last != b"\n":
            line = file.readline(RECORD_BYTES)
            if not line and not quotes % 2:
                break
            rest, quotes, last = rest + line, quotes + line.count(b'"'), line[-1:]
            if not line or len(rest) >= RECORD_BYTES:
                problem = "a quote is not closed" if quotes % 2 else f"a line is longer than {RECORD_BYTES // MIB} MiB"
                raise DataError(
                    f"{self._path}: before byte {file.tell()}: {problem}; correct it, and double quotes within quotes"
                )
        return bytes(rest)

    def _parsed(self, text: bytes, kinds: Mapping[str, pl.DataType], start: int) -> pl.DataFrame:
        """Columns of a block; where polars refuses a number, as text first, to tell which."""
        schema = {name: kinds.get(name, pl.String()) for name in self._schema}
        try:
            return pl.read_csv(text, schema=schema, columns=list(kinds))
        except _FAILURES:
            block = self._text(text, start)
            return block.select([self._cast(block[name], kind, start) for name, kind in kinds.items()])

    def _text(self, text: bytes, start: int, columns: Sequence[str] | None = None) -> pl.DataFrame:
        try:
            return pl.read_csv(text, infer_schema=False, columns=columns)
        except _FAILURES as error:
            raise DataError(
                f"{self._path}: from {row(start)} on: not a CSV table ({first_line(error)}); write it as UTF-8 "
                "with one header line and as many cells in every line"
            ) from error

    def _cast(self, column: pl.Series, kind: pl.DataType, start: int) -> pl.Series:
        numbers = column.str.strip_chars().cast(kind, strict=False)
        wrong = (numbers.is_null() & column.is_not_null()).arg_true()
        if len(wrong):
            at = int(wrong[0])
            cell = str(column[at])
            shown = repr(cell if len(cell) <= 80 else f"{cell[:80]}…")
            raise DataError(f"{self._path}: {row(start + at)}: column {column.name!r} is {shown}, not a number")
        return numbers

    def _whole(self, label: str) -> bool:
        """Whether every label is written as an integer: a pass of its own, for the first rows cannot tell."""
        if self._whole_labels is None:
            blocks = (self._text(text, 0, [label])[label].drop_nulls() for text in self._records())
            self._whole_labels = all(block.str.contains(WHOLE_NUMBER).all() for block in blocks)
        return self._whole_labels


class ParquetSource(TableSource):
    """A Parquet file; memory is bounded by the largest row group of a column."""

    def _columns(self) -> Mapping[str, pl.DataType]:
        try:
            return self._scan().collect_schema()
        except _FAILURES as error:
            raise DataError(
                f"{self._path}: not a Parquet file, or truncated ({first_line(error)}); write it again"
            ) from error

    def _width(self, name: str) -> int:
        if not isinstance(self._schema[name], pl.List):
            return super()._width(name)
        first = self._scan().select(name).head(1).collect()[name].list.len()  # the others must be of the same length
        return max(1, first[0] or 1) if len(first) else 1

    def _blocks(self, columns: list[str]) -> Iterator[pl.DataFrame]:
        try:
            yield from self._slices(columns, 8 * sum(map(self._width, columns)))
        except _FAILURES as error:
            raise DataError(f"{self._path}: damaged ({first_line(error)}); write it again") from error

    def _slices(self, columns: list[str], row_bytes: int) -> Iterator[pl.DataFrame]:
        require_samples(row_bytes, self.origin)
        self._require_small_groups()
        pages = self._path.stat().st_size // max(len(self._schema), 1)  # of a column, as if all were alike
        together = max(1, PAGE_BYTES // max(pages, 1))
        groups = [columns[at : at + together] for at in range(0, len(columns), together)]
        step = max(1, NUMBER_BYTES // row_bytes)
        n = self._scan().select(pl.len()).collect().item()
        for start in range(0, n, step):
            parts = [self._scan().select(group).slice(start, step).collect() for group in groups]
            yield pl.concat(parts, how="horizontal")

    def _require_small_groups(self) -> None:
        if self._path.stat().st_size <= COLUMN_BYTES:
            return
        try:
            largest = largest_column(self._path)
        except ValueError as error:
            raise DataError(f"{self._path}: damaged ({error}); write it again") from error
        if largest > COLUMN_BYTES:
            raise DataError(
                f"{self._path}: a column of a row group has {largest // MIB} MiB, more than the limit of "
                "{COLUMN_BYTES // MIB}; write it with smaller row groups (row_group_size)"
            )

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self._path, glob=False)


def _too_many(columns: int) -> str:
    return f"{columns} columns, more than the limit of {MAX_COLUMNS}; save wide data as .npz"
