"""Builds: what applying a profile's precision to a model gives, content-addressed and cached."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from hwbench.dataset import Dataset
from hwbench.errors import JobError, ModelError, RunDirectoryError, UnavailableError
from hwbench.host import cache_home
from hwbench.model import MAX_IR_VERSION, MAX_OPSET, Model
from hwbench.profile import Precision
from hwbench.quantize import quantizer_versions
from hwbench.worker.protocol import REFUSED, Job, JobResult

MANIFEST = "manifest.json"
MODEL_FILE = "model.onnx"
# Raised when the same inputs would give another file.
_RECIPE = 3
# How old a dead process's temporary folder must be: one of another machine that shares the cache looks dead from here.
_STALE_S = 86_400.0


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
            "shapes": {name: list(shape) for name, shape in self.shapes.items()},
            "calibration": self.calibration.key if self.calibration else None,
            "versions": quantizer_versions(self.precision),
            "pins": [MAX_IR_VERSION, MAX_OPSET],
        }
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]

    def job(self) -> Job:
        """The job that makes the build's file."""
        files = self.calibration.inputs if self.calibration else {}
        return Job(
            task="hwbench.quantize:run",
            params={
                "model": str(self.model.path.resolve()),
                "precision": self.precision.model_dump(mode="json"),
                "shapes": {name: list(shape) for name, shape in self.shapes.items()},
                "calibration": {name: str(file.path.resolve()) for name, file in files.items()},
            },
            identity={"model": self.model.sha256, "calibration": self.calibration.key if self.calibration else ""},
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
    """A temporary folder in the cache; what killed runs left of theirs a day ago or more is removed on the way."""
    home = cache_home() / "work"
    home.mkdir(parents=True, exist_ok=True)
    for left in home.iterdir():
        owner = left.name.partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)) and time.time() - left.stat().st_mtime > _STALE_S:
            shutil.rmtree(left, ignore_errors=True)
    with tempfile.TemporaryDirectory(dir=home, prefix=f"{os.getpid()}-") as folder:
        yield Path(folder)


def make_build(
    recipe: Recipe, folder: Path, run_job: Callable[[Job, Path], JobResult], cache: Path | None = None
) -> Build:
    """Make a build, or take it from the cache, and place it in ``folder``.

    Two processes may make the same build at once: each works in a folder of its own and the first to finish is kept.

    Args:
        recipe: What to make.
        folder: Where the build is placed, usually ``builds/<key>`` of a run directory.
        run_job: Runs a job in a worker, in the folder given.
        cache: The cache; default `cache_home`.

    Raises:
        RunDirectoryError: ``folder`` holds other files.
        ModelError: A dynamic dimension has no size.
        UnavailableError: The model holds nothing that this precision applies to, or the quantizer is not installed.
        JobError: The worker ended otherwise than ok.
    """
    if folder.exists() and not (folder / MANIFEST).is_file() and (not folder.is_dir() or any(folder.iterdir())):
        raise RunDirectoryError(f"{folder}: holds something else than a build; name an empty or a new folder")
    recipe.model.require_sizes(recipe.shapes)
    kept = (cache or cache_home()) / "builds" / recipe.key
    if not (kept / MANIFEST).is_file():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent, prefix=".making-") as work:
            _publish(_make(recipe, Path(work), run_job), kept)
    if not (folder / MANIFEST).is_file():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder.parent, prefix=".placing-") as work:
            placed = Path(shutil.copytree(kept, Path(work) / "build"))
            _tell(placed / MANIFEST, recipe)
            _publish(placed, folder)
    return Build(recipe.key, folder, json.loads((folder / MANIFEST).read_text()))


def is_cached(recipe: Recipe) -> bool:
    """True if the cache holds the build."""
    return (cache_home() / "builds" / recipe.key / MANIFEST).is_file()


def _make(recipe: Recipe, work: Path, run_job: Callable[[Job, Path], JobResult]) -> Path:
    result = run_job(recipe.job(), work / "job")
    if result.status == "unavailable":
        raise UnavailableError(result.detail)
    if result.data.get(REFUSED):
        raise ModelError(result.detail)
    if not result.ok:
        raise JobError(f"making the {recipe.precision.format} build ended in {result.status}: {result.detail}")
    made = work / "build"
    made.mkdir()
    digest = hashlib.sha256()
    for file in sorted(result.folder.glob(f"{MODEL_FILE}*")):
        digest.update(file.read_bytes())
        file.rename(made / file.name)
    manifest = {
        "schema_version": 1,
        "build": recipe.key,
        "model": {"file": recipe.model.path.name, "sha256": recipe.model.sha256},
        "asked": recipe.asked,
        "shapes": {name: list(shape) for name, shape in recipe.shapes.items()},
        "calibration": _calibration(recipe),
        "versions": quantizer_versions(recipe.precision),
        "contents": result.data["contents"],
        "sha256": digest.hexdigest(),
    }
    (made / MANIFEST).write_text(json.dumps(manifest, indent=2))
    return made


def _calibration(recipe: Recipe) -> dict[str, Any] | None:
    if recipe.calibration is None:
        return None
    used = min(recipe.precision.calibration.samples, recipe.calibration.n)
    return {"source": recipe.calibration.source, "n": used, "note": recipe.calibration_note}


def _tell(file: Path, recipe: Recipe) -> None:
    """Have a manifest name this recipe's model and calibration: a cached build was made of equal ones of other names."""
    manifest = json.loads(file.read_text())
    manifest["model"]["file"] = recipe.model.path.name
    manifest["calibration"] = _calibration(recipe)
    file.write_text(json.dumps(manifest, indent=2))


def _publish(made: Path, place: Path) -> None:
    try:
        made.rename(place)
    except OSError:
        # Another process was faster; what it made is the same, since the folder's name says what is in it.
        if not (place / MANIFEST).is_file():
            raise
