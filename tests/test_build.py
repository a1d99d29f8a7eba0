"""Builds: what decides their name, that they are made once, and what their manifests say."""

import hashlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from hwbench.build import MANIFEST, Recipe, make_build, work_folder
from hwbench.dataset import Dataset
from hwbench.errors import JobError, ModelError, RunDirectoryError, UnavailableError
from hwbench.host import cache_home
from hwbench.model import Model
from hwbench.npy import NpyWriter
from hwbench.profile import Precision, load_profile
from hwbench.targets import open_target
from hwbench.worker.protocol import Limits
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


def test_what_killed_runs_left_is_removed_and_living_ones_are_left_alone(tmp_path, monkeypatch):
    monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path))
    ended = subprocess.Popen(["true"])
    ended.wait()
    dead, fresh, living = (
        tmp_path / "work" / name for name in (f"{ended.pid}-old", f"{ended.pid}-new", f"{os.getpid()}-a")
    )
    for folder in (dead, fresh, living):
        folder.mkdir(parents=True)
    for folder in (dead, living):
        os.utime(folder, (0, 0))
    with work_folder() as own:
        assert own.is_dir()
        assert {path.name for path in own.parent.iterdir()} == {fresh.name, living.name, own.name}
    assert not own.exists()
