"""Run directories damaged in every file: nothing wrong is believed, nothing is overwritten, and a resumed run heals itself."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal
from shared_run import figures, some_digits, without_hashes

import hwbench
from hwbench import demo
from hwbench.api import Run, compare
from hwbench.errors import RunDirectoryError
from hwbench.progress import Silent
from hwbench.store import RunDirectory

SEED = 20261124


class StopAfter(Silent):
    """Interrupts a run once so many jobs are done."""

    def __init__(self, jobs: int) -> None:
        self._left = jobs

    def advance(self) -> None:
        self._left -= 1
        if not self._left:
            raise KeyboardInterrupt


class Listening(Silent):
    """Keeps what is said."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)


def small_run(data: Path, out: Path, **changes: Any) -> Run:
    given = {
        "profiles": ["cpu-int8", "cpu-fp32"],
        "studies": ["accuracy", "coverage", "fidelity", "bit_flips"],
        "settings": {
            "bit_flips": {"rates": [1e-3], "draws": 2},
            "fidelity": {"layers": 2, "layer_inputs": 4},
        },
        "seed": 3,
        "jobs": 1,
    }
    return hwbench.run(demo.MODEL, data=data, out=out, **{**given, **changes})


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return some_digits(tmp_path_factory.mktemp("data") / "digits.npz", n=24)[0]


@pytest.fixture(scope="module")
def whole(data, tmp_path_factory):
    return small_run(data, tmp_path_factory.mktemp("whole") / "run")


@pytest.fixture(scope="module")
def stopped(data, tmp_path_factory):
    """A run that was interrupted with finished jobs and finished studies in it."""
    out = tmp_path_factory.mktemp("stopped") / "run"
    with pytest.raises(KeyboardInterrupt):
        small_run(data, out, progress=StopAfter(5))
    assert list(out.glob("jobs/*/done.json"))
    assert list(out.glob("jobs/analyses/*.json"))
    return out


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def truncated(path: Path, rng: np.random.Generator) -> None:
    os.truncate(path, int(rng.integers(path.stat().st_size)))


def flipped(path: Path, rng: np.random.Generator) -> None:
    raw = bytearray(path.read_bytes())
    raw[rng.integers(len(raw))] ^= 1 << int(rng.integers(8))
    path.write_bytes(raw)


def garbage(path: Path, rng: np.random.Generator) -> None:
    path.write_bytes(rng.bytes(int(rng.integers(200))))


def another(path: Path, rng: np.random.Generator) -> None:
    """The content of another file of the run."""
    run = next(parent for parent in path.parents if (parent / "run.json").exists() or parent.name == "run")
    others = sorted(other for other in run.rglob("*") if other.is_file() and other.read_bytes() != path.read_bytes())
    shutil.copyfile(others[rng.integers(len(others))], path)


DAMAGE = (truncated, flipped, garbage, another)


# Readers


def read(copy: Path, other: Run) -> tuple[pl.DataFrame, pl.DataFrame] | str:
    """What ``report`` and ``compare`` make of a run, or the message with which they refuse it."""
    try:
        run = Run.open(copy)
        found = run.table, compare(copy, other)
        run.report_all()
    except RunDirectoryError as error:
        return str(error)
    return found


def test_whatever_is_damaged_readers_say_so_or_read_the_same(whole, tmp_path):
    """Every file of a complete run, each damaged in every way, at places drawn once."""
    rng, refused = np.random.default_rng(SEED), 0
    for name in sorted(content(whole.path)):
        if name == ".lock" or name.startswith("builds/"):
            continue
        for number, damage in enumerate(DAMAGE):
            copy = Path(shutil.copytree(whole.path, tmp_path / f"{name.replace('/', '_')}-{number}" / "run"))
            damage(copy / name, rng)
            before = content(copy)
            found = read(copy, whole)
            if isinstance(found, str):
                refused += 1
                assert name.split("/")[-1] in found
                assert "restore it" in found or "upgrade hwbench" in found
                assert content(copy) == before, name
            else:
                assert_frame_equal(found[0], whole.table)
                assert_frame_equal(found[1], compare(whole, whole))
    assert refused >= 4 * 5  # run.json, the table, the results of every input of three profiles


def test_a_missing_table_or_part_is_named(whole, tmp_path):
    for name in ("measurements.parquet", "inputs/cpu-int8/part-00000.parquet"):
        copy = Path(shutil.copytree(whole.path, tmp_path / name.replace("/", "-")))
        (copy / name).unlink()
        with pytest.raises(RunDirectoryError, match=f"{name}: damaged: cannot be read: No such file"):
            compare(copy, whole)


def test_a_part_that_the_run_has_not_written_is_refused(whole, tmp_path):
    copy = Path(shutil.copytree(whole.path, tmp_path / "run"))
    shutil.copyfile(copy / "inputs/cpu-int8/part-00000.parquet", copy / "inputs/cpu-int8/part-00001.parquet")
    with pytest.raises(RunDirectoryError, match=r"part-00001\.parquet: damaged: not part of the run"):
        Run.open(copy).inputs("cpu-int8")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 5) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture], derandomize=True)
@given(choices=st.lists(st.integers(0, 10**6), min_size=1, max_size=6), value=JSON)
def test_a_record_of_other_types_is_named_by_its_key_or_read(whole, tmp_path, choices, value):
    """Without hashes, as an earlier version or somebody else would write it: one value of ``run.json`` is another."""
    shutil.rmtree(tmp_path / "run", ignore_errors=True)
    copy = without_hashes(Path(shutil.copytree(whole.path, tmp_path / "run")))
    record = json.loads((copy / "run.json").read_text())
    place, key = record, sorted(record)[choices[0] % len(record)]
    for choice in choices[1:]:
        inner = place[key]
        if not isinstance(inner, dict | list) or not inner:
            break
        place, keys = inner, sorted(inner) if isinstance(inner, dict) else range(len(inner))
        key = keys[choice % len(keys)]
    place[key] = value
    (copy / "run.json").write_text(json.dumps(record))
    before = (copy / "run.json").read_bytes()
    found = read(copy, whole)
    assert not isinstance(found, str) or str(copy) in found
    assert (copy / "run.json").read_bytes() == before


# Resuming


def resumed(data: Path, out: Path) -> tuple[Run, list[str]]:
    listening = Listening()
    run = small_run(data, out, resume=True, progress=listening)
    assert run.record["state"] == "complete"
    assert run.record["repairs"] == listening.said
    return run, listening.said


def test_a_stopped_run_goes_on_without_what_its_finished_studies_needed(data, whole, stopped, tmp_path):
    copy = Path(shutil.copytree(stopped, tmp_path / "run"))
    done = {path.parent.name for path in copy.glob("jobs/*/done.json")}
    assert len(done) < 5  # the jobs of finished studies are removed
    run, said = resumed(data, copy)
    assert said == []
    assert_frame_equal(figures(run), figures(whole))
    assert not (copy / "jobs").exists()


def test_every_file_of_a_stopped_run_may_be_damaged(data, whole, stopped, tmp_path):
    """All jobs, analyses, tables and builds at once, each in a way drawn once; the table is that of the whole run."""
    rng = np.random.default_rng(SEED)
    copy = Path(shutil.copytree(stopped, tmp_path / "run"))
    for name in sorted(content(copy)):
        if name not in (".lock", "run.json"):
            DAMAGE[rng.integers(3)](copy / name, rng) if (copy / name).stat().st_size else None
    run, said = resumed(data, copy)
    builds, jobs = len(list(stopped.glob("builds/*"))), len(list(stopped.glob("jobs/*/done.json")))
    assert sum("the build in" in text for text in said) == builds
    assert sum("was done again" in text for text in said) == jobs
    assert "Repairs" in (copy / "report.md").read_text()
    assert_frame_equal(figures(run), figures(whole))


def replaced(path: Path, rng: np.random.Generator) -> None:
    """An array of another shape, or of another type."""
    array = np.load(path)
    changed = [array[:-1], array.astype(np.float16), np.flip(array)]
    np.save(path, changed[rng.integers(3)])


@pytest.mark.parametrize("damage", [flipped, replaced])
def test_a_damaged_array_of_a_finished_job_is_noticed(data, whole, stopped, tmp_path, damage):
    copy = Path(shutil.copytree(stopped, tmp_path / "run"))
    arrays = sorted(copy.glob("jobs/*/*.npy"))
    assert arrays
    damage(arrays[0], np.random.default_rng(SEED))
    run, said = resumed(data, copy)
    assert [text for text in said if arrays[0].parent.name in text and arrays[0].name in text] == said
    assert len(said) == 1
    assert_frame_equal(figures(run), figures(whole))


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_record_is_not_resumed(data, stopped, tmp_path, damage):
    copy = Path(shutil.copytree(stopped, tmp_path / "run"))
    damage(copy / "run.json", np.random.default_rng(SEED))
    before = content(copy)
    with pytest.raises(RunDirectoryError, match=r"run\.json: (damaged: .*--overwrite|schema version)"):
        small_run(data, copy, resume=True)
    assert content(copy) == before


def test_a_damaged_complete_run_is_not_resumed(data, whole, tmp_path):
    copy = Path(shutil.copytree(whole.path, tmp_path / "run"))
    flipped(copy / "measurements.parquet", np.random.default_rng(SEED))
    before = content(copy)
    with pytest.raises(RunDirectoryError, match=r"measurements\.parquet: damaged: its content is not what was written"):
        small_run(data, copy, resume=True)
    assert content(copy) == before


def test_a_run_that_is_being_written_can_be_read(whole, tmp_path):
    copy = Path(shutil.copytree(whole.path, tmp_path / "run"))
    record = {**whole.record, "state": "running"}
    with RunDirectory.create(copy, record, overwrite=True) as directory:
        directory.write_table(whole.table)  # newer than the hashes in run.json
        assert_frame_equal(Run.open(copy).table, whole.table)
