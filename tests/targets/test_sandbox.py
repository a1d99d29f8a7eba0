"""A worker reads its job's files and the libraries, writes its job's folder, and reaches nobody."""

from __future__ import annotations

import importlib
import os
import signal
import socket
import sys
import tempfile
from pathlib import Path

import pytest
from emulation import needs_x86

from hwbench import demo
from hwbench.targets import Targets, open_target, sandbox
from hwbench.worker.protocol import LOCAL, Job
from hwbench.worker.sandbox import support

HASWELL = {"kind": "emulated", "arch": "x86_64", "cpu": "Haswell"}
A53 = {"kind": "emulated", "arch": "aarch64", "cpu": "cortex-a53"}
NETWORK = {"connect by TCP", "listen by TCP"}
SOCKETS = {"send by UDP", "connect to a named socket"}

confined = pytest.mark.skipif(support().abi < 1, reason=f"sandbox: {support()}")


@pytest.fixture
def elsewhere(tmp_path):
    """A folder that a job is not given, a listener, a named socket, and a process that may be signaled: this one."""
    folder = tmp_path / "elsewhere"
    folder.mkdir()
    (folder / "kept").write_text("kept")
    received = []
    before = signal.signal(signal.SIGUSR1, lambda number, _: received.append(number))
    with (
        tempfile.TemporaryDirectory() as short,
        socket.create_server(("127.0.0.1", 0)) as server,
        socket.socket(socket.AF_UNIX) as named,
    ):
        named.bind(f"{short}/s")
        named.listen()
        port = server.getsockname()[1]
        yield {"elsewhere": str(folder), "port": port, "socket": f"{short}/s", "pid": os.getpid()}
    signal.signal(signal.SIGUSR1, before)
    assert received == []
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"kept": "kept"}


def refused(kinds: set[str]) -> set[str]:
    """Those of some attempts that this kernel can refuse."""
    found = support()
    lacking = set() if found.abi >= 6 else {"signal"}
    if not found.sockets:
        lacking |= SOCKETS | (NETWORK if found.abi < 4 else set())
    return kinds - lacking


@confined
@pytest.mark.parametrize("machine", [LOCAL, pytest.param(HASWELL, marks=needs_x86)], ids=["local", "emulated"])
def test_a_worker_cannot_touch_what_it_is_not_given(machine, elsewhere, tmp_path):
    result = Targets().run(Job("sample_tasks:misbehaves", elsewhere, machine=machine), tmp_path / "job")
    assert result.ok, result.detail
    assert refused({name for name, ended in result.data.items() if ended == "done"}) == set()
    assert result.data["create"] == "PermissionError"
    assert result.data["by a child"] == "CalledProcessError"
    assert result.usage["sandbox"] == str(support())


@confined
@pytest.mark.slow
def test_a_worker_on_another_instruction_set_cannot_either(aarch64, elsewhere, tmp_path, monkeypatch):
    target = open_target(**A53)
    environment = target.environment()
    environment["PYTHONPATH"] += os.pathsep + str(Path(__file__).parents[1] / "worker")
    monkeypatch.setattr(target, "environment", lambda: environment)
    result = target.run(Job("sample_tasks:misbehaves", elsewhere), tmp_path / "job")
    assert result.ok, result.detail
    assert refused({name for name, ended in result.data.items() if ended == "done"}) == set()


@pytest.mark.parametrize("machine", [LOCAL, pytest.param(HASWELL, marks=needs_x86)], ids=["local", "emulated"])
def test_what_jobs_do_with_their_surroundings_works(machine, tmp_path):
    (tmp_path / "given").write_text("x")
    given = {"given": str(tmp_path / "given")}
    job = Job("sample_tasks:behaves", given, files=tuple(given.values()), machine=machine)
    result = Targets().run(job, tmp_path / "job")
    assert result.ok, result.detail
    assert result.data.pop("temporary") == str(tmp_path / "job" / sandbox.SCRATCH)
    assert set(result.data.values()) == {"done"}
    assert (tmp_path / "job" / "kept").read_text() == "x"


@confined
def test_a_runtime_cannot_write_elsewhere_for_a_worker(tmp_path):
    pytest.importorskip("onnxruntime")
    (tmp_path / "kept").write_text("kept")
    params = {"model": str(demo.MODEL), "file": str(tmp_path / "kept")}
    job = Job("sample_tasks:has_onnxruntime_write", params, files=(str(demo.MODEL),))
    open_target("local").run(job, tmp_path / "job")
    assert (tmp_path / "kept").read_text() == "kept"
    trusted = Targets(sandboxed=False).run(job, tmp_path / "job")
    assert trusted.ok, trusted.detail
    assert (tmp_path / "kept").read_text() != "kept"  # or the test would show nothing
    assert trusted.usage["sandbox"] == sandbox.TRUSTED


def test_a_killed_quantizer_leaves_no_temporary_files(tmp_path, monkeypatch):
    pytest.importorskip("onnxruntime")
    (tmp_path / "tmp").mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    job = Job("sample_tasks:dies_quantizing", {"model": str(demo.MODEL)}, files=(str(demo.MODEL),))
    result = open_target("local").run(job, tmp_path / "job")
    assert result.detail.startswith("died of SIGKILL")
    left = Path((tmp_path / "job" / "left").read_text())
    assert left.parent == tmp_path / "job" / sandbox.SCRATCH
    assert not left.parent.exists()
    assert not list((tmp_path / "tmp").iterdir())


def test_run_and_targets_name_what_is_enforced():
    assert sandbox.describe() == str(support())
    assert sandbox.describe(sandboxed=False) == "none: --trust-profile"


def test_code_that_nobody_has_compiled_is_compiled_before_workers_use_it(tmp_path, monkeypatch):
    """A worker cannot keep what it compiles."""
    package = tmp_path / "fresh_backend"
    package.mkdir()
    (package / "__init__.py").write_text("class Fresh:\n    runtime = 'fresh_runtime'\n")
    (tmp_path / "fresh_runtime").mkdir()
    for name in ("__init__", "inner"):
        (tmp_path / "fresh_runtime" / f"{name}.py").write_text("")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(sys, "dont_write_bytecode", False)
    importlib.import_module("fresh_backend")
    sandbox.compile_code(Job("sample_tasks:ok", backend="fresh_backend:Fresh"))
    compiled = {path.name.partition(".")[0] for path in tmp_path.rglob("*.pyc") if path.parts[-3] == "fresh_runtime"}
    assert compiled == {"__init__", "inner"}
