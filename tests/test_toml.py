from __future__ import annotations

import os

import pytest

from hwbench.errors import ProfileError, SpecError
from hwbench.profile import load_profile
from hwbench.spec import load_spec
from hwbench.toml import read_toml

SPEC = 'model = "m.onnx"\nprofiles = ["cpu-fp32"]\n[data]\nsource = "d.npz"\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a = " + "[" * 40 + "]" * 40, "nested deeper"),
        ("a = " + "[" * 100_000 + "]" * 100_000, "nested deeper"),
        (".".join(["a"] * 5000) + " = 1", "nested deeper"),
        ("a = " + "1" * 10_000, "not valid TOML"),
        ("a = " + "1" * 20, "beyond 64 bits"),
        ("[a]\nb = [1, {c = -99999999999999999999}]", r"a\.b\.1\.c: an integer beyond 64 bits"),
        ('a = "x\\u0000"', "NUL"),
        ('"x\\u0000" = 1', "NUL"),
        ("a = 2020-13-45", "not valid TOML"),
        ("#" * (1 << 21), "longer than the limit of 1 MiB"),
        ("\ufeffa = 1", "not valid TOML"),
        ("a = 1\na = 2", "not valid TOML"),
    ],
)
def test_what_no_setting_means_is_refused_with_the_files_name(tmp_path, text, message):
    (tmp_path / "a.toml").write_text(text, encoding="utf-8")
    with pytest.raises(SpecError, match=message) as refused:
        read_toml(tmp_path / "a.toml", "a.toml", SpecError)
    assert "a.toml: " in str(refused.value)
    assert len(str(refused.value)) < 400


def test_files_that_are_none_are_refused_at_once(tmp_path):
    os.mkfifo(tmp_path / "fifo.toml")
    (tmp_path / "folder.toml").mkdir()
    (tmp_path / "loop.toml").symlink_to(tmp_path / "loop.toml")
    (tmp_path / "bytes.toml").write_bytes(b"a = '\xff'")
    for name in ("fifo.toml", "folder.toml", "loop.toml", "missing.toml", "bytes.toml", "nul\0.toml"):
        with pytest.raises(ProfileError, match=name.partition("\0")[0]):
            load_profile(str(tmp_path / name))


@pytest.mark.parametrize("length", [40, 1500])
def test_long_chains_of_extend_are_refused(tmp_path, length):
    for number in range(length):
        (tmp_path / f"{number}.toml").write_text(f'extend = "{number + 1}.toml"\n')
    (tmp_path / f"{length}.toml").write_text('extend = "cpu-fp32"\n')
    with pytest.raises(ProfileError, match="a chain of more than 32 profiles"):
        load_profile(str(tmp_path / "0.toml"))
    assert load_profile(str(tmp_path / f"{length - 30}.toml")).backend == "onnxruntime"


def test_circles_of_extend_are_refused(tmp_path):
    (tmp_path / "a.toml").write_text('extend = "b.toml"\n')
    (tmp_path / "b.toml").write_text('extend = "a.toml"\n')
    with pytest.raises(ProfileError, match="extends itself"):
        load_profile(str(tmp_path / "a.toml"))


@pytest.mark.parametrize("value", ["1e300", "inf", "nan", "0", "-1", '"600"x', "1e7"])
def test_timeouts_that_no_clock_can_wait_for_are_refused(tmp_path, value):
    (tmp_path / "s.toml").write_text(f"timeout_s = {value}\n{SPEC}")
    with pytest.raises(SpecError, match=r"s\.toml"):
        load_spec(tmp_path / "s.toml")
