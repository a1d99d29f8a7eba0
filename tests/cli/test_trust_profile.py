"""Profiles that ask a runtime to write files or load code: refused before anything is written, unless they are trusted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import hwbench
from hwbench.errors import ProfileError


def hostile(folder: Path, backend: str, options: str) -> Path:
    path = folder / "hostile.toml"
    path.write_text(f'backend = "{backend}"\n[options]\n{options}\n')
    return path


@pytest.fixture
def caching(tmp_path) -> Path:
    return hostile(tmp_path, "openvino", f'cache_dir = "{tmp_path / "cache"}"')


def test_a_hostile_profile_truncates_no_file(hw, model, data, tmp_path):
    """Without the allowlist, ONNX Runtime overwrites the file with a line for every node of the model."""
    victim = tmp_path / ".profile"
    victim.write_text("export PATH\n")
    path = hostile(tmp_path, "onnxruntime", f'config = {{"session.collect_node_memory_stats_to_file" = "{victim}"}}')
    common = ["run", model, "--data", data, "--profiles", path, "--studies", "accuracy", "--quiet"]
    ended = hw(*common, "--out", tmp_path / "run")
    assert ended.code == 2
    assert "options.config.session.collect_node_memory_stats_to_file: not on the backend's allowlist" in ended.err
    assert victim.read_text() == "export PATH\n"
    assert not (tmp_path / "run").exists()
    assert hw("build", model, "--profile", path, "--out", tmp_path / "build").code == 2
    assert hw("faults", model, "--data", data, "--profile", path, "--out", tmp_path / "faults").code == 2
    assert {file.name for file in tmp_path.iterdir()} == {".profile", "hostile.toml", "model.onnx", "data.npz"}


def test_the_owner_of_the_machine_lifts_the_list_and_the_run_says_so(hw, model, data, caching, tmp_path):
    common = ["run", model, "--data", data, "--profiles", caching, "--studies", "accuracy", "--quiet"]
    ended = hw(*common, "--trust-profile", "--out", tmp_path / "run", "--json")
    assert ended.code == 0, ended.err
    run = ended.json["run"]
    assert run["spec"]["trust_profile"] is True
    assert run["profiles"]["hostile"]["beyond_allowlist"] == ["options.cache_dir"]
    assert run["profiles"]["hostile"]["asked"]["options"]["cache_dir"] == str(tmp_path / "cache")
    for report in ("report.md", "report.html"):
        text = (tmp_path / "run" / report).read_text()
        assert "Trusted profiles" in text
        assert "hostile: options.cache" in text.replace("\\", "")


def test_trust_is_a_key_of_a_specification_and_an_argument_in_python(model, data, caching, tmp_path):
    with pytest.raises(ProfileError, match="trust_profile in a specification"):
        hwbench.run(model, data=data, profiles=[str(caching)], studies=["accuracy"], out=tmp_path / "run")
    given = {"data": data, "profiles": [str(caching)], "studies": ["accuracy"], "trust_profile": True}
    finished = hwbench.run(model, **given, out=tmp_path / "run")
    assert finished.record["spec"]["trust_profile"] is True


def test_a_profile_is_shown_where_it_is_trusted(hw, caching, tmp_path):
    assert hw("profiles", caching).code == 2
    shown = hw("profiles", caching, "--trust-profile", "--json")
    assert json.loads(shown.out)["options"]["cache_dir"] == str(tmp_path / "cache")
