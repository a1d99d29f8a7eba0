"""The run directory: one place for everything a run leaves, written atomically, locked while written, resumable."""

from __future__ import annotations

import fcntl
import hashlib
import io
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

import polars as pl

from hwbench.disk import explained
from hwbench.errors import RunDirectoryError
from hwbench.faults.listing import as_csv
from hwbench.files import require_file
from hwbench.integrity import SEAL, DamagedError, file_sha256, read_object, read_sealed, require_intact, sealed
from hwbench.scratch import PLACING, sweep
from hwbench.table import SCHEMA, checked

SCHEMA_VERSION = 1
SETTLED = frozenset({"complete", "interrupted"})
"""States in which nothing writes: what a reader finds has the hashes that ``run.json`` names."""
RUN_FILE = "run.json"
TABLE_FILE = "measurements.parquet"
_RECORD_BYTES = 1 << 26  # of run.json, some hundred times what a large run needs
_ADVICE = "free some space and go on with --resume"


class RunDirectory:
    """A folder that holds one run.

    Args:
        path: The folder; it must hold a ``run.json``.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._hashes: dict[str, str] = {}
        self._settled = False

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
            require_file(file, RunDirectoryError, most=_RECORD_BYTES)
        try:
            if not self.path.is_dir():
                raise FileNotFoundError(self.path)
            record = read_object(file)
            version = record.get("schema_version")
            if not isinstance(version, int) or version > SCHEMA_VERSION:
                raise RunDirectoryError(
                    f"{file}: schema version {version}, this hwbench reads up to {SCHEMA_VERSION}; upgrade hwbench"
                )
            if SEAL in record:  # earlier versions wrote no hashes
                record = read_sealed(file)
                del record[SEAL]
        except FileNotFoundError:
            raise RunDirectoryError(f"{self.path}: no run here ({RUN_FILE} is missing)") from None
        except DamagedError as error:
            raise damaged(file, error) from None
        files = record.pop("files", {})
        self._hashes = files if isinstance(files, dict) else {}
        self._settled = str(record.get("state")) in SETTLED
        return record

    def write(self, record: Mapping[str, Any]) -> None:
        """Replace ``run.json``, which also holds the hashes of all that was written before."""
        content = sealed({"schema_version": SCHEMA_VERSION, **record, "files": self._hashes})
        self._replace(self.path / RUN_FILE, json.dumps(content, indent=2).encode())
        self._settled = False

    def table(self) -> pl.DataFrame:
        """The measurement table; empty if nothing was measured yet.

        Raises:
            RunDirectoryError: It is damaged, or no measurement table.
        """
        file = self.path / TABLE_FILE
        if not file.exists() and TABLE_FILE not in self._hashes:
            return pl.DataFrame(schema=SCHEMA)
        table = self._read_parquet(file)
        try:
            return checked(table)
        except ValueError as error:
            raise damaged(file, error) from None

    def write_table(self, table: pl.DataFrame) -> None:
        """Replace the measurement table."""
        self._write(self.path / TABLE_FILE, _parquet(table))

    def write_part(self, kind: str, profile: str, table: pl.DataFrame, part: int = 0) -> str:
        """Write one part of a study's own table, e.g. of ``trials/<profile>`` or ``draws/<profile>``; its name in the run."""
        return self._write(self.path / kind / profile / f"part-{part:05d}.parquet", _parquet(table))

    def read_parts(self, kind: str, profile: str) -> pl.DataFrame | None:
        """All parts of a study's own table; None where there are none.

        Raises:
            RunDirectoryError: A part is damaged or missing.
        """
        if Path(profile).name != profile:
            return None  # a profile's name comes from the run's table, which may be anybody's
        folder = self.path / kind / profile
        known = {name for name in self._hashes if Path(name).parent == Path(kind, profile)}
        names = known | {str(path.relative_to(self.path)) for path in folder.glob("part-*.parquet")}
        parts = [self._read_parquet(self.path / name) for name in sorted(names)]
        try:
            return pl.concat(parts) if parts else None
        except pl.exceptions.PolarsError as error:
            raise damaged(folder, error) from None

    def write_list(self, profile: str, name: str, table: pl.DataFrame) -> str:
        """Write a fault list, ``faults/<profile>/<name>.csv``; its name in the run."""
        return self._write(self.path / "faults" / profile / f"{name}.csv", as_csv(table))

    def build_folder(self, key: str) -> Path:
        """Where a build is placed."""
        return self.path / "builds" / key

    def keep_compiled(self, build: str, key: str, file: Path) -> str:
        """Copy a build's compiled form beside it, under ``compiled/<key>/``; its name in the run."""
        return self._write(self.build_folder(build) / "compiled" / key / file.name, file.read_bytes())

    def hashes(self, names: Iterable[str]) -> dict[str, str]:
        """Hashes of files that were written, by their names in the run."""
        return {name: self._hashes[name] for name in names}

    def adopt(self, hashes: Mapping[str, str]) -> bool:
        """Take over files that an interrupted run has written; False if one of them is missing or another now."""
        try:
            require_intact(self.path, hashes)
        except DamagedError:
            return False
        self._hashes.update(hashes)
        return True

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
        self._require_no_links()
        there = self.read()
        known = there.get("fingerprint")
        known = known if isinstance(known, dict) else {}
        differing = sorted(key for key, value in record["fingerprint"].items() if known.get(key) != value)
        if differing:
            raise RunDirectoryError(
                f"{self.path}: cannot be resumed: it was made with another {', '.join(differing)}; "
                "use --overwrite or another folder"
            )
        if there.get("state") != "complete":
            self.write({**there, "state": "running"})  # from now on tables may be newer than their hashes

    def _require_no_links(self) -> None:
        """Refuse a run with links: in a directory from elsewhere they lead what is written, or removed, to any folder."""
        for folder, folders, files in os.walk(self.path):
            for name in (*folders, *files):
                _require_no_link(Path(folder, name))

    def _clear(self) -> None:
        # run.json goes first: a folder without it is no run, so an interruption leaves no half of one.
        (self.path / RUN_FILE).unlink()
        for entry in self.path.iterdir():
            if entry.name == ".lock":
                continue
            shutil.rmtree(entry) if entry.is_dir() and not entry.is_symlink() else entry.unlink()
        self._hashes = {}

    def _write(self, file: Path, content: bytes) -> str:
        """Replace a file, keep its hash for ``run.json``, and return its name in the run."""
        file.parent.mkdir(parents=True, exist_ok=True)
        self._replace(file, content)
        name = str(file.relative_to(self.path))
        self._hashes[name] = hashlib.sha256(content).hexdigest()
        return name

    def _replace(self, file: Path, content: bytes) -> None:
        partial = file.with_name(f".{file.name}.partial")
        partial.unlink(missing_ok=True)  # in a directory from elsewhere it may be a link to any file
        try:
            partial.write_bytes(content)
            partial.replace(file)
        finally:
            partial.unlink(missing_ok=True)

    def _problem(self, file: Path) -> str:
        """The reason not to believe a file; empty while the run is being written."""
        if not (self._settled and self._hashes):
            return ""
        known = self._hashes.get(str(file.relative_to(self.path)))
        try:
            found = file_sha256(file)
        except OSError as error:
            return f"cannot be read: {error.strerror or error}"
        return (
            "" if found == known else "not part of the run" if known is None else "its content is not what was written"
        )

    def _read_parquet(self, file: Path) -> pl.DataFrame:
        if problem := self._problem(file):
            raise damaged(file, problem)
        require_file(file, RunDirectoryError)
        try:
            # Not by name: polars would expand wildcards in it.
            return pl.read_parquet(io.BytesIO(file.read_bytes()))
        except (pl.exceptions.PolarsError, pl.exceptions.PanicException, OSError) as error:
            raise damaged(file, error) from None


def damaged(file: Path, reason: object) -> RunDirectoryError:
    """The error of a damaged file of a run: what is wrong, where, and what to do."""
    first = (str(reason).splitlines() or [""])[0]
    return RunDirectoryError(f"{file}: damaged: {first}; restore it from an intact copy, or run again with --overwrite")


def _parquet(table: pl.DataFrame) -> bytes:
    # In memory first: polars tells of a full disk with an error of its own, without the errno.
    stream = io.BytesIO()
    table.write_parquet(stream)
    return stream.getvalue()


@contextmanager
def _lock(path: Path) -> Iterator[None]:
    """An advisory lock the kernel drops with the process, so that a killed run leaves none behind."""
    _require_no_link(path / ".lock")
    descriptor = os.open(path / ".lock", os.O_CREAT | os.O_RDWR | os.O_NOFOLLOW)
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


def _require_no_link(entry: Path) -> None:
    if entry.is_symlink():
        raise RunDirectoryError(
            f"{entry}: is a link, and hwbench makes none in a run; remove it, or name another folder"
        )


def _only_lock(path: Path) -> bool:
    return [entry.name for entry in path.iterdir()] == [".lock"]
