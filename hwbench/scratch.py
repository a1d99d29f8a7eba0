"""Temporary folders that the next start removes if the process that made them was killed (standard library only).

A folder is in use while its maker holds a lock on a file in it. The kernel releases the lock when the process ends, for
whatever reason. Process ids are not used, since they are recycled.
"""

from __future__ import annotations

import fcntl
import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

LOCK = ".lock"
PLACING = ".placing-"
"""Beginning of the names of folders in which builds are put together beside where they are placed."""
# A folder without a lock file is being made at this moment, or was left by an earlier version.
_STALE_S = 86_400.0


@contextmanager
def scratch_folder(parent: Path, prefix: str = "") -> Iterator[Path]:
    """A temporary folder, in use until the context ends or the process dies.

    Args:
        parent: Its parent folder; made if it is missing.
        prefix: Beginning of its name.
    """
    parent.mkdir(parents=True, exist_ok=True)
    folder, lock = _hold(parent, prefix)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
        os.close(lock)


def sweep(parent: Path, prefix: str = "") -> None:
    """Remove the scratch folders of dead processes; those of running ones, also on machines that share the disk, are kept.

    Args:
        parent: Their parent folder.
        prefix: Beginning of their names.
    """
    with suppress(OSError):
        for entry in list(os.scandir(parent)):
            if entry.name.startswith(prefix) and entry.is_dir(follow_symlinks=False):
                with suppress(OSError):  # another process removes it too, or it is not ours to remove
                    _remove_abandoned(Path(entry.path))


def remove(path: Path) -> None:
    """Remove a file, a link or a folder as far as possible; do nothing if it is missing."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _hold(parent: Path, prefix: str) -> tuple[Path, int]:
    """Make a folder and lock it; retry if a sweep removes it in between."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        with suppress(FileNotFoundError):
            lock = os.open(folder / LOCK, os.O_CREAT | os.O_RDWR, 0o600)
            with suppress(OSError):  # a file system without locks: nobody else can lock it either, and it is not swept
                fcntl.flock(lock, fcntl.LOCK_EX)
            if _is_there(folder, lock):
                return folder, lock
            os.close(lock)


def _is_there(folder: Path, lock: int) -> bool:
    try:
        return os.path.samestat((folder / LOCK).stat(), os.fstat(lock))
    except FileNotFoundError:
        return False


def _remove_abandoned(folder: Path) -> None:
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        if time.time() - folder.stat().st_mtime > _STALE_S:
            shutil.rmtree(folder, ignore_errors=True)
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        shutil.rmtree(folder, ignore_errors=True)
    finally:
        os.close(lock)
