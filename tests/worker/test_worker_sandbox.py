"""The sandbox by itself: what each version of the kernel's interface enforces, and how it is named."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from hwbench.worker.sandbox import Support, support

ENTER = """
import json, os, socket, sys
from pathlib import Path
from hwbench.worker import sandbox
abi, folder, sockets = json.loads(sys.argv[1])
sandbox.support = lambda: sandbox.Support(abi, "", sockets)
own, given, elsewhere = (Path(folder, name) for name in ("own", "given", "elsewhere"))
sandbox.enter({"run": ["/usr", "/nowhere"], "read": [str(given)], "update": ["/dev/null"], "own": [str(own)]})
def ended(attempt):
    try:
        attempt()
    except OSError as error:
        return type(error).__name__
    return "done"
print(json.dumps({
    "write": ended(lambda: elsewhere.write_text("x")),
    "read": ended(elsewhere.read_text),
    "truncate": ended(lambda: os.truncate(given, 1)),
    "own": ended(lambda: (own / "a").write_text("x")),
    "move": ended(lambda: ((own / "folder").mkdir(), (own / "a").rename(own / "folder" / "a"))),
    "given": ended(given.read_text),
    "null": ended(lambda: Path("/dev/null").write_text("x")),
    "socket": ended(socket.socket),
    "listen": ended(lambda: socket.create_server(("127.0.0.1", 0))),
    "pair": ended(socket.socketpair),
    "signal": ended(lambda: os.kill(os.getppid(), 0)),
}))
"""
REFUSED = "PermissionError"


@pytest.fixture
def enter(tmp_path):
    (tmp_path / "own").mkdir()
    for name in ("given", "elsewhere"):
        (tmp_path / name).write_text("kept")

    def run(abi, sockets):
        arguments = json.dumps([abi, str(tmp_path), sockets])
        done = subprocess.run([sys.executable, "-c", ENTER, arguments], capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.mark.parametrize("abi", range(1, 8))
def test_each_version_enforces_what_it_has(enter, abi):
    if support().abi < abi:
        pytest.skip(f"sandbox: {support()}")
    assert enter(abi, False) == {
        **{"write": REFUSED, "read": REFUSED, "own": "done", "given": "done", "null": "done"},
        **{"socket": "done", "pair": "done"},
        "truncate": REFUSED if abi >= 3 else "done",
        "move": "done" if abi >= 2 else "OSError",  # the first version knows no right to move between folders
        "listen": REFUSED if abi >= 4 else "done",
        "signal": REFUSED if abi >= 6 else "done",
    }


def test_sockets_are_refused_without_landlock_too(enter):
    if not support().sockets:
        pytest.skip(f"sandbox: {support()}")
    found = enter(0, True)
    assert {name for name, ended in found.items() if ended == REFUSED} == {"socket", "listen"}


@pytest.mark.parametrize(
    ("found", "text"),
    [
        (Support(7, "", True), "Landlock ABI 7 (files, TCP, signals), seccomp (sockets)"),
        (Support(3, "", False), "Landlock ABI 3 (files)"),
        (Support(0, "this kernel has no Landlock", True), "seccomp (sockets); this kernel has no Landlock"),
        (Support(0, "this kernel has no Landlock", False), "none: this kernel has no Landlock"),
    ],
)
def test_support_is_named(found, text):
    assert str(found) == text


def test_a_job_without_rules_is_not_confined(tmp_path):
    (tmp_path / "job.json").write_text(json.dumps({"sandbox": None}))
    code = f"from pathlib import Path; Path({str(tmp_path / 'made')!r}).touch()"
    command = [sys.executable, "-m", "hwbench.worker.sandbox", str(tmp_path), "--exec", sys.executable, "-c", code]
    subprocess.run(command, check=True)
    assert (tmp_path / "made").exists()
