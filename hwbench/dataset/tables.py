"""CSV and Parquet tables, read a block of rows at a time."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, ClassVar

import numpy as np
import polars as pl

from hwbench.dataset.source import Batch, Source, row
from hwbench.dataset.spec import LABEL_NAMES, DataSpec
from hwbench.errors import DataError
from hwbench.files import require_file
from hwbench.npy import Array

FEATURES = "*"  # stands for all the feature columns, side by side
BLOCK_BYTES = 1 << 20
BLOCK_CELLS = 1 << 19
WHOLE_NUMBER = r"^\s*[+-]?\d+\s*$"


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
        columns = self._columns()
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

    def describe(self, array: str) -> str:
        """What to call a column in messages."""
        return "the feature columns" if array == FEATURES else f"column {array!r}"

    def _label(self, names: Sequence[str]) -> str | None:
        if self.spec.label is None:
            return next((name for name in reversed(names) if name in LABEL_NAMES), None)
        return super()._label(names)

    def _read(self, size: int, names: tuple[str, ...]) -> Iterator[Batch]:
        columns = self.names if FEATURES in names else names
        wanted = list(dict.fromkeys([*columns, *([self._label_name] if self._label_name else [])]))
        start = 0
        for block in self._blocks(size, wanted):
            numbers = {name: self._numbers(block[name], start) for name in wanted}
            start += len(block)
            arrays = {
                name: np.column_stack([numbers[one] for one in self.names]) if name == FEATURES else numbers[name]
                for name in names
            }
            labels = numbers[self._label_name] if self._label_name else None
            for at in range(0, len(block), size):
                part = slice(at, at + size)
                yield {name: values[part] for name, values in arrays.items()}, None if labels is None else labels[part]

    def _numbers(self, column: pl.Series, start: int) -> Array:
        """A column's values; ``[n]``, or ``[n, width]`` for a column of lists."""
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
        inner = column.dtype.inner if isinstance(column.dtype, pl.Array) else column.dtype
        if not (inner.is_numeric() or inner == pl.Boolean) or inner.is_decimal():
            raise DataError(
                f"{self._path}: column {column.name!r} holds {column.dtype}, not numbers; number it, or leave it out"
            )
        return column.to_numpy()

    @abstractmethod
    def _columns(self) -> list[str]: ...

    @abstractmethod
    def _blocks(self, size: int, columns: list[str]) -> Iterator[pl.DataFrame]:
        """The table's rows in order, ``columns`` only."""


class CsvSource(TableSource):
    """A CSV file with a header line."""

    def _columns(self) -> list[str]:
        with self._path.open("rb") as file:
            header = self._parse(file.readline(), 0)
        self._whole_labels: bool | None = None
        return header.columns

    def _blocks(self, size: int, columns: list[str]) -> Iterator[pl.DataFrame]:  # a block is a number of bytes
        start = 0
        for text in self._text_blocks():
            block = text.select(columns)
            yield block.select(self._cast(block[name], start) for name in columns)
            start += len(block)

    def _text_blocks(self) -> Iterator[pl.DataFrame]:
        """All cells as text; by hand, for polars' own streaming maps the whole file and so grows with it."""
        with self._path.open("rb") as file:
            header = file.readline()
            start = 0
            while lines := file.readlines(BLOCK_BYTES):
                text = b"".join(lines) + _rest_of_quoted(lines, file)
                block = self._parse(header + text, start)
                start += len(block)
                yield block

    def _parse(self, text: bytes, start: int) -> pl.DataFrame:
        try:
            return pl.read_csv(text, infer_schema=False)
        except pl.exceptions.PolarsError as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{self._path}: from {row(start)} on: not a CSV table ({reason})") from error

    def _cast(self, column: pl.Series, start: int) -> pl.Series:
        kind = pl.Int64 if column.name == self._label_name and self._whole(column.name) else pl.Float64
        stripped = column.str.strip_chars()
        numbers = stripped.cast(kind, strict=False)
        wrong = (numbers.is_null() & column.is_not_null()).arg_true()
        if len(wrong):
            at = int(wrong[0])
            raise DataError(f"{self._path}: {row(start + at)}: column {column.name!r} is {column[at]!r}, not a number")
        return numbers

    def _whole(self, label: str) -> bool:
        """Whether every label is written as an integer: a pass of its own, for the first rows cannot tell."""
        if self._whole_labels is None:
            self._whole_labels = all(
                block[label].drop_nulls().str.contains(WHOLE_NUMBER).all() for block in self._text_blocks()
            )
        return self._whole_labels


def _rest_of_quoted(lines: list[bytes], file: BinaryIO) -> bytes:
    """What must follow ``lines`` so that no quoted cell is cut in two."""
    quotes = sum(line.count(b'"') for line in lines)
    rest = b""
    while quotes % 2 and (line := file.readline()):
        rest += line
        quotes += line.count(b'"')
    return rest


class ParquetSource(TableSource):
    """A Parquet file; memory is bounded by its largest row group."""

    def _columns(self) -> list[str]:
        try:
            return self._scan().collect_schema().names()
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{self._path}: not a Parquet file, or truncated ({reason})") from error

    def _blocks(self, size: int, columns: list[str]) -> Iterator[pl.DataFrame]:
        scan = self._scan().select(columns)
        step = max(size, BLOCK_CELLS // max(len(columns), 1))
        try:
            n = scan.select(pl.len()).collect().item()
            for start in range(0, n, step):
                yield scan.slice(start, step).collect()
        except (pl.exceptions.PolarsError, OSError) as error:
            reason = str(error).splitlines()[0]
            raise DataError(f"{self._path}: damaged ({reason}); write it again") from error

    def _scan(self) -> pl.LazyFrame:
        return pl.scan_parquet(self._path, glob=False)
