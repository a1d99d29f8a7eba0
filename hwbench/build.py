"""Builds: what applying a profile's precision to a model gives, content-addressed and cached."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import stat
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench.dataset import Dataset
from hwbench.disk import explained, full_disk_named, require_space
from hwbench.errors import JobError, ModelError, RunDirectoryError, UnavailableError
from hwbench.files import require_text
from hwbench.host import cache_home
from hwbench.integrity import DamagedError, file_sha256, read_sealed, sealed
from hwbench.model import MAX_IR_VERSION, MAX_OPSET, Model
from hwbench.profile import Precision
from hwbench.quantize import quantizer_versions
from hwbench.scratch import PLACING, scratch_folder, sweep
from hwbench.worker.protocol import REFUSED, Job, JobResult

MANIFEST = "manifest.json"
MODEL_FILE = "model.onnx"
# Raised when the same inputs would give another file.
_RECIPE = 4
_SCHEMA_VERSION = 2
_MAKING = ".making-"
_PLACING_ADVICE = "free some space there; a run goes on with --resume"
_ADVICE = "free some space there, or set HWBENCH_CACHE to a folder on another disk"


@dataclass(frozen=True)
class Recipe:
    """Everything that decides what a build's file holds; no profile's name, limits or acceptance rules are among it.

    Attributes:
        model: The model to start from.
        precision: What numbers the build holds.
        shapes: Input name to the shape of one sample.
        calibration: The data activation ranges come from; None where the precision needs none.
        calibration_note: Where those data come from, in words.
    """

    model: Model
    precision: Precision
    shapes: Mapping[str, Sequence[int]]
    calibration: Dataset | None = None
    calibration_note: str = ""

    @property
    def asked(self) -> dict[str, Any]:
        """The settings that bear on this precision; the others must not tell two equal builds apart."""
        precision = self.precision
        kept: dict[str, Any] = {"format": True, "quantizer": True}
        ranges = {"method", "samples"} | ({"percentile"} if precision.calibration.method == "percentile" else set())
        if precision.format == "int4":
            kept["block_size"] = True
        elif precision.quantizer == "nncf":
            kept |= {"activations": True, "reduce_range": True, "calibration": {"samples"}}
        elif precision.format == "int8":
            kept |= dict.fromkeys(("dynamic", "weights", "per_channel", "reduce_range"), True)
            if not precision.dynamic:
                kept |= {"activations": True, "quantize_bias": True, "calibration": ranges}
        return precision.model_dump(mode="json", include=kept)

    @property
    def key(self) -> str:
        """The build's name: a hash over the recipe."""
        content = {
            "recipe": _RECIPE,
            "model": self.model.sha256,
            "precision": self.asked,
            **self._dimensions,
            "calibration": self.calibration.key if self.calibration else None,
            "versions": quantizer_versions(self.precision),
            "pins": [MAX_IR_VERSION, MAX_OPSET],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    @property
    def _dimensions(self) -> dict[str, Any]:
        axes = {"batch_axes": dict(self.model.batch_axes)} if self.model.batch_axes else {}
        return {"shapes": {name: list(shape) for name, shape in self.shapes.items()}, **axes}

    def job(self) -> Job:
        """The job that makes the build's file."""
        files = self.calibration.inputs if self.calibration else {}
        calibration = {name: str(file.path.resolve()) for name, file in files.items()}
        model = str(self.model.path.resolve())
        return Job(
            task="hwbench.quantize:run",
            params={
                "model": model,
                "precision": self.precision.model_dump(mode="json"),
                **self._dimensions,
                "calibration": calibration,
            },
            identity={"model": self.model.sha256, "calibration": self.calibration.key if self.calibration else ""},
            files=(model, *(str(file.resolve()) for file in self.model.external), *calibration.values()),
        )


@dataclass(frozen=True)
class Build:
    """A deployed ONNX file and what is known of it.

    Attributes:
        key: Its content-addressed name.
        folder: Where ``model.onnx`` and ``manifest.json`` lie.
        manifest: What was asked and what came out.
    """

    key: str
    folder: Path
    manifest: Mapping[str, Any]

    @property
    def model(self) -> Path:
        """The deployed file, in which faults sit."""
        return self.folder / MODEL_FILE

    @property
    def files(self) -> list[str]:
        """The deployed file and its external data."""
        return sorted(str(path.resolve()) for path in self.folder.glob(f"{MODEL_FILE}*"))

    @property
    def bytes(self) -> int:
        """Size of the deployed file and its external data."""
        return int(self.manifest["contents"]["bytes"])


@contextmanager
def work_folder() -> Iterator[Path]:
    """A temporary folder in the cache; those of processes that died are removed from the cache on the way."""
    home = cache_home()
    require_text(home, RunDirectoryError)
    sweep(home / "work")
    sweep(home / "builds", _MAKING)
    with explained(home, _ADVICE):
        (home / "work").mkdir(parents=True, exist_ok=True)
    with full_disk_named(home, _ADVICE), scratch_folder(home / "work") as folder:
        yield folder


def make_build(
    recipe: Recipe,
    folder: Path,
    run_job: Callable[[Job, Path], JobResult],
    cache: Path | None = None,
    *,
    replace: bool = False,
    say: Callable[[str], None] | None = None,
) -> Build:
    """Make a build, or take it from the cache, and place it in ``folder``.

    What is there already, in the cache or in the folder, is used only if its manifest states this recipe and its files have the
    hashes that the manifest names. Anything else is made again. What is placed is verified after it was copied, so that nothing
    that happens to the cache meanwhile is believed.

    Two processes may make the same build at once: each works in a folder of its own and the first to finish is kept.

    Args:
        recipe: What to make.
        folder: Where the build is placed, usually ``builds/<key>`` of a run directory.
        run_job: Runs a job in a worker, in the folder given.
        cache: The cache; default `cache_home`.
        replace: Whether the folder belongs to hwbench, which may replace what is damaged in it.
        say: Receiver of a sentence about each damaged build that was made again.

    Raises:
        RunDirectoryError: ``folder`` holds something else, or a damaged build that may not be replaced; a disk is full.
        ModelError: A dynamic dimension has no size.
        UnavailableError: The model holds nothing that this precision applies to, or the quantizer is not installed.
        JobError: The worker ended otherwise than ok.
    """
    say = say or (lambda _: None)
    there = folder.exists() and (not folder.is_dir() or any(folder.iterdir()))
    if there and not replace and not (folder / MANIFEST).is_file():
        raise RunDirectoryError(f"{folder}: holds something else than a build; name an empty or a new folder")
    recipe.model.require_sizes(recipe.shapes)
    if there:
        problem = damage(folder, recipe)
        if not problem:
            return _opened(folder, recipe)
        if not replace:
            raise RunDirectoryError(f"{folder}: holds a damaged build: {problem}; remove it, or name a new folder")
        say(f"the build in {folder} was replaced: {problem}")
        _remove(folder)
    kept = (cache or cache_home()) / "builds" / recipe.key
    with explained(folder, _PLACING_ADVICE), scratch_folder(folder.parent, PLACING) as work:
        placed = work / "build"
        if not _from_cache(recipe, kept, placed, say):
            with explained(kept.parent, _ADVICE), scratch_folder(kept.parent, _MAKING) as making:
                made = _make(recipe, making, run_job)
                _copy(made, placed)
                _publish(made, kept)
        _write_manifest(placed / MANIFEST, read_sealed(placed / MANIFEST), recipe)
        _publish(placed, folder)
    if problem := damage(folder, recipe):  # only where another process made it meanwhile
        raise RunDirectoryError(f"{folder}: {problem}")
    return _opened(folder, recipe)


def is_cached(recipe: Recipe) -> bool:
    """True if the cache holds the build; its content is verified when it is used."""
    return not damage(cache_home() / "builds" / recipe.key, recipe, content=False)


def damage(folder: Path, recipe: Recipe, *, content: bool = True) -> str:
    """Reason for which a folder does not hold the build of a recipe; empty if it does.

    Args:
        folder: The folder.
        recipe: What it should hold.
        content: Whether to hash the files, beside looking at their sizes.
    """
    try:
        manifest = read_sealed(folder / MANIFEST)
        if differing := sorted(key for key, value in _stated(recipe).items() if manifest.get(key) != value):
            return f"{MANIFEST} states another {', '.join(differing)}"
        there = {path.name for path in folder.glob(f"{MODEL_FILE}*")}
        if unlike := sorted(there ^ manifest["files"].keys()):
            return f"{', '.join(unlike)} is missing, or not part of the build"
        for name, known in manifest["files"].items():
            if not _is_intact(folder / name, known, content=content):
                return f"the content of {name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except DamagedError as error:
        return f"{MANIFEST}: {error}"
    except OSError as error:
        return f"cannot be read: {error}"
    return ""


def _is_intact(file: Path, known: Mapping[str, Any], *, content: bool) -> bool:
    status = file.lstat()
    if not stat.S_ISREG(status.st_mode) or status.st_size != known["bytes"]:
        return False
    return not content or file_sha256(file) == known["sha256"]


def _stated(recipe: Recipe) -> dict[str, Any]:
    """The part of a manifest that follows from the recipe alone."""
    return {
        "schema_version": _SCHEMA_VERSION,
        "build": recipe.key,
        "asked": recipe.asked,
        "shapes": {name: list(shape) for name, shape in recipe.shapes.items()},
        "versions": quantizer_versions(recipe.precision),
    }


def _opened(folder: Path, recipe: Recipe) -> Build:
    return Build(recipe.key, folder, read_sealed(folder / MANIFEST))


def _from_cache(recipe: Recipe, kept: Path, placed: Path, say: Callable[[str], None]) -> bool:
    """Copy a build from the cache and verify the copy; what is damaged is removed from the cache.

    Returns:
        Whether ``placed`` holds the build.
    """
    problem = damage(kept, recipe, content=False)
    if not problem:
        try:
            _copy(kept, placed)
        except (FileNotFoundError, DamagedError):
            problem = "it was removed in the meantime"
        except PermissionError as error:
            if not Path(error.filename).is_relative_to(kept):
                raise
            problem = f"it cannot be read: {error.strerror}"
        problem = problem or damage(placed, recipe)
        if not problem:
            return True
        shutil.rmtree(placed)
    if os.path.lexists(kept):
        say(f"the cached build {kept} was made again: {problem}")
        _remove(kept)
    return False


def _copy(build: Path, place: Path) -> None:
    """Copy a build's manifest and the files it names."""
    place.mkdir()
    for name in (MANIFEST, *read_sealed(build / MANIFEST)["files"]):
        shutil.copyfile(build / name, place / name, follow_symlinks=False)


def _remove(folder: Path) -> None:
    """Remove a file or folder. It is renamed first, lest others see half of it."""
    with scratch_folder(folder.parent, _MAKING) as aside, suppress(FileNotFoundError):
        folder.rename(aside / "removed")


def _make(recipe: Recipe, work: Path, run_job: Callable[[Job, Path], JobResult]) -> Path:
    result = run_job(recipe.job(), work / "job")
    if result.status == "unavailable":
        raise UnavailableError(result.detail)
    if result.data.get(REFUSED):
        raise ModelError(result.detail)
    if not result.ok:
        require_space(work, result.detail, _ADVICE)
        raise JobError(f"making the {recipe.precision.format} build ended in {result.status}: {result.detail}")
    made = work / "build"
    made.mkdir()
    files = {}
    for file in sorted(result.folder.glob(f"{MODEL_FILE}*")):
        files[file.name] = {"sha256": file_sha256(file), "bytes": file.stat().st_size}
        file.rename(made / file.name)
    manifest = {**_stated(recipe), "contents": result.data["contents"], "sha256": _whole(files), "files": files}
    _write_manifest(made / MANIFEST, manifest, recipe)
    return made


def _whole(files: Mapping[str, Mapping[str, Any]]) -> str:
    """One hash of a build: that of its file; of several files, over their names and hashes."""
    if len(files) == 1:
        return str(next(iter(files.values()))["sha256"])
    return hashlib.sha256(json.dumps(files, sort_keys=True).encode()).hexdigest()


def _calibration(recipe: Recipe) -> dict[str, Any] | None:
    if recipe.calibration is None:
        return None
    used = min(recipe.precision.calibration.samples, recipe.calibration.n)
    return {"source": recipe.calibration.source, "n": used, "note": recipe.calibration_note}


def _write_manifest(file: Path, manifest: Mapping[str, Any], recipe: Recipe) -> None:
    """Write a manifest with the names of the recipe's sources: one from the cache may have those of equal ones."""
    model = {"file": recipe.model.path.name, "sha256": recipe.model.sha256}
    content = {**manifest, "model": model, "calibration": _calibration(recipe)}
    file.write_text(json.dumps(sealed(content), indent=2), encoding="utf-8")


def _publish(made: Path, place: Path) -> None:
    try:
        made.rename(place)
    except OSError:
        # Another process was faster; what it made is the same, since the folder's name says what is in it.
        if not (place / MANIFEST).is_file():
            raise
