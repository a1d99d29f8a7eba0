"""Arrays in Fortran order, whose rows are scattered over the file, read a block of rows at a time."""

from __future__ import annotations

import math
import os
import tempfile
from typing import IO

import numpy as np

from hwbench.dataset.source import BATCH_BYTES
from hwbench.npy import Array, NpyHeader


class FortranRows:
    """Rows of an array whose elements are in a file of their own, in Fortran order.

    An array with more columns than rows is transposed on disk first. One with more rows is read as it is, with one short read
    per column. Either way the number of reads and writes grows with the square root of the array's size at most.

    Args:
        file: The elements, from offset 0; closed by `close`.
        header: Type and shape, with at least two dimensions.
    """

    def __init__(self, file: IO[bytes], header: NpyHeader) -> None:
        self._file = file
        self._header = header
        self._n, *self._rest = header.shape
        self._columns = math.prod(self._rest)
        self._transposed = self._columns > self._n
        if self._transposed:
            self._file = self._in_row_order()

    def rows(self, start: int, stop: int) -> Array:
        """Rows ``start:stop``."""
        size, bytes_each = stop - start, self._header.dtype.itemsize
        if self._transposed:
            raw = os.pread(self._file.fileno(), size * self._columns * bytes_each, start * self._columns * bytes_each)
            return np.frombuffer(raw, self._header.dtype).reshape(size, *reversed(self._rest)).transpose(self._axes())
        columns = np.empty((self._columns, size), self._header.dtype)
        for column in range(self._columns):
            raw = os.pread(self._file.fileno(), size * bytes_each, (column * self._n + start) * bytes_each)
            columns[column] = np.frombuffer(raw, self._header.dtype)
        return columns.reshape(*reversed(self._rest), size).T

    def close(self) -> None:
        """Remove the file."""
        self._file.close()

    def _axes(self) -> tuple[int, ...]:
        return 0, *range(len(self._rest), 0, -1)

    def _in_row_order(self) -> IO[bytes]:
        """A file with the same elements, row after row."""
        target = tempfile.TemporaryFile()  # noqa: SIM115  closed by close
        bytes_each = self._header.dtype.itemsize
        step = max(1, BATCH_BYTES // max(1, self._n * bytes_each))
        for start in range(0, self._columns, step):
            size = min(step, self._columns - start)
            raw = os.pread(self._file.fileno(), size * self._n * bytes_each, start * self._n * bytes_each)
            block = np.ascontiguousarray(np.frombuffer(raw, self._header.dtype).reshape(size, self._n).T)
            for row in range(self._n):
                os.pwrite(target.fileno(), block[row].data, (row * self._columns + start) * bytes_each)
        self._file.close()
        return target
