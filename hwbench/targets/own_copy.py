"""An own copy of the libraries that a worker maps, so that a job can start with none of its files in memory.

The page cache belongs to whoever read a page first: a library that is in memory already is charged to no cap. Pages can be
dropped, but not while any process maps them, as hwbench itself maps the interpreter and numpy. A worker that runs from files of
its own shares no page with anybody; dropped before every job, all that it touches is charged to its group.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from hwbench.integrity import DamagedError, file_sha256, read_sealed, sealed

_MANIFEST = "own-copy.json"


@dataclass(frozen=True)
class OwnCopy:
    """The copy in one folder.

    Attributes:
        folder: Where it lies, on a disk: what lies in memory cannot be dropped from it.
        roots: Folders in it that hold packages, searched before the originals.
        copied: Its files: the interpreter, and every library.
        read: Files that workers only read, where they are; dropped like the copy.
        bytes: What the copied files hold.
    """

    folder: Path
    roots: tuple[Path, ...]
    copied: tuple[Path, ...]
    read: tuple[Path, ...]
    bytes: int

    @classmethod
    def make(cls, folder: Path, mapped: Sequence[str], read: Iterable[str], roots: Iterable[str]) -> OwnCopy:
        """Copy what a worker mapped, unless ``folder`` holds that already, undamaged.

        The lists are a worker's own, which may be in a hostile model's hands, and the next worker runs from the copy before it
        is confined: of libraries that are not in the folders given, none is copied.

        Args:
            folder: Made if it is missing.
            mapped: The files a worker had mapped, by their full paths.
            read: The files it read besides.
            roots: Folders that hold libraries, none of which a worker can write.
        """
        try:
            return cls.load(folder)
        except (FileNotFoundError, DamagedError):
            trusted = [Path(root).resolve() for root in roots]
            _Maker(folder).make([Path(path) for path in mapped], read, trusted)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path) -> OwnCopy:
        """The copy that `make` left in a folder.

        Raises:
            FileNotFoundError: There is none, or a file of it is missing.
            DamagedError: It is not what was copied.
        """
        content = read_sealed(folder / _MANIFEST)
        for name, digest in content["copied"].items():
            if file_sha256(folder / name) != digest:
                raise DamagedError(f"{folder / name} is not what was copied")
        copied = tuple(folder / name for name in content["copied"])
        read = tuple(Path(path) for path in content["read"])
        return cls(folder, tuple(folder / name for name in content["roots"]), copied, read, content["bytes"])

    def drop(self) -> None:
        """Drop all files from the page cache; what another process maps stays there."""
        for path in (*self.copied, *self.read):
            try:
                descriptor = os.open(path, os.O_RDONLY)
            except FileNotFoundError:  # compiled code that was not kept, for example
                continue
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)

    def command(self, command: Sequence[str]) -> list[str]:
        """A command line of this interpreter, with the copied one in its place."""
        return [str(self.folder / "bin" / "python"), *command[1:]]

    def environment(self, environment: Mapping[str, str]) -> dict[str, str]:
        """The environment in which the copied libraries are found before the originals."""
        libraries = [str(self.folder / "lib"), environment.get("LD_LIBRARY_PATH", "")]
        packages = [*map(str, self.roots), environment.get("PYTHONPATH", "")]
        return {
            **environment,
            "LD_LIBRARY_PATH": os.pathsep.join(filter(None, libraries)),
            "PYTHONPATH": os.pathsep.join(filter(None, packages)),
            "PYTHONHOME": os.pathsep.join((sys.base_prefix, sys.base_exec_prefix)),
        }


class _Maker:
    """Makes a copy: packages as mirrors of links in which only libraries are files, other libraries in one folder."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._entries = sorted({Path(entry).resolve() for entry in sys.path}, key=lambda path: -len(path.parts))
        self._roots: dict[Path, Path] = {}
        self._copied: list[Path] = []

    def make(self, mapped: Sequence[Path], read: Iterable[str], roots: Sequence[Path]) -> None:
        shutil.rmtree(self._folder, ignore_errors=True)  # half of one, from a run that was killed
        libraries = [path for path in mapped if ".so" in path.name and _is_beneath(path, roots)]
        self._copy(Path(sys.executable).resolve(), self._folder / "bin" / "python")
        for path in libraries:
            entry = next((entry for entry in self._entries if path.is_relative_to(entry)), None)
            if entry is None:
                self._library(path)
            else:
                self._mirror(entry, path.relative_to(entry))
        content = {
            "roots": [path.name for path in self._roots.values()],
            "copied": {str(path.relative_to(self._folder)): file_sha256(path) for path in self._copied},
            "read": sorted({*read, *(str(path) for path in mapped if path not in libraries)}),
            "bytes": sum(path.stat().st_size for path in self._copied),
        }
        (self._folder / _MANIFEST).write_text(json.dumps(sealed(content)))

    def _library(self, path: Path) -> None:
        """A library that the loader finds by name: under that name, and those of the links to it."""
        self._copy(path, self._folder / "lib" / path.name)
        for other in path.parent.iterdir():
            if other.is_symlink() and other.resolve() == path.resolve():
                (self._folder / "lib" / other.name).symlink_to(path.name)

    def _mirror(self, entry: Path, place: Path) -> None:
        """A library of a package: it must lie where the package's own files expect it."""
        root = self._roots.setdefault(entry, self._folder / f"path{len(self._roots)}")
        original, mirror = entry, root
        for part in place.parts[:-1]:
            original, mirror = original / part, mirror / part
            if mirror.is_symlink():
                mirror.unlink()
            if not mirror.exists():
                mirror.mkdir(parents=True)
                for other in original.iterdir():
                    (mirror / other.name).symlink_to(other)
        (mirror / place.name).unlink(missing_ok=True)
        self._copy(entry / place, mirror / place.name)

    def _copy(self, path: Path, to: Path) -> None:
        to.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, to)
        to.chmod(0o700)
        with to.open("rb") as file:
            os.fsync(file)  # what is not on the disk yet cannot be dropped
        self._copied.append(to)


def _is_beneath(path: Path, roots: Iterable[Path]) -> bool:
    """True if a path leads into one of the folders, neither by a link nor by ``..``."""
    return path == path.resolve() and any(path.is_relative_to(root) for root in roots)
