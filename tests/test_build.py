"""Builds: what decides their name, that they are made once, and what their manifests say."""

import hashlib
import json
import os
import resource
import shutil
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from hwbench import quantize
from hwbench.build import MANIFEST, Recipe, damage, make_build, work_folder
from hwbench.dataset import Dataset
from hwbench.errors import JobError, ModelError, RunDirectoryError, UnavailableError
from hwbench.host import cache_home
from hwbench.integrity import file_sha256
from hwbench.model import Model
from hwbench.npy import NpyWriter
from hwbench.profile import Precision, load_profile
from hwbench.scratch import scratch_folder, sweep
from hwbench.targets import open_target
from hwbench.worker.protocol import JobContext, JobResult, Limits
from tests import models


def dataset(folder, seed=0, n=24):
    values = np.random.default_rng(seed).standard_normal((n, 64)).astype(np.float32)
    with NpyWriter(folder, values.dtype, (64,)) as writer:
        writer.append(values)
        return Dataset(n, {"x": writer.close()}, None, f"seed {seed}")


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("build")


@pytest.fixture(scope="module")
def model(home):
    return Model.open(models.saved(models.mlp(), home / "mlp.onnx"))


@pytest.fixture(scope="module")
def data(home):
    return dataset(home)


@pytest.fixture
def recipe(model, data):
    def make(**precision):
        wanted = Precision.model_validate(precision)
        return Recipe(model, wanted, {"x": (64,)}, data if wanted.needs_calibration else None, "given")

    return make


@pytest.fixture
def counted():
    """A target's `run` that counts its jobs."""
    target = open_target("local")

    def run(job, folder):
        run.jobs.append(job.task)
        return target.run(job, folder)

    run.jobs = []
    return run


@pytest.fixture
def here():
    """The real quantizer without a worker's start; counts its jobs."""

    def run(job, folder):
        run.jobs.append(job.task)
        folder.mkdir(parents=True)
        return JobResult("ok", folder, quantize.run(JobContext(folder, job.params)))

    run.jobs = []
    return run


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 128 KiB."""
    place = tmp_path / "disk"
    place.mkdir()
    if os.geteuid() != 0 or shutil.which("mount") is None:
        pytest.skip("mounting a small file system takes root")
    command = ["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", str(place)]
    made = subprocess.run(command, capture_output=True, text=True, check=False)
    if made.returncode:
        pytest.skip(f"no file system can be mounted here: {made.stderr.strip()}")
    yield place
    subprocess.run(["umount", str(place)], check=True)


# Keys


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"format": "fp32"}, {"format": "fp32", "per_channel": False, "weights": "u8", "block_size": 64}),
        ({"format": "fp16"}, {"format": "fp16", "reduce_range": True, "calibration": {"samples": 7}}),
        ({"format": "int8"}, {"format": "int8", "block_size": 64, "calibration": {"percentile": 99.0}}),
        (
            {"format": "int8", "dynamic": True},
            {"format": "int8", "dynamic": True, "activations": "s8", "calibration": {"method": "entropy"}},
        ),
        ({"format": "int4"}, {"format": "int4", "per_channel": False, "weights": "u8"}),
        (
            {"format": "int8", "quantizer": "nncf"},
            {"format": "int8", "quantizer": "nncf", "calibration": {"percentile": 99.0}},
        ),
    ],
)
def test_settings_that_do_not_matter_do_not_tell_builds_apart(recipe, one, other):
    assert recipe(**one).key == recipe(**other).key


DIFFERENT = [
    {"format": "fp32"},
    {"format": "as-is"},
    {"format": "fp16"},
    {"format": "bf16"},
    {"format": "int4"},
    {"format": "int4", "block_size": 64},
    *({"format": "int8", **change} for change in (
        {},
        {"dynamic": True},
        {"dynamic": True, "per_channel": False},
        {"activations": "s8"},
        {"weights": "u8"},
        {"per_channel": False},
        {"reduce_range": True},
        {"quantize_bias": False},
        {"calibration": {"method": "entropy"}},
        {"calibration": {"method": "percentile"}},
        {"calibration": {"method": "percentile", "percentile": 99.0}},
        {"calibration": {"samples": 8}},
        {"quantizer": "nncf"},
        {"quantizer": "nncf", "reduce_range": True},
    )),
]  # fmt: skip


def test_settings_that_matter_tell_builds_apart(recipe):
    assert len({recipe(**precision).key for precision in DIFFERENT}) == len(DIFFERENT)


def test_model_shapes_calibration_and_versions_tell_builds_apart(recipe, home, monkeypatch):
    given = recipe(format="int8")
    other_model = Model.open(models.saved(models.mlp(seed=1), home / "other.onnx"))
    changed = [
        replace(given, model=other_model),
        replace(given, shapes={"x": (32,)}),
        replace(given, calibration=dataset(home, seed=1)),
        replace(given, calibration=dataset(home, n=23)),
    ]
    keys = {given.key, *(one.key for one in changed)}
    monkeypatch.setattr("hwbench.build.quantizer_versions", lambda precision: {"onnxruntime": "0.0"})
    assert len(keys | {given.key}) == len(changed) + 2


def test_equal_content_is_equal_wherever_it_lies(recipe, model, tmp_path):
    copy = Model.open(models.saved(models.mlp(), tmp_path / "copy.onnx"))
    given = recipe(format="int8")
    elsewhere = replace(given, model=copy, calibration=dataset(tmp_path), calibration_note="other words")
    assert elsewhere.key == given.key
    assert elsewhere.job().key == given.job().key


def test_limits_and_names_are_no_part_of_a_build():
    profiles = [load_profile(name) for name in ("cpu-int8", "edge-int8-128m", "openvino-int8")]
    assert len({profile.precision for profile in profiles}) == 1


# Making


def test_a_manifest_says_what_was_asked_and_what_came_out(recipe, model, data, counted, tmp_path):
    build = make_build(recipe(format="int8", calibration={"samples": 16}), tmp_path / "b", counted, tmp_path / "cache")
    said = json.loads((tmp_path / "b" / MANIFEST).read_text())
    assert said == build.manifest
    assert (said["build"], build.folder) == (build.key, tmp_path / "b")
    assert said["model"] == {"file": "mlp.onnx", "sha256": model.sha256}
    assert said["asked"]["format"] == "int8"
    assert said["asked"]["calibration"] == {"method": "minmax", "samples": 16}
    assert said["calibration"] == {"source": data.source, "n": 16, "note": "given"}
    assert said["contents"]["compute"] == {"int8": 2}
    assert set(said["versions"]) == {"onnx", "onnx-ir", "onnxruntime"}
    assert said["sha256"] == hashlib.sha256(build.model.read_bytes()).hexdigest()
    assert build.bytes == build.model.stat().st_size


def test_a_build_is_made_once(recipe, counted, tmp_path):
    cache = tmp_path / "cache"
    first = make_build(recipe(format="fp32"), tmp_path / "one" / "b", counted, cache)
    again = make_build(recipe(format="fp32", block_size=64), tmp_path / "two" / "b", counted, cache)
    in_place = make_build(recipe(format="fp32"), tmp_path / "one" / "b", counted, cache)
    assert counted.jobs == ["hwbench.quantize:run"]
    assert first.model.read_bytes() == again.model.read_bytes() == in_place.model.read_bytes()
    assert [path.name for path in (cache / "builds").iterdir()] == [first.key]  # and nothing half made
    assert [path.name for path in (tmp_path / "one").iterdir()] == ["b"]
    again.model.write_bytes(b"the copy in a run directory is not the cache's file")
    assert make_build(recipe(format="fp32"), tmp_path / "three", counted, cache).bytes == first.bytes


def test_the_cache_is_where_the_environment_says(recipe, counted, tmp_path, monkeypatch):
    monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path / "mine"))
    assert cache_home() == tmp_path / "mine"
    build = make_build(recipe(format="as-is"), tmp_path / "b", counted)
    assert (tmp_path / "mine" / "builds" / build.key / MANIFEST).is_file()
    monkeypatch.delenv("HWBENCH_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_home() == tmp_path / "xdg" / "hwbench"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_home() == tmp_path / "home" / ".cache" / "hwbench"


def test_what_cannot_be_made_leaves_nothing(recipe, counted, tmp_path):
    cache, relu = tmp_path / "cache", models.unknown_operator()
    strange = Model.open(models.saved(relu, tmp_path / "strange.onnx"))
    with pytest.raises(UnavailableError, match=r"tests\.example:Strange"):
        make_build(replace(recipe(format="fp32"), model=strange, shapes={}), tmp_path / "b", counted, cache)
    del relu.graph.node[1]
    relu.graph.node[1].input[0] = "a"
    plain = Model.open(models.saved(relu, tmp_path / "plain.onnx"))
    with pytest.raises(UnavailableError, match="nothing to quantize"):
        make_build(replace(recipe(format="int4"), model=plain, shapes={}), tmp_path / "b", counted, cache)
    assert list((cache / "builds").iterdir()) == []
    assert not (tmp_path / "b").exists()


def test_a_worker_that_takes_too_long_is_an_error(recipe, tmp_path):
    target = open_target("local")

    def hasty(job, folder):
        return target.run(replace(job, limits=Limits(timeout_s=0.05)), folder)

    with pytest.raises(JobError, match=r"making the fp32 build ended in timeout: took longer than 0\.05 s"):
        make_build(recipe(format="fp32"), tmp_path / "b", hasty, tmp_path / "cache")


def test_bad_input_starts_no_job(counted, recipe, tmp_path):
    two = Model.open(models.saved(models.two_inputs(), tmp_path / "two.onnx"))
    with pytest.raises(ModelError, match="input 'ids' has a dynamic dimension 1 without a size"):
        make_build(replace(recipe(format="fp32"), model=two, shapes={}), tmp_path / "b", counted, tmp_path / "cache")
    assert counted.jobs == []


def test_a_folder_with_something_else_is_left_alone(recipe, counted, tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.txt").write_text("years of work")
    for place in (tmp_path / "b", tmp_path / "b" / "thesis.txt"):
        with pytest.raises(RunDirectoryError, match="holds something else than a build"):
            make_build(recipe(format="fp32"), place, counted, tmp_path / "cache")
    assert counted.jobs == []
    assert [path.name for path in (tmp_path / "b").iterdir()] == ["thesis.txt"]


TWIN = """
import sys, time
from pathlib import Path
from hwbench.build import Recipe, make_build
from hwbench.model import Model
from hwbench.profile import Precision
from hwbench.targets import open_target

home, me, other = Path(sys.argv[1]), sys.argv[2], sys.argv[3]

def meet(job, folder):
    result = open_target("local").run(job, folder)
    (home / f"{me}.made").touch()
    while not (home / f"{other}.made").exists():
        time.sleep(0.01)
    return result

recipe = Recipe(Model.open(home / "m.onnx"), Precision(format="fp32"), {"x": (64,)})
print(make_build(recipe, home / "shared", meet, home / "cache").manifest["sha256"])
"""


def test_two_processes_may_build_at_once(tmp_path):
    models.saved(models.mlp(), tmp_path / "m.onnx")
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)}
    twins = [
        subprocess.Popen(
            [sys.executable, "-c", TWIN, str(tmp_path), *names],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for names in (("a", "b"), ("b", "a"))
    ]
    said = [twin.communicate(timeout=120) for twin in twins]
    assert [twin.returncode for twin in twins] == [0, 0], said
    assert said[0][0] == said[1][0]
    assert len(list((tmp_path / "cache" / "builds").iterdir())) == 1
    assert {path.name for path in tmp_path.iterdir()} == {"m.onnx", "a.made", "b.made", "cache", "shared"}


# Damage


@pytest.fixture(scope="module")
def good(model, tmp_path_factory):
    """A cache that holds one fp32 build and one fp16 build of the same model, and what they are."""
    home = tmp_path_factory.mktemp("good")
    recipes = {name: Recipe(model, Precision(format=name), {"x": (64,)}) for name in ("fp32", "fp16")}
    for name, recipe in recipes.items():
        make_build(recipe, home / name, open_target("local").run, home / "cache")
    return home / "cache" / "builds", recipes


def flip(file, place=0.5, bit=3):
    content = bytearray(file.read_bytes())
    content[min(int(place * len(content)), len(content) - 1)] ^= 1 << bit
    file.write_bytes(content)


def other_slot(kept):
    shutil.rmtree(kept)
    other = next(path for path in kept.parent.iterdir() if path.is_dir() and not path.name.startswith("."))
    shutil.copytree(other, kept)


def another_model(kept):
    (kept / "model.onnx").write_bytes((next(p for p in kept.parent.iterdir() if p != kept) / "model.onnx").read_bytes())


def edited(kept):
    manifest = json.loads((kept / MANIFEST).read_text())
    manifest["asked"]["format"] = "int8"
    (kept / MANIFEST).write_text(json.dumps(manifest))


def from_pipe(kept):
    (kept / "model.onnx").unlink()
    os.mkfifo(kept / "model.onnx")


DAMAGE = {
    "flipped weight": lambda kept: flip(kept / "model.onnx"),
    "truncated": lambda kept: os.truncate(kept / "model.onnx", 100),
    "empty": lambda kept: os.truncate(kept / "model.onnx", 0),
    "no model": lambda kept: (kept / "model.onnx").unlink(),
    "a pipe": from_pipe,
    "a link": lambda kept: ((kept / "model.onnx").unlink(), (kept / "model.onnx").symlink_to("/dev/zero")),
    "a folder": lambda kept: ((kept / "model.onnx").unlink(), (kept / "model.onnx").mkdir()),
    "another model": another_model,
    "another build": other_slot,
    "extra data": lambda kept: (kept / "model.onnx.data").write_bytes(b"more"),
    "no manifest": lambda kept: (kept / MANIFEST).unlink(),
    "flipped manifest": lambda kept: flip(kept / MANIFEST),
    "edited manifest": edited,
    "garbage manifest": lambda kept: (kept / MANIFEST).write_bytes(b"\xff\x00{"),
    "a list": lambda kept: (kept / MANIFEST).write_text("[]"),
    "deep manifest": lambda kept: (kept / MANIFEST).write_text("[" * 100_000),
    "other schema": lambda kept: (kept / MANIFEST).write_text('{"schema_version": 99}'),
    "nothing at all": lambda kept: [path.unlink() for path in kept.iterdir()],
    "a file": lambda kept: (shutil.rmtree(kept), kept.write_text("no folder")),
}


@pytest.mark.parametrize("how", DAMAGE)
@pytest.mark.parametrize("where", ["cache", "folder"])
def test_a_damaged_build_is_made_again_and_named(good, here, tmp_path, how, where):
    shutil.copytree(good[0], tmp_path / "cache" / "builds")
    recipe, said = good[1]["fp32"], []
    kept, folder = tmp_path / "cache" / "builds" / recipe.key, tmp_path / "run" / recipe.key
    whole = hashlib.sha256((kept / "model.onnx").read_bytes()).hexdigest()
    if where == "folder":
        shutil.copytree(kept.parent, folder.parent)
    DAMAGE[how](kept if where == "cache" else folder)
    build = make_build(recipe, folder, here, tmp_path / "cache", replace=True, say=said.append)
    assert len(here.jobs) == (where == "cache")
    assert hashlib.sha256(build.model.read_bytes()).hexdigest() == whole == build.manifest["sha256"]
    (text,) = said or [""] if how == "nothing at all" and where == "folder" else said
    assert str(kept if where == "cache" else folder) in text or how == "nothing at all"
    for path in (kept, folder):
        assert {file.name for file in path.iterdir()} == {"model.onnx", MANIFEST}
        assert damage(path, recipe) == ""
        assert len(list(path.parent.iterdir())) == len(list(good[0].iterdir())) if path is kept else True


def test_an_entry_that_cannot_be_read_is_made_again(good, counted, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root reads everything")
    shutil.copytree(good[0], tmp_path / "cache" / "builds")
    recipe, said = good[1]["fp32"], []
    (tmp_path / "cache" / "builds" / recipe.key / "model.onnx").chmod(0)
    make_build(recipe, tmp_path / "b", counted, tmp_path / "cache", say=said.append)
    assert "cannot be read" in said[0]


def test_damaged_external_data_are_noticed(recipe, here, tmp_path, monkeypatch):
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 5_000)
    said, wanted = [], recipe(format="fp32")
    first = make_build(wanted, tmp_path / "a", here, tmp_path / "cache")
    assert first.manifest["files"].keys() == {"model.onnx", "model.onnx.data"}
    flip(tmp_path / "cache" / "builds" / wanted.key / "model.onnx.data")
    second = make_build(wanted, tmp_path / "b", here, tmp_path / "cache", say=said.append)
    assert len(here.jobs) == 2
    assert "the content of model.onnx.data has changed" in said[0]
    assert second.manifest["sha256"] == first.manifest["sha256"]


def test_a_file_of_the_same_size_and_time_is_noticed(good, counted, tmp_path):
    """Also where the process has hashed the file before, and its time is set back."""
    shutil.copytree(good[0], tmp_path / "cache" / "builds")
    recipe, said = good[1]["fp32"], []
    model = tmp_path / "cache" / "builds" / recipe.key / "model.onnx"
    os.utime(model, ns=(0, 0))
    time.sleep(2.1)  # from now on the hash is kept
    before = file_sha256(model)
    flip(model)
    os.utime(model, ns=(0, 0))
    assert file_sha256(model) != before
    make_build(recipe, tmp_path / "b", counted, tmp_path / "cache", say=said.append)
    assert "the content of model.onnx has changed" in said[0]


def test_a_damaged_build_of_the_users_is_not_replaced(good, counted, tmp_path):
    recipe = good[1]["fp32"]
    shutil.copytree(good[0] / recipe.key, tmp_path / "b")
    flip(tmp_path / "b" / "model.onnx")
    with pytest.raises(RunDirectoryError, match=r"holds a damaged build: the content of model\.onnx has changed"):
        make_build(recipe, tmp_path / "b", counted, good[0].parent)


# Full disks


def limited(job, folder, size=20_000):
    """A worker that cannot write large files, as on a full disk."""
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        return open_target("local").run(job, folder)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))


def test_a_worker_without_room_names_the_cache(recipe, tmp_path, counted):
    with pytest.raises(RunDirectoryError, match=r"cache/builds/\.making-.*: the disk is full .*HWBENCH_CACHE"):
        make_build(recipe(format="fp32"), tmp_path / "b", limited, tmp_path / "cache")
    assert list((tmp_path / "cache" / "builds").iterdir()) == []
    assert not (tmp_path / "b").exists()
    make_build(recipe(format="fp32"), tmp_path / "b", counted, tmp_path / "cache")


def test_a_full_cache_disk_is_named(recipe, tmp_path, counted, small_disk):
    (small_disk / "ballast").write_bytes(bytes(small_disk.stat().st_blksize * 20))
    with pytest.raises(RunDirectoryError, match=f"{small_disk}/.*: the disk is full.*HWBENCH_CACHE"):
        make_build(recipe(format="fp32"), tmp_path / "b", counted, small_disk / "cache")
    assert not (tmp_path / "b").exists()


# What killed runs left


OWNER = """
import sys
from pathlib import Path
from hwbench.scratch import scratch_folder
with scratch_folder(Path(sys.argv[1]), sys.argv[2]) as folder:
    print(folder, flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def owner():
    """Starts processes that hold a scratch folder until they are killed."""
    started = []

    def start(parent, prefix=""):
        process = subprocess.Popen(
            [sys.executable, "-c", OWNER, str(parent), prefix],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)},
        )
        started.append(process)
        return process, Path(process.stdout.readline().strip())

    yield start
    for process in started:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(("parent", "prefix"), [("work", ""), ("builds", ".making-")])
def test_what_killed_runs_left_is_removed_and_living_ones_are_left_alone(tmp_path, monkeypatch, owner, parent, prefix):
    monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path))
    (dying, dead), (_, living) = owner(tmp_path / parent, prefix), owner(tmp_path / parent, prefix)
    (dead / "large").write_bytes(bytes(1000))
    dying.kill()
    dying.wait()
    fresh, old, build = (tmp_path / parent / name for name in (f"{prefix}fresh", f"{prefix}old", "0123456789abcdef"))
    for folder in (fresh, old, *([build] if prefix else [])):
        folder.mkdir()
    os.utime(old, (0, 0))
    with work_folder() as own:
        assert own.is_dir()
        assert not dead.exists()
        assert not old.exists()
        assert living.exists()
        assert fresh.exists()  # its maker may be about to lock it
        assert build.exists() == bool(prefix)
    assert not own.exists()


def test_folders_are_made_while_others_sweep(tmp_path):
    """Nothing that is in use is removed, however the steps of making and sweeping fall."""
    done = threading.Event()

    def sweeping():
        while not done.is_set():
            sweep(tmp_path)

    def making(_):
        for _ in range(100):
            with scratch_folder(tmp_path) as folder:
                (folder / "file").write_text("mine")
                assert (folder / "file").read_text() == "mine"

    with ThreadPoolExecutor(6) as pool:
        sweepers = [pool.submit(sweeping) for _ in range(2)]
        try:
            list(pool.map(making, range(4)))
        finally:
            done.set()
        for sweeper in sweepers:
            sweeper.result()
    assert list(tmp_path.iterdir()) == []
