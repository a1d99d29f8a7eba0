"""``.npz`` files, read row by row out of the zip archive: neither the file nor an array is ever whole in memory."""

from __future__ import annotations

import math
import tempfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import numpy as np

from hwbench.dataset.source import Batch, Source
from hwbench.dataset.spec import DataSpec
from hwbench.errors import DataError
from hwbench.npy import Array

_DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, ValueError, NotImplementedError, RuntimeError)

_READERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
COPY_BYTES = 1 << 20


@dataclass(frozen=True)
class _Member:
    """One array of the archive, as its header states it."""

    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    fortran: bool
    offset: int


class NpzSource(Source):
    """The arrays of an ``.npz`` file.

    Raises:
        DataError: The file is missing or damaged, an array is not made of numbers, or arrays differ in length.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self._path = Path(spec.source)
        self._members = self._headers()
        self._label_name = self._label(list(self._members))
        self.names = tuple(name for name in self._members if name != self._label_name)

    def _headers(self) -> dict[str, _Member]:
        try:
            with zipfile.ZipFile(self._path) as archive:
                infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
                return {info.filename.removesuffix(".npy"): self._header(archive, info) for info in infos}
        except FileNotFoundError:
            raise DataError(f"{self._path}: no such file") from None
        except PermissionError as error:
            raise DataError(f"{self._path}: cannot be read ({error.strerror}); check its permissions") from error
        except zipfile.BadZipFile as error:
            raise DataError(
                f"{self._path}: not an .npz file, or truncated ({error}); write it again with numpy.savez"
            ) from error

    def _header(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Member:
        name = info.filename.removesuffix(".npy")
        with self._guard(name), archive.open(info) as stream:
            version = np.lib.format.read_magic(stream)
            if version not in _READERS:
                raise ValueError(f".npy format {version} is for structured arrays")
            shape, fortran, dtype = _READERS[version](stream)
            member = _Member(dtype, shape, fortran and len(shape) > 1, stream.tell())
        if dtype.hasobject or dtype.kind not in "iufb":
            raise DataError(f"{self._path}: array {name!r} holds {dtype}, not numbers; save it as a numeric array")
        if not shape:
            raise DataError(f"{self._path}: array {name!r} is a single number, not one row a sample")
        if info.file_size != member.offset + math.prod(shape) * dtype.itemsize:
            raise DataError(
                f"{self._path}: array {name!r} is truncated or damaged: its header states shape {list(shape)} of "
                f"{dtype}, which is not the {info.file_size - member.offset} bytes stored"
            )
        return member

    @contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        try:
            yield
        except _DAMAGE as error:
            raise DataError(
                f"{self._path}: array {name!r} is truncated or damaged ({error}); write the file again"
            ) from error

    def _read(self, size: int, names: tuple[str, ...]) -> Iterator[Batch]:
        wanted = list(dict.fromkeys([*names, *([self._label_name] if self._label_name else [])]))
        lengths = {name: self._members[name].shape[0] for name in wanted}
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise DataError(f"{self._path}: arrays differ in length ({counts})")
        n = next(iter(lengths.values()), 0)
        with ExitStack() as stack:
            archive = stack.enter_context(zipfile.ZipFile(self._path))
            streams = {name: stack.enter_context(self._open(archive, name)) for name in wanted}
            for start in range(0, n, size):
                stop = min(start + size, n)
                blocks = {name: self._rows(streams[name], name, start, stop) for name in wanted}
                yield {name: blocks[name] for name in names}, blocks[self._label_name] if self._label_name else None

    @contextmanager
    def _open(self, archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes]]:
        """The array's bytes after its header; a Fortran-ordered one, its rows scattered, unpacked to disk first."""
        member = self._members[name]
        with ExitStack() as stack:
            with self._guard(name):
                stream: IO[bytes] = stack.enter_context(archive.open(f"{name}.npy"))
                stream.read(member.offset)
            if member.fortran:
                unpacked = stack.enter_context(tempfile.TemporaryFile())
                while chunk := self._chunk(stream, name):
                    unpacked.write(chunk)
                stream = unpacked
            yield stream

    def _chunk(self, stream: IO[bytes], name: str) -> bytes:
        with self._guard(name):
            return stream.read(COPY_BYTES)

    def _rows(self, stream: IO[bytes], name: str, start: int, stop: int) -> Array:
        member = self._members[name]
        with self._guard(name):
            if member.fortran:
                return _fortran_rows(stream, member, start, stop)
            raw = stream.read((stop - start) * math.prod(member.shape[1:]) * member.dtype.itemsize)
            return np.frombuffer(raw, member.dtype).reshape(stop - start, *member.shape[1:])


def _fortran_rows(stream: IO[bytes], member: _Member, start: int, stop: int) -> Array:
    """Rows of an array whose first index runs fastest: one short read per column."""
    n, *rest = member.shape
    columns = np.empty((math.prod(rest), stop - start), member.dtype)
    for at in range(len(columns)):
        stream.seek((at * n + start) * member.dtype.itemsize)
        columns[at] = np.frombuffer(stream.read((stop - start) * member.dtype.itemsize), member.dtype)
    return columns.reshape(*reversed(rest), stop - start).T
