"""Workers that run from files of their own: nothing they map is anybody else's, and all of it is charged to them."""

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from job_files import files_in
from models import mlp

from hwbench.integrity import DamagedError
from hwbench.targets import open_target
from hwbench.targets.own_copy import OwnCopy
from hwbench.targets.sandbox import code_folders
from hwbench.worker.progress import Progress
from hwbench.worker.protocol import Job, Limits

ORT = "hwbench_onnxruntime:OnnxRuntimeBackend"


@pytest.fixture(scope="module")
def job(tmp_path_factory):
    folder = tmp_path_factory.mktemp("model")
    model = mlp()
    onnx.save(model, folder / "model.onnx")
    np.save(folder / "x.npy", np.ones((2, 64), np.float32))
    params = {
        "model": str(folder / "model.onnx"),
        "inputs": {"x": str(folder / "x.npy")},
        "output": model.graph.output[0].name,
        "batch": 2,
        "runs": 3,
        "limit_s": 60,
        "n": 2,
        "survey": True,
        "watch": True,
    }
    return Job("hwbench.worker.tasks.capped:run", params, ORT, exclusive=True, files=files_in(params))


@pytest.fixture(scope="module")
def survey(job, tmp_path_factory):
    result = open_target("local").run(job, tmp_path_factory.mktemp("survey"))
    assert result.ok, result.detail
    return result


@pytest.fixture(scope="module")
def own(survey, tmp_path_factory):
    folder = tmp_path_factory.mktemp("own")
    return OwnCopy.make(folder / "copy", survey.data["mapped"], survey.data["read"], code_folders(ORT))


def libraries(result):
    return {path for path in result.data["mapped"] if ".so" in Path(path).name}


def test_the_task_tells_its_phases_apart(survey):
    loading = Progress.read(survey.folder).finished["load"]
    assert 0 < loading["load_s"] <= loading["load_wall_s"] <= survey.data["wall_s"]
    assert 0 < loading["anonymous_mib"] <= survey.data["anonymous_mib"]
    assert 0 < survey.data["held_mib"] <= survey.data["anonymous_mib"] + 1
    assert len(survey.array("durations")) == 3
    assert survey.array(survey.data["variants"]["golden"]["arrays"][0]).shape[0] == 2
    assert any("onnxruntime" in path for path in libraries(survey))
    assert any(path.endswith("protocol.py") for path in survey.data["read"])


def test_a_worker_maps_its_own_libraries_only(job, survey, own, tmp_path):
    result = open_target("local").run(replace(job, own_copy=str(own.folder)), tmp_path)
    assert result.ok, result.detail
    shared = {path for path in libraries(result) if not Path(path).is_relative_to(own.folder)}
    assert all(
        "ld-linux" in path or "ld-musl" in path or "/ld-" in path for path in shared
    )  # the kernel starts that one
    assert len(libraries(result)) == len(libraries(survey))
    assert np.array_equal(*(one.array(one.data["variants"]["golden"]["arrays"][0]) for one in (result, survey)))
    assert own.bytes == sum(path.stat().st_size for path in own.copied) > 20 << 20


@pytest.mark.usefixtures("with_cgroups")
def test_what_it_touches_is_charged_to_its_group_every_time(job, own, tmp_path):
    """In the page cache, the same files are charged to nobody: what shall be measured is not to depend on that."""
    mounts = [part for part in psutil.disk_partitions(all=True) if own.folder.is_relative_to(part.mountpoint)]
    if max(mounts, key=lambda part: len(part.mountpoint)).fstype in ("tmpfs", "ramfs"):
        pytest.skip("files in memory cannot be dropped from it")
    shared, first, second = (
        open_target("local").run(replace(job, own_copy=copy, limits=Limits(memory_mib=1024)), tmp_path / name)
        for name, copy in (("shared", ""), ("first", str(own.folder)), ("second", str(own.folder)))
    )
    assert shared.ok
    assert first.ok
    charged = [one.usage["cap_file_mib"] for one in (shared, first, second)]
    assert min(charged[1:]) > charged[0] + 10
    assert charged[1] == pytest.approx(charged[2], rel=0.1)
    assert first.usage["cap_peak_mib"] >= 0.9 * first.usage["peak_mib"]


def test_it_is_made_once_and_again_where_a_run_was_killed_in_between(survey, tmp_path):
    own = OwnCopy.make(tmp_path / "copy", survey.data["mapped"], survey.data["read"], code_folders(ORT))
    before = own.copied[0].stat().st_mtime_ns
    assert OwnCopy.make(tmp_path / "copy", survey.data["mapped"], survey.data["read"], code_folders(ORT)) == own
    assert own.copied[0].stat().st_mtime_ns == before
    (tmp_path / "copy" / "own-copy.json").unlink()
    again = OwnCopy.make(tmp_path / "copy", survey.data["mapped"], survey.data["read"], code_folders(ORT))
    assert again == own
    assert own.copied[0].stat().st_mtime_ns > before


def test_libraries_that_a_worker_could_have_made_are_not_copied(tmp_path):
    """The next worker would load them before it is confined; and a path with dots would be copied to anywhere."""
    root, job = tmp_path / "packages", tmp_path / "job"
    for folder in (root, job):
        folder.mkdir()
        (folder / "libx.so").write_bytes(b"library")
    (root / "link.so").symlink_to(job / "libx.so")
    named = [root / "libx.so", job / "libx.so", root / "link.so", root / ".." / "job" / "libx.so"]
    made = OwnCopy.make(tmp_path / "own" / "copy", [str(path) for path in named], [], [str(root)])
    assert [path.name for path in made.copied] == ["python", "libx.so"]
    assert [path.name for path in (tmp_path / "own").iterdir()] == ["copy"]


def test_environment_of_the_user_is_kept_behind_the_copys(own):
    found = own.environment({"LD_LIBRARY_PATH": "/theirs", "PYTHONPATH": "/mine", "HOME": "/home"})
    assert found["LD_LIBRARY_PATH"] == f"{own.folder}/lib{os.pathsep}/theirs"
    assert found["PYTHONPATH"].endswith(f"{os.pathsep}/mine")
    assert found["HOME"] == "/home"


def test_files_that_are_gone_are_passed_over(own):
    replace(own, read=(Path("/nowhere/at/all.pyc"),)).drop()


def test_own_and_shared_files_are_different_work(job, own):
    assert replace(job, own_copy=str(own.folder)).key != job.key
    assert replace(job, own_copy="/elsewhere").key == replace(job, own_copy=str(own.folder)).key


def test_a_damaged_copy_is_made_again(survey, tmp_path):
    made = OwnCopy.make(tmp_path / "copy", survey.data["mapped"], survey.data["read"], code_folders(ORT))
    library = max(made.copied, key=lambda path: path.stat().st_size)
    whole = library.read_bytes()
    with library.open("r+b") as file:
        file.seek(len(whole) // 2)
        file.write(bytes([whole[len(whole) // 2] ^ 1]))
    with pytest.raises(DamagedError, match=f"{library} is not what was copied"):
        OwnCopy.load(made.folder)
    OwnCopy.make(made.folder, survey.data["mapped"], survey.data["read"], code_folders(ORT))
    assert library.read_bytes() == whole
