"""``.npz`` files, read block by block out of the zip archive: neither the file nor an array is ever whole in memory."""

from __future__ import annotations

import io
import math
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

import numpy as np

from hwbench.dataset.fortran import FortranRows
from hwbench.dataset.source import Batch, Sample, Source, require_samples, rows_within
from hwbench.dataset.spec import DataSpec
from hwbench.errors import DataError
from hwbench.files import require_file
from hwbench.npy import Array, NpyHeader, read_header

COPY_BYTES = 1 << 20
MAX_ARRAYS = 4096
# zipfile holds the archive's directory whole, whatever size it states.
_DIRECTORY_BYTES = 4 << 20
# numpy writes no others; zipfile unpacks these in bounded steps.
_COMPRESSIONS = frozenset({zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED})
_ENCRYPTED = 0x1


class NpzSource(Source):
    """The arrays of an ``.npz`` file.

    Raises:
        DataError: The file is missing or damaged, an array is not made of numbers, or arrays differ in length.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self._path = Path(spec.source)
        require_file(self._path, DataError, "file")
        self._headers = self._read_headers()
        self._numbers: dict[str, Array] = {}
        self._label_name = self._label(list(self._headers))
        self.names = tuple(name for name in self._headers if name != self._label_name)

    def sample(self, array: str) -> Sample | None:
        """Element type and shape of a sample, from the array's header."""
        header = self._headers[array]
        return Sample(header.dtype, header.shape[1:], header.shape[0]) if header.shape else None

    def _read_headers(self) -> dict[str, NpyHeader]:
        with self._archive() as archive:
            infos = [info for info in archive.infolist() if info.filename.endswith(".npy")]
            names = [info.filename.removesuffix(".npy") for info in infos]
            if len(names) > MAX_ARRAYS:
                raise DataError(
                    f"{self._path}: holds {len(names)} arrays, more than {MAX_ARRAYS}; keep those that the model takes"
                )
            if len(set(names)) < len(names):
                raise DataError(f"{self._path}: two arrays have the same name; write the file again with numpy.savez")
            return {name: self._header(archive, info, name) for name, info in zip(names, infos, strict=True)}

    @contextmanager
    def _archive(self) -> Iterator[zipfile.ZipFile]:
        try:
            raw = _ShortReads(io.FileIO(self._path))
        except OSError as error:
            raise DataError(f"{self._path}: cannot be read ({error.strerror}); check its permissions") from error
        with raw:
            try:
                archive = zipfile.ZipFile(raw)
            except Exception as error:  # zipfile lets struct's and the codecs' errors through
                raise DataError(
                    f"{self._path}: not an .npz file, or truncated ({str(error)[:200]}); write it again with numpy.savez"
                ) from error
            with archive:
                yield archive

    def _header(self, archive: zipfile.ZipFile, info: zipfile.ZipInfo, name: str) -> NpyHeader:
        if info.flag_bits & _ENCRYPTED or info.compress_type not in _COMPRESSIONS:
            raise DataError(
                f"{self._path}: array {name!r} is encrypted or compressed by another method than numpy's; write the file "
                "again with numpy.savez or numpy.savez_compressed"
            )
        with self._guard(name), archive.open(info) as stream:
            header = read_header(stream)
        dtype, shape = header.dtype, header.shape
        if dtype.hasobject or dtype.kind not in "iufb":
            raise DataError(
                f"{self._path}: array {name!r} holds {str(dtype)[:200]}, not numbers; save it as a numeric array"
            )
        if 0 in shape[1:]:
            raise DataError(f"{self._path}: array {name!r} has shape {list(shape)}, whose samples are empty")
        if info.file_size != header.offset + math.prod(shape) * dtype.itemsize:
            raise DataError(
                f"{self._path}: array {name!r} is truncated or damaged: its header states shape {list(shape)} of "
                f"{dtype}, which is not the {info.file_size - header.offset} bytes stored"
            )
        return header

    @contextmanager
    def _guard(self, name: str) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # zipfile, zlib and numpy raise a dozen kinds on damaged content
            raise DataError(
                f"{self._path}: array {name!r} is truncated or damaged ({str(error)[:200]}); write the file again"
            ) from error

    def _read(self, size: int, names: tuple[str, ...]) -> Iterator[Batch]:
        wanted = list(dict.fromkeys([*names, *([self._label_name] if self._label_name else [])]))
        lengths = {name: self._headers[name].shape[0] for name in wanted if self._headers[name].shape}
        if not lengths:
            raise DataError(f"{self._path}: array {wanted[0]!r} is a single number, not one row per sample")
        if len(set(lengths.values())) > 1:
            counts = ", ".join(f"{name}: {length}" for name, length in lengths.items())
            raise DataError(f"{self._path}: arrays differ in length ({counts})")
        n = next(iter(lengths.values()), 0)
        row_bytes = sum(Sample(one.dtype, one.shape[1:]).bytes for one in (self._headers[name] for name in wanted))
        require_samples(row_bytes, self.origin)
        step = rows_within(row_bytes, n)
        with ExitStack() as stack:
            archive = stack.enter_context(self._archive())
            arrays = {name: stack.enter_context(self._opened(archive, name)) for name in wanted}
            for first in range(0, n, step):
                stop = min(first + step, n)
                blocks = {name: self._rows(arrays[name], name, first, stop) for name in wanted}
                for start in range(0, stop - first, size):
                    parts = {name: block[start : start + size] for name, block in blocks.items()}
                    yield {name: parts[name] for name in names}, parts[self._label_name] if self._label_name else None

    @contextmanager
    def _opened(self, archive: zipfile.ZipFile, name: str) -> Iterator[IO[bytes] | FortranRows]:
        """The array's bytes after its header; a Fortran-ordered one unpacked to disk, for its rows are scattered."""
        header = self._headers[name]
        with ExitStack() as stack:
            with self._guard(name):
                stream = stack.enter_context(archive.open(f"{name}.npy"))
                stream.read(header.offset)
            if not header.fortran:
                yield stream
                return
            unpacked = stack.enter_context(tempfile.TemporaryFile())
            left = math.prod(header.shape) * header.dtype.itemsize
            while left:
                left -= unpacked.write(self._chunk(stream, name, left))
            unpacked.flush()
            scattered = FortranRows(unpacked, header)
            stack.callback(scattered.close)
            yield scattered

    def _chunk(self, stream: IO[bytes], name: str, left: int) -> bytes:
        """The next bytes, as many as are left or a bounded number."""
        with self._guard(name):
            chunk = stream.read(min(left, COPY_BYTES))
            if not chunk:
                raise EOFError("it ends early")
            return chunk

    def _rows(self, array: IO[bytes] | FortranRows, name: str, start: int, stop: int) -> Array:
        if isinstance(array, FortranRows):
            return array.rows(start, stop)
        header = self._headers[name]
        if not header.shape:  # a single number, the same for all samples
            if name not in self._numbers:
                self._numbers[name] = np.frombuffer(self._chunk(array, name, header.dtype.itemsize), header.dtype)
            return np.broadcast_to(self._numbers[name], stop - start)
        block = np.empty((stop - start, *header.shape[1:]), header.dtype)
        content, filled = block.reshape(-1).view(np.uint8), 0
        while filled < len(content):
            chunk = self._chunk(array, name, len(content) - filled)
            content[filled : filled + len(chunk)] = np.frombuffer(chunk, np.uint8)
            filled += len(chunk)
        return block


class _ShortReads(io.BufferedReader):
    """A file for zipfile, which reads as much at once as an archive states."""

    def read(self, size: int | None = -1, /) -> bytes:
        """At most the bytes that an archive's directory may have."""
        if size is not None and size > _DIRECTORY_BYTES:
            raise zipfile.BadZipFile(f"its directory of {size} bytes is longer than {_DIRECTORY_BYTES}")
        return super().read(_DIRECTORY_BYTES if size is None or size < 0 else size)
