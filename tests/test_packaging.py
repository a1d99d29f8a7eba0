"""What is installed works: the wheel in a bare environment, a backend from a distribution of its own, a worker on a board."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import venv
import zipfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from hwbench import demo
from hwbench.worker.protocol import PROTOCOL

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ROOT = Path(__file__).parents[1]
PLUGIN = Path(__file__).parent / "plugin_distribution"
BACKENDS = {"onnxruntime", "openvino", "tensorrt"}
PROFILE = """backend = "onnx-reference"
summary = "What the specification says"
[options]
check_shapes = true
evaluator = {verbose = "0"}
"""


@dataclass(frozen=True)
class Environment:
    """A virtual environment of its own, used from ``/`` so that nothing of the clone is on its path."""

    folder: Path

    @classmethod
    def make(cls, folder: Path, *requirements: str) -> Environment:
        venv.create(folder, symlinks=True)
        made = cls(folder)
        made.install(*requirements)
        return made

    def install(self, *requirements: str) -> None:
        pip = [sys.executable, "-m", "pip", "--python", str(self.folder / "bin" / "python")]
        subprocess.run([*pip, "install", "--quiet", *requirements], check=True)

    def run(self, program: str, *arguments: str, **variables: str) -> str:
        """Run a program of the environment; what it prints."""
        done = self.ended(program, *arguments, **variables)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def refusal(self, *arguments: str) -> str:
        """The message with which hwbench refuses its arguments, on one line."""
        done = self.ended("hwbench", *arguments)
        assert done.returncode == 2
        return " ".join(done.stderr.split())

    def ended(self, program: str, *arguments: str, **variables: str) -> subprocess.CompletedProcess[str]:
        """Run a program of the environment to its end."""
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PYTHON")}
        environment |= {"HWBENCH_CACHE": str(self.folder / "cache"), **variables}
        command = [str(self.folder / "bin" / program), *arguments]
        return subprocess.run(command, cwd="/", env=environment, capture_output=True, text=True, check=False)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """The wheel, built from the sdist, which is built from the clone."""
    folder = tmp_path_factory.mktemp("dist")
    command = [sys.executable, "-m", "build", "--outdir", str(folder), str(ROOT)]  # the sdist, and from it the wheel
    subprocess.run(command, check=True, capture_output=True)
    assert len(list(folder.glob("*.tar.gz"))) == 1
    [found] = folder.glob("*.whl")
    return found


@pytest.fixture(scope="module")
def installed(wheel, tmp_path_factory) -> Environment:
    """An environment that holds the wheel, ONNX Runtime and what they need."""
    return Environment.make(tmp_path_factory.mktemp("bare"), f"hwbench-ml[onnxruntime] @ {wheel.as_uri()}")


@pytest.fixture(scope="module")
def with_plugin(installed) -> Environment:
    """The same with the plugin's distribution."""
    installed.install(str(PLUGIN))
    return installed


@pytest.fixture
def few_digits(tmp_path) -> Path:
    path = tmp_path / "few.npz"
    with np.load(demo.DATA) as data:
        np.savez(path, x=data["x"][:40], y=data["y"][:40])
    return path


def test_profiles_and_backends_are_listed(installed):
    profiles = json.loads(installed.run("hwbench", "profiles", "--json"))
    assert {profile["name"] for profile in profiles} == {path.stem for path in (ROOT / "profiles").glob("*.toml")}
    backends = json.loads(installed.run("hwbench", "backends", "--json"))
    assert backends.keys() >= BACKENDS
    assert backends["onnxruntime"]["available"]
    assert not backends["openvino"]["available"]
    assert backends["openvino"]["hint"] == "pip install 'hwbench-ml[openvino]'"


def test_a_small_study_runs_from_anywhere(installed, tmp_path):
    out = tmp_path / "run"
    embedded = "from hwbench import demo; print(demo.MODEL, demo.DATA, demo.CALIBRATION)"
    model, data, calibration = installed.run("python", "-c", embedded).split()
    assert Path(model).is_relative_to(installed.folder)
    # fmt: off
    installed.run(
        "hwbench", "run", model, "--data", data, "--calibration", calibration, "--profiles", "cpu-fp32,cpu-int8",
        "--studies", "accuracy", "--out", str(out),
    )
    # fmt: on
    table = pl.read_parquet(out / "measurements.parquet")
    top1 = table.filter(study="accuracy", metric="top1", condition="{}").sort("profile")
    assert top1["profile"].to_list() == ["cpu-fp32", "cpu-int8", "reference"]
    assert top1["value"].min() > 0.97
    assert "<html" in (out / "report.html").read_text()


def test_a_backend_from_a_distribution_of_its_own_is_used(with_plugin, few_digits, tmp_path):
    listed = json.loads(with_plugin.run("hwbench", "backends", "--json"))
    assert listed["onnx-reference"]["devices"] == ["numpy"]
    profile, out = tmp_path / "specified.toml", tmp_path / "run"
    profile.write_text(PROFILE)
    # fmt: off
    with_plugin.run(
        "hwbench", "run", str(demo.MODEL), "--data", str(few_digits), "--profiles", str(profile),
        "--studies", "accuracy,coverage,fidelity", "--out", str(out),
    )
    # fmt: on
    entry = json.loads((out / "run.json").read_text())["profiles"]["specified"]
    assert (entry["status"], entry["backend"], entry["asked"]["options"]) == (
        "ok",
        "onnx-reference",
        {"check_shapes": True, "evaluator": {"verbose": "0"}},
    )
    table = pl.read_parquet(out / "measurements.parquet").filter(profile="specified", condition="{}")
    figures = dict(zip(table["metric"], table["value"], strict=True))
    assert figures["top1"] > 0.9
    assert 0 < figures["max_abs_error"] < 1e-3  # another implementation of the same operators
    assert figures["nodes_as_asked"] == 1


def test_a_backend_from_a_distribution_of_its_own_has_an_allowlist(with_plugin, tmp_path):
    profile = tmp_path / "hostile.toml"
    profile.write_text('backend = "onnx-reference"\n[options]\nevaluator = {new_ops = "/tmp/ops.py"}\n')
    assert "options.evaluator.new_ops: not on the backend's allowlist" in with_plugin.refusal("profiles", str(profile))


def test_a_worker_needs_numpy_onnx_and_its_runtime_alone(wheel, few_digits, tmp_path):
    board = Environment.make(tmp_path / "board", "numpy", "onnx", "onnxruntime")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(tmp_path / "copied")
    absent = ["pydantic", "polars", "scipy", "typer", "rich", "jinja2", "altair", "psutil", "onnx_ir"]
    found = f"from importlib.util import find_spec; print([name for name in {absent} if find_spec(name)])"
    assert board.run("python", "-c", found).strip() == "[]"
    with np.load(few_digits) as data:
        np.save(tmp_path / "image.npy", data["x"])
    common = {"model": str(demo.MODEL), "inputs": {"image": str(tmp_path / "image.npy")}}
    golden = {"golden": {"kind": "golden"}, "faulty": {"kind": "bit_errors", "rate": 1e-4, "seed": 0, "draw": 0}}
    evaluation = {"n": 40, "batch": 16, "outputs": ["logits"], "keep": "full", "variants": golden}
    evaluated = work(board, tmp_path, "evaluate", {**common, **evaluation}, list(golden))
    assert evaluated["data"]["restored"]
    one = {"batch": 1, "options": {}, "windows": 1, "window_s": 0.01, "runs": 50, "warm_up_s": 0.1}
    timed = work(board, tmp_path, "launch", {**common, "launch": 0, "quota": False, "points": {"one": one}}, ["one"])
    assert timed["status"] == "ok"
    assert len(np.load(tmp_path / "launch" / "one.npy")) >= 50


def work(
    board: Environment, folder: Path, task: str, params: dict[str, object], variants: list[str]
) -> dict[str, dict]:
    """Have a worker of the environment carry out one job; its result file."""
    place = folder / task
    place.mkdir()
    backend = "hwbench_onnxruntime:OnnxRuntimeBackend"
    job = {"task": f"hwbench.worker.tasks.{task}:run", "params": params, "backend": backend, "options": {}}
    (place / "job.json").write_text(json.dumps({"protocol": PROTOCOL, **job, "variants": variants}))
    board.run("python", "-m", "hwbench.worker", str(place), PYTHONPATH=str(folder / "copied"))
    result = json.loads((place / "result.json").read_text())
    assert (result["status"], result["detail"]) == ("ok", "")
    return result
