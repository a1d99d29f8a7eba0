"""From a data specification to the source that reads it, and the source that is a user's own callable."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.callables import foreign_code, is_reference, load_callable
from hwbench.dataset.images import ImageFolderSource
from hwbench.dataset.npz import NpzSource
from hwbench.dataset.source import Batch, Source, rows_within
from hwbench.dataset.spec import DataSpec
from hwbench.errors import DataError
from hwbench.npy import Array

FORMS = ".npz, .csv or .parquet file, folder with one folder of images per class, or module:callable"


def open_source(spec: DataSpec) -> Source:
    """The source a specification describes; only headers are read yet.

    Raises:
        DataError: It is missing, damaged, or of no known kind.
        UnavailableError: Reading it needs a package that is not installed.
    """
    path = Path(spec.source)
    if spec.preprocess is not None and not path.is_dir() and spec.preprocess.image_only():
        key = spec.preprocess.image_only()[0]
        raise DataError(f"{spec.source}: preprocess.{key} is for image folders; prepare arrays beforehand")
    if spec.classes is not None and not path.is_dir():
        raise DataError(f"{spec.source}: data.classes is for image folders; the labels of other data are class numbers")
    if path.is_dir():
        return ImageFolderSource(spec)
    suffix = path.suffix.lower()
    if suffix == ".npz":
        return NpzSource(spec)
    if suffix in {".csv", ".parquet"}:
        from hwbench.dataset.tables import CsvSource, ParquetSource  # polars takes a while to import

        return CsvSource(spec) if suffix == ".csv" else ParquetSource(spec)
    if is_reference(spec.source):
        return CallableSource(spec)
    if not path.exists():
        raise DataError(f"{spec.source}: no such file or folder; give a {FORMS}")
    raise DataError(f"{spec.source}: not a kind of data hwbench reads; give a {FORMS}")


class CallableSource(Source):
    """What a user's callable returns: ``(x, y)``, a mapping of arrays, or an iterable of such batches.

    Raises:
        DataError: It cannot be loaded, or returns something else.
    """

    def __init__(self, spec: DataSpec) -> None:
        super().__init__(spec)
        self._call = load_callable(spec.source, DataError)
        batches = self._batches()
        first = next(batches, None)
        if first is None:
            raise DataError(f"{self.origin}: empty; it gave no batch")
        self.names = tuple(first[0])
        self._begun: Iterator[Batch] | None = itertools.chain([first], batches)

    def _read(self, size: int, names: tuple[str, ...]) -> Iterator[Batch]:
        # The batches peeked at for their names are used up first: calling twice may be dear.
        batches, self._begun = self._begun or self._batches(), None
        for at, (arrays, labels) in enumerate(batches):
            missing = [name for name in names if name not in arrays]
            if missing:
                raise DataError(
                    f"{self.origin}: batch {at} lacks the array {missing[0]!r}; it has: {', '.join(arrays)}"
                )
            held = [*(arrays[name] for name in names), *([] if labels is None else [labels])]
            longest = max(map(len, held))
            step = rows_within(sum(values.nbytes for values in held) // max(longest, 1), size)
            for start in range(0, longest, step):
                part = slice(start, start + step)
                yield {name: arrays[name][part] for name in names}, None if labels is None else labels[part]

    def _batches(self) -> Iterator[Batch]:
        with foreign_code(f"{self.origin}()", DataError):
            returned = self._call()
        if isinstance(returned, Mapping | tuple) or hasattr(returned, "__array__"):
            yield self._batch(returned)
        elif isinstance(returned, Iterable) and not isinstance(returned, str | bytes):
            yield from map(self._batch, self._each(returned))
        else:
            raise DataError(
                f"{self.origin} returned {type(returned).__name__}; it must return (x, y), a dict of arrays, "
                "or an iterable of them"
            )

    def _each(self, returned: Iterable[Any]) -> Iterator[Any]:
        """The batches of the user's iterable."""
        with foreign_code(f"{self.origin}()", DataError):
            batches = iter(returned)
        end = object()
        while True:
            with foreign_code(f"a batch of {self.origin}()", DataError):
                given = next(batches, end)
            if given is end:
                return
            yield given

    def _batch(self, given: Any) -> Batch:
        labels: Any = None
        if isinstance(given, tuple | list):
            if len(given) != 2:
                raise DataError(f"{self.origin}: a batch is (x, y), not {len(given)} things")
            given, labels = given
        if not isinstance(given, Mapping):
            given = {"x": given}
        arrays = {str(name): self._array(str(name), values) for name, values in given.items()}
        if not arrays:
            raise DataError(f"{self.origin}: a batch without arrays")
        if labels is None:
            name = self._label(list(arrays))
            return (arrays, None) if name is None else (arrays, arrays.pop(name))
        return arrays, self._array("labels", labels)

    def _array(self, name: str, values: Any) -> Array:
        with foreign_code(f"{self.origin}: the array {name!r}", DataError):
            array = np.asarray(values)
        if array.dtype.kind not in "iufb" or not array.ndim:
            raise DataError(
                f"{self.origin}: {name!r} is {array.dtype} {list(array.shape)}, not numbers with one row a sample"
            )
        return array
