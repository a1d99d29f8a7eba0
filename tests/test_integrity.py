"""Hashes of files: they follow every change, and each way to miss a file is damage."""

from __future__ import annotations

import os

import pytest

from hwbench.integrity import DamagedError, file_sha256, require_intact


def test_a_file_that_is_changed_has_another_hash(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"a")
    first = file_sha256(file)
    file.write_bytes(b"bb")
    assert file_sha256(file) != first


@pytest.mark.parametrize("damage", ["changed", "missing", "folder", "pipe"])
def test_damaged_files_are_named(tmp_path, damage):
    for name in ("whole", "file"):
        (tmp_path / name).write_bytes(name.encode())
    hashes = {name: file_sha256(tmp_path / name) for name in ("whole", "file")}
    require_intact(tmp_path, hashes)
    if damage == "changed":
        (tmp_path / "file").write_bytes(b"else")
    else:
        (tmp_path / "file").unlink()
    if damage == "folder":
        (tmp_path / "file").mkdir()
    elif damage == "pipe":
        os.mkfifo(tmp_path / "file")
    with pytest.raises(DamagedError, match=r"^file "):
        require_intact(tmp_path, hashes)
