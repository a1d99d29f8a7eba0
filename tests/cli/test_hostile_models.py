"""Hostile models through the real command line: exit 1 or 2 with one message that names the file, never a traceback."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from hostile_models import EXTERNAL, HOSTILE, external

from hwbench.errors import ModelError
from hwbench.model import Model

# What runs, at least in parts: nothing is wrong with these but their looks.
RUNS = {
    "batch_of_minus_1",
    "scalar_output",
    "duplicate_node_names",
    "unknown_domain",
    "opset_999",
    "deep_subgraphs",
    "names_with_paths_and_controls",
    "long_chain",
    "string_initializer",
    "itself",
    "short",
}
# What the model alone does not show to be wrong: its data or the output that is judged do.
LATER = {"string_output", "float8_output", "complex_output", "bfloat16_output", "bfloat16_input", "negative_dimension"}


@pytest.fixture
def folder(tmp_path) -> Path:
    """A model's folder with links, a pipe and a weight file in it."""
    place = tmp_path / "models"
    (place / "folder").mkdir(parents=True)
    (tmp_path / "outside.bin").write_bytes(bytes(64))
    (place / "w.bin").write_bytes(bytes(32))
    os.mkfifo(place / "fifo")
    links = {"folder_link": "/etc", "outside_link": "../outside.bin", "loop_a": "loop_b", "loop_b": "loop_a"}
    for name, target in links.items():
        (place / name).symlink_to(target)
    return place


def content(name: str) -> bytes:
    if name not in EXTERNAL:
        return HOSTILE[name]()
    made = external(**EXTERNAL[name])
    return made.replace(b"w.bin", b"w\xff\xfein") if name == "not_utf8" else made


@pytest.mark.parametrize("name", sorted((HOSTILE.keys() | EXTERNAL.keys()) - RUNS - LATER))
def test_hostile_models_are_refused_by_name(folder, name):
    (folder / "model.onnx").write_bytes(content(name))
    with pytest.raises(ModelError, match=r"model\.onnx") as refused:
        Model.open(folder / "model.onnx")
    message = str(refused.value)
    assert len(message) < 900
    assert "\n" not in message


@pytest.mark.slow
@pytest.mark.parametrize("name", [*sorted(RUNS), "link_loop", "node_name_not_utf8", "no_inputs"])
def test_the_command_line_ends_in_a_message(process, folder, tmp_path, name):
    (folder / "model.onnx").write_bytes(content(name))
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((3, 1, 8, 8)).astype(np.float32))
    ended = process(
        "run",
        folder / "model.onnx",
        "--data",
        "data.npz",
        "--profiles",
        "cpu-fp32",
        "--studies",
        "accuracy",
        "-o",
        "out",
        "-q",
    )
    error = ended.stderr.decode()
    assert ended.returncode in (0, 1, 2), error
    assert "Traceback" not in error
    assert not (tmp_path / "state").exists()
    if ended.returncode == 2:
        assert error.startswith("error: ")
        assert "model.onnx" in error or "data.npz" in error
        assert not (tmp_path / "out").exists()
    assert {path.name for path in tmp_path.iterdir()} <= {"models", "outside.bin", "data.npz", "out"}
