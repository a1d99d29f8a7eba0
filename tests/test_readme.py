"""README's commands run as they stand there, and its example files are valid."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import hwbench
from hwbench import demo
from hwbench.profile import load_profile
from hwbench.spec import load_spec

ROOT = Path(__file__).parents[1]
BLOCK = re.compile(r"^```(\w+)([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
BLOCKS = [match.groups() for match in BLOCK.finditer((ROOT / "README.md").read_text())]
COMMANDS = "".join(body for language, mark, body in BLOCKS if language == "sh" and not mark.strip())
# Installing, testing and the demo have tests of their own (or are what runs this one); the others are about files of the
# reader's.
NOT_RUN = [
    r"make demo",
    r"make test",
    r"pip install 'hwbench-ml\[[\w,]+\]'",
    r"hwbench targets install aarch64",
    r"hwbench run .+ --studies portability .+",
    r"hwbench export package\.module:make_model .+",
    r"hwbench compare before\.toml after\.toml --interleave .+",
    r"hwbench run int8\.onnx --reference fp32\.onnx .+",
    r"hwbench run vad\.onnx .+",
    r"dask (scheduler|worker tcp://HOST:8786 --nthreads 1)",
    r"hwbench (faults|targets serve) .+ --scheduler tcp://HOST:8786",
    r"mkdir tls && openssl req .+",  # tests/targets/test_boards.py runs it, and the next
    r"cp tls/cert\.pem tls/ca\.pem",
    r"dask scheduler --tls-ca-file .+",
    r"hwbench (run|targets serve) .+ --scheduler tls://HOST:8786 --tls tls",
]


@pytest.fixture(scope="module")
def clone(tmp_path_factory):
    """A folder with what the commands name of a clone."""
    folder = tmp_path_factory.mktemp("clone")
    shutil.copytree(Path(demo.__file__).parent, folder / "hwbench" / "demo")
    return folder


def blocks(language: str) -> list[str]:
    found = [body for named, _, body in BLOCKS if named == language]
    assert found
    return found


def test_only_these_commands_are_not_run():
    skipped = "".join(body for language, mark, body in BLOCKS if language == "sh" and mark.strip() == "no-test")
    for line in skipped.splitlines():
        assert any(re.fullmatch(pattern, line) for pattern in NOT_RUN), line
    assert {mark.strip() for language, mark, _ in BLOCKS if language == "sh"} <= {"", "no-test"}


@pytest.mark.slow
def test_the_commands_run_in_order(clone):
    environment = {**os.environ, "HWBENCH_CACHE": str(clone / "cache")}
    environment["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    script = ["sh", "-e", "-x", "-c", COMMANDS]
    done = subprocess.run(script, cwd=clone, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert {path.parent.name for path in clone.glob("results/*/report.html")} >= {"mine"}


def test_the_example_files_are_valid(clone):
    for body in blocks("toml"):
        name = re.match(r"# ([\w-]+\.toml)", body)
        assert name, f"says no file name in its first line: {body}"
        (clone / name[1]).write_text(body)
    assert load_profile(str(clone / "my-board.toml")).name == "my-board"
    assert load_spec(clone / "study.toml").settings


def test_the_python_example_names_what_exists():
    for body in blocks("python"):
        compile(body, "README.md", "exec")
        for name in re.findall(r"\bhwbench\.(\w+)", body):
            assert name in hwbench.__all__
        for name in re.findall(r"\brun\.(\w+)", body):
            assert hasattr(hwbench.Run, name)
