"""Arrays in ``.npy`` files, read and written a few rows at a time (numpy and stdlib only: workers use it too)."""

from __future__ import annotations

import hashlib
import io
import os
import secrets
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self

import numpy as np

from hwbench.errors import first_line

Array = np.ndarray[Any, np.dtype[Any]]

# The prefix and numpy's own limit on a header's length.
_HEADER_BYTES = 12 + 10_000
_MAX_DIMENSIONS = 64
_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}


class TensorLike(Protocol):
    """What is known of a model's input or output before it runs; a shape has None where it is free."""

    @property
    def name(self) -> str:
        """Its name in the graph."""

    @property
    def dtype(self) -> str:
        """The numpy name of its element type."""

    @property
    def shape(self) -> tuple[int | None, ...]:
        """Its dimensions, the batch first."""


@dataclass(frozen=True)
class NpyFile:
    """One content-addressed ``.npy`` file.

    Attributes:
        path: Where it lies.
        sha256: Hash of its elements in C order, then of its header.
        shape: Its shape; the first dimension counts rows.
        dtype: The numpy name of its element type.
    """

    path: Path
    sha256: str
    shape: tuple[int, ...]
    dtype: str

    def rows(self, start: int, stop: int) -> Array:
        """Rows ``start:stop``, copied."""
        return rows(self.path, start, stop)


@dataclass(frozen=True)
class NpyHeader:
    """The content of an ``.npy`` header.

    Attributes:
        dtype: Element type.
        shape: Shape of the array.
        fortran: The first index runs fastest.
        offset: Bytes before the first element.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int


def read_header(stream: IO[bytes]) -> NpyHeader:
    """Read the header of an untrusted ``.npy`` stream; at most a few KiB are read, whatever length it states.

    Raises:
        ValueError: It is not such a header, or states a shape or element type that numpy does not have.
    """
    start = io.BytesIO(stream.read(_HEADER_BYTES))
    try:
        version = np.lib.format.read_magic(start)
        if version not in _READERS:
            raise ValueError(f"format version {version} is for structured arrays")
        shape, fortran, dtype = _READERS[version](start)
    except Exception as error:  # the literal and the type in it make numpy raise a dozen kinds of errors
        raise ValueError(f"not an .npy header: {first_line(error)}") from error
    if len(shape) > _MAX_DIMENSIONS or not all(0 <= size < 2**63 for size in shape):
        raise ValueError("the header states a shape that no array has")
    return NpyHeader(dtype, shape, fortran and len(shape) > 1, start.tell())


def rows(path: Path, start: int, stop: int) -> Array:
    """Rows ``start:stop`` of an ``.npy`` file, copied. The mapping is dropped at once: resident memory stays flat."""
    mapped = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.array(mapped[start:stop])


def chosen_rows(path: Path, places: Array) -> Array:
    """Rows of an ``.npy`` file, in the order asked for; as flat in memory as `rows`."""
    return np.array(np.load(path, mmap_mode="r", allow_pickle=False)[places])


def content_hash(array: Array) -> str:
    """SHA-256 of an array's elements in C order."""
    return hashlib.sha256(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data).hexdigest()


class NpyWriter:
    """Writes an ``.npy`` file row block by row block, without knowing how many rows will come. A context manager.

    The file appears under its content's hash when `close` is called; left without it, nothing remains.

    Args:
        folder: An existing folder to write into.
        dtype: Element type.
        row_shape: Shape of one row.
    """

    def __init__(self, folder: Path, dtype: np.dtype[Any], row_shape: tuple[int, ...]) -> None:
        self.dtype = dtype
        self.row_shape = row_shape
        self.n = 0
        self._folder = folder
        self._hash = hashlib.sha256()
        self._partial = folder / f".partial-{os.getpid()}-{secrets.token_hex(4)}"
        self._file = self._partial.open("w+b")
        self._start = self._write_header()

    def append(self, block: Array) -> None:
        """Add rows.

        Args:
            block: ``[k, *row_shape]`` of the file's dtype.

        Raises:
            ValueError: Another dtype or row shape.
        """
        if block.dtype != self.dtype or block.shape[1:] != self.row_shape:
            raise ValueError(f"rows are {self.dtype} {self.row_shape}, not {block.dtype} {block.shape[1:]}")
        raw = np.ascontiguousarray(block).reshape(-1).view(np.uint8)
        self._hash.update(raw.data)
        self._file.write(raw.data)
        self.n += len(block)

    def close(self) -> NpyFile:
        """Patch the row count into the header and give the file its name.

        Returns:
            The finished file, ``<first 16 digits of its hash>.npy``.
        """
        self._file.seek(0)
        if self._write_header() != self._start:
            raise ValueError(f"{self.n} rows do not fit the header reserved for them")
        self._file.seek(0)
        self._hash.update(self._file.read(self._start))
        self._file.close()
        digest = self._hash.hexdigest()
        path = self._folder / f"{digest[:16]}.npy"
        self._partial.replace(path)
        return NpyFile(path, digest, (self.n, *self.row_shape), self.dtype.name)

    def _write_header(self) -> int:
        header = {
            "descr": np.lib.format.dtype_to_descr(self.dtype),
            "fortran_order": False,
            "shape": (self.n, *self.row_shape),
        }
        # numpy pads the header for a first dimension of any length, so that it keeps its size when the count is known.
        np.lib.format.write_array_header_1_0(self._file, header)
        return self._file.tell()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._file.close()
        self._partial.unlink(missing_ok=True)
