"""What the tests of the command line share."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from models import small_cnn
from shared_run import SharedRun, make_shared_run

from hwbench.cli import main


@dataclass(frozen=True)
class Ended:
    """How one command ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SharedRun:
    return make_shared_run(tmp_path_factory.getbasetemp())


@pytest.fixture
def hw(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Callable[..., Ended]:
    """Runs one command line through the real entry point."""
    monkeypatch.setenv("HWBENCH_DEBUG", "")

    def run(*arguments: object) -> Ended:
        monkeypatch.setattr(sys, "argv", ["hwbench", *map(str, arguments)])
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main()
        out, err = capsys.readouterr()
        return Ended(ended.value.code or 0, out, err)

    return run


@pytest.fixture
def process(tmp_path: Path) -> Callable[..., subprocess.CompletedProcess[bytes]]:
    """Runs one command line in a process of its own, in ``tmp_path``; ``python`` are the interpreter's options."""

    def run(
        *arguments: object, python: tuple[str, ...] = (), environment: Mapping[str, str] | None = None, **options: Any
    ) -> subprocess.CompletedProcess[bytes]:
        command = [sys.executable, *python, "-m", "hwbench", *map(str, arguments)]
        path = os.pathsep.join(str(Path(entry).absolute()) for entry in sys.path)
        env = {**os.environ, "PYTHONPATH": path, "XDG_STATE_HOME": str(tmp_path / "state"), **(environment or {})}
        streams = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE} | options
        return subprocess.run(command, env=env, cwd=tmp_path, timeout=240, check=False, **streams)

    return run


@pytest.fixture
def model(tmp_path: Path) -> Path:
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    x = np.random.default_rng(0).standard_normal((12, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.full(12, 2))  # the class the model gives for nearly all
    return tmp_path / "data.npz"
