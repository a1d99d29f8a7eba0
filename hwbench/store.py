"""The run directory: one place for everything a run leaves, written atomically, locked while written, resumable."""

from __future__ import annotations

import fcntl
import io
import json
import os
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import polars as pl

from hwbench.disk import explained
from hwbench.errors import RunDirectoryError
from hwbench.faults.listing import as_csv
from hwbench.files import require_file
from hwbench.scratch import PLACING, sweep
from hwbench.table import SCHEMA

SCHEMA_VERSION = 1
RUN_FILE = "run.json"
TABLE_FILE = "measurements.parquet"
_ADVICE = "free some space and go on with --resume"


class RunDirectory:
    """A folder that holds one run.

    Args:
        path: The folder; it must hold a ``run.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def open(cls, path: Path) -> Self:
        """Open a finished or interrupted run for reading.

        Raises:
            RunDirectoryError: The folder holds no run, or one a newer hwbench wrote.
        """
        directory = cls(path)
        directory.read()
        return directory

    @classmethod
    @contextmanager
    def create(
        cls, path: Path, record: Mapping[str, Any], *, overwrite: bool = False, resume: bool = False
    ) -> Iterator[Self]:
        """Open a folder for writing, under a lock.

        Args:
            path: The folder, made if missing.
            record: The first content of ``run.json``. Resuming needs the same ``fingerprint`` in it.
            overwrite: Replace a run that is there.
            resume: Go on with a run that is there.

        Raises:
            RunDirectoryError: Another run is there, another process is writing it, the run to resume is a different one, or
                the folder cannot be written.
        """
        directory = cls(path)
        with explained(path, _ADVICE):
            if path.exists() and not path.is_dir():
                raise RunDirectoryError(f"{path}: is a file; name a folder")
            if path.is_dir() and any(path.iterdir()) and not (path / RUN_FILE).is_file() and not _only_lock(path):
                raise RunDirectoryError(f"{path}: holds other files and no run; name an empty or a new folder")
            path.mkdir(parents=True, exist_ok=True)
            with _lock(path):
                directory._claim(record, overwrite=overwrite, resume=resume)
                sweep(path / "builds", PLACING)
                yield directory

    def read(self) -> dict[str, Any]:
        """The content of ``run.json``.

        Raises:
            RunDirectoryError: There is none, it is damaged, or a newer hwbench wrote it.
        """
        file = self.path / RUN_FILE
        if file.exists():
            require_file(file, RunDirectoryError)
        try:
            record = json.loads(file.read_text())
        except OSError:
            raise RunDirectoryError(f"{self.path}: no run here ({RUN_FILE} is missing)") from None
        except ValueError as error:
            raise RunDirectoryError(f"{file}: damaged: {error}") from None
        if not isinstance(record, dict):
            raise RunDirectoryError(f"{file}: damaged: not a JSON object")
        version = record.get("schema_version")
        if not isinstance(version, int) or version > SCHEMA_VERSION:
            raise RunDirectoryError(
                f"{file}: schema version {version}, this hwbench reads up to {SCHEMA_VERSION}; upgrade hwbench"
            )
        return record

    def write(self, record: Mapping[str, Any]) -> None:
        """Replace ``run.json``."""
        text = json.dumps({"schema_version": SCHEMA_VERSION, **record}, indent=2)
        self._replace(self.path / RUN_FILE, lambda partial: partial.write_text(text))

    def table(self) -> pl.DataFrame:
        """The measurement table; empty if nothing was measured yet."""
        file = self.path / TABLE_FILE
        if not file.exists():
            return pl.DataFrame(schema=SCHEMA)
        require_file(file, RunDirectoryError)
        try:
            return pl.read_parquet(file)
        except pl.exceptions.PolarsError as error:
            raise RunDirectoryError(f"{file}: damaged: {error}") from None

    def write_table(self, table: pl.DataFrame) -> None:
        """Replace the measurement table."""
        self._replace(self.path / TABLE_FILE, lambda partial: partial.write_bytes(_parquet(table)))

    def write_part(self, kind: str, profile: str, table: pl.DataFrame, part: int = 0) -> None:
        """Write one part of a study's own table, e.g. of ``trials/<profile>`` or ``draws/<profile>``."""
        folder = self.path / kind / profile
        folder.mkdir(parents=True, exist_ok=True)
        self._replace(folder / f"part-{part:05d}.parquet", lambda partial: partial.write_bytes(_parquet(table)))

    def read_parts(self, kind: str, profile: str) -> pl.DataFrame | None:
        """All parts of a study's own table; None where there are none.

        Raises:
            RunDirectoryError: A part is damaged.
        """
        if Path(profile).name != profile:
            return None  # a profile's name comes from the run's table, which may be anybody's
        files = sorted((self.path / kind / profile).glob("part-*.parquet"))
        for file in files:
            require_file(file, RunDirectoryError)
        try:
            return pl.concat([pl.read_parquet(file) for file in files]) if files else None
        except (pl.exceptions.PolarsError, OSError) as error:
            raise RunDirectoryError(f"{self.path / kind / profile}: damaged: {error}") from None

    def write_list(self, profile: str, name: str, table: pl.DataFrame) -> None:
        """Write a fault list, ``faults/<profile>/<name>.csv``."""
        folder = self.path / "faults" / profile
        folder.mkdir(parents=True, exist_ok=True)
        self._replace(folder / f"{name}.csv", lambda partial: partial.write_bytes(as_csv(table)))

    def build_folder(self, key: str) -> Path:
        """Where a build is placed."""
        return self.path / "builds" / key

    def keep_compiled(self, build: str, key: str, file: Path) -> None:
        """Copy a build's compiled form beside it, under ``compiled/<key>/``."""
        place = self.build_folder(build) / "compiled" / key / file.name
        place.parent.mkdir(parents=True, exist_ok=True)
        self._replace(place, lambda partial: shutil.copyfile(file, partial))

    @property
    def jobs(self) -> Path:
        """Where raw results lie until the run is complete, so that it can be resumed."""
        return self.path / "jobs"

    @property
    def data(self) -> Path:
        """Where evaluation and calibration data lie until the run is complete."""
        return self.path / "data"

    def finish(self) -> None:
        """Remove what only a resumed run would need."""
        shutil.rmtree(self.jobs, ignore_errors=True)
        shutil.rmtree(self.data, ignore_errors=True)

    def _claim(self, record: Mapping[str, Any], *, overwrite: bool, resume: bool) -> None:
        if (self.path / RUN_FILE).is_file():
            if resume:
                self._check_same(record)
                return
            if not overwrite:
                raise RunDirectoryError(
                    f"{self.path}: holds a run; use --overwrite to replace it, --resume to go on with it, or another folder"
                )
            self._clear()
        self.write(record)

    def _check_same(self, record: Mapping[str, Any]) -> None:
        there = self.read()
        differing = sorted(
            key for key, value in record["fingerprint"].items() if there.get("fingerprint", {}).get(key) != value
        )
        if differing:
            raise RunDirectoryError(
                f"{self.path}: cannot be resumed: it was made with another {', '.join(differing)}; "
                "use --overwrite or another folder"
            )

    def _clear(self) -> None:
        # run.json goes first: a folder without it is no run, so an interruption leaves no half of one.
        (self.path / RUN_FILE).unlink()
        for entry in self.path.iterdir():
            if entry.name == ".lock":
                continue
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()

    def _replace(self, file: Path, write: Callable[[Path], Any]) -> None:
        partial = file.with_name(f".{file.name}.partial")
        try:
            write(partial)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)


def _parquet(table: pl.DataFrame) -> bytes:
    # In memory first: polars tells of a full disk with an error of its own, without the errno.
    stream = io.BytesIO()
    table.write_parquet(stream)
    return stream.getvalue()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """An advisory lock the kernel drops with the process, so that a killed run leaves none behind."""
    descriptor = os.open(path / ".lock", os.O_CREAT | os.O_RDWR)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise RunDirectoryError(
                f"{path}: another hwbench is writing here; wait for it or name another folder"
            ) from None
        yield
    finally:
        os.close(descriptor)


def _only_lock(path: Path) -> bool:
    return [entry.name for entry in path.iterdir()] == [".lock"]
