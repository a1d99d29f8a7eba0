import os
import socket

import pytest

from hwbench.errors import DataError
from hwbench.files import require_file


def refuses(match, path):
    with pytest.raises(DataError, match=match):
        require_file(path, DataError)


def test_regular_files_and_links_to_them(tmp_path):
    (tmp_path / "a").touch()
    (tmp_path / "link").symlink_to("a")
    require_file(tmp_path / "a", DataError)
    require_file(tmp_path / "link", DataError)


def test_what_is_not_a_regular_file(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "loop").symlink_to("loop")
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(str(tmp_path / "socket"))
    refuses(r"fifo: is a FIFO or a pipe, not a regular file; give a file", tmp_path / "fifo")
    refuses("zero: is a device, not a regular file", tmp_path / "zero")
    refuses("socket: is a socket, not a regular file", tmp_path / "socket")
    refuses("is a folder, not a regular file", tmp_path)
    refuses("none: cannot be read: No such file", tmp_path / "none")
    with pytest.raises(DataError, match="none: no such model"):
        require_file(tmp_path / "none", DataError, "model")
    refuses("loop: cannot be read: ", tmp_path / "loop")
    refuses(r"'nul\\x00' is not a path: embedded null", tmp_path.__class__("nul\0"))
    refuses("cannot be read: File name too long", tmp_path / ("n" * 300))


def test_pipes_behind_the_standard_input(tmp_path):
    read, write = os.pipe()
    try:
        refuses("is a FIFO or a pipe", tmp_path.__class__(f"/proc/self/fd/{read}"))
    finally:
        os.close(read)
        os.close(write)


def test_files_too_large_for_what_they_are(tmp_path):
    (tmp_path / "a").write_bytes(b"12345")
    require_file(tmp_path / "a", DataError, most=5)
    with pytest.raises(DataError, match="a: has 5 bytes, more than the limit of 4"):
        require_file(tmp_path / "a", DataError, most=4)
