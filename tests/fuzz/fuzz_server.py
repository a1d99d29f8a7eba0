"""Runs fuzz cases, each in a fork of a process that has everything imported, under limits on time, memory and writes.

Run as a program: a line of JSON ``[kind, folder]`` in, a line of JSON (the fields of `fuzz_client.Outcome`) out.
"""

from __future__ import annotations

import json
import os
import resource
import select
import shutil
import signal
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any

from hwbench.cli import main
from hwbench.cli.failures import explain
from hwbench.errors import HwbenchError

DEADLINE_S = 60.0  # for what hangs; what computes is stopped by its processor time
CPU_S = 8
MEMORY_MIB = 512  # beyond what the server itself has
_MIB = 1 << 20
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_APPEND
# Events of `sys.audit` whose first argument is a path that is changed, and those that no input may cause at all.
_CHANGES = {
    "os.chmod", "os.chown", "os.link", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "os.setxattr", "os.symlink",
    "os.truncate", "os.utime", "shutil.rmtree",
}  # fmt: skip
_FORBIDDEN = {
    "os.exec", "os.fork", "os.kill", "os.posix_spawn", "os.system", "pickle.find_class", "socket.bind",
    "socket.connect", "subprocess.Popen",
}  # fmt: skip


def model_case(folder: Path) -> None:
    """Everything that the parent process does with a model, and the worker's first step."""
    from hwbench import lint
    from hwbench.graph import asked_precisions
    from hwbench.model import normalize
    from hwbench.preparation import prepare
    from hwbench.spec import make_spec
    from hwbench.studies.deployed import deployed

    data = {"source": str(folder / "data.npz")}
    spec = make_spec(model=str(folder / "model.onnx"), data=data, profiles=["cpu-fp32"], studies=["accuracy"])
    with prepare(spec) as prepared:
        shapes = {name: file.shape[1:] for name, file in prepared.data.inputs.items()}
    made = folder / "made.onnx"
    try:
        normalize(prepared.model.path, made, shapes=shapes)
    except Exception as error:  # noqa: BLE001  a worker does this, whose every exception is the job's reason
        explain(error)
        return
    asked_precisions(made)
    place = deployed(made)
    _ = place.activations
    for target in lint.TARGETS.values():
        lint.lint(place.model, "onnxruntime", {}, target)


def data_case(folder: Path) -> None:
    """Data of any form, for a model of one input."""
    from hwbench.preparation import prepare
    from hwbench.spec import load_spec

    with prepare(load_spec(folder / "spec.toml")):
        pass


def profile_case(folder: Path) -> None:
    """A profile, shown with every setting."""
    _command("profiles", folder / "profile.toml", "--json")


def fault_list_case(folder: Path) -> None:
    """A list of faults, written again and read back."""
    import numpy as np

    from hwbench.faults.listing import read_faults, write_faults

    stored = {"w1": np.zeros(16, np.float32), "=w2": np.zeros(16, np.int8)}
    faults = read_faults(folder / "faults.csv", stored)
    write_faults(folder / "again.csv", faults, stored)
    assert read_faults(folder / "again.csv", stored).equals(faults)


def run_directory_case(folder: Path) -> None:
    """A run directory: reported, and compared with a sound one."""
    _command("report", folder / "run", "--out", folder / "junit.xml")
    _command("compare", folder / "run", folder.parent / "sound", "--all", "--fail-on", "accuracy.top1:0.01")


def views_case(folder: Path) -> None:
    """A run directory's reports, with their charts."""
    _command("report", folder / "run", "--json")


CASES: dict[str, Callable[[Path], None]] = {
    "model": model_case,
    "data": data_case,
    "profile": profile_case,
    "faults": fault_list_case,
    "run": run_directory_case,
    "views": views_case,
}


class CommandFailedError(Exception):
    """A command line that ended with a message."""

    def __init__(self, code: int, message: str) -> None:
        self.code = code
        super().__init__(message)


def _command(*arguments: object) -> None:
    sys.argv = ["hwbench", *map(str, arguments)]
    out, err = StringIO(), StringIO()
    try:
        with redirect_stdout(out), redirect_stderr(err):
            main()
    except SystemExit as ended:
        if ended.code not in (0, 1):
            raise CommandFailedError(int(ended.code or 0), err.getvalue().strip()) from None
        if ended.code == 1 and err.getvalue().startswith("error"):
            raise CommandFailedError(1, err.getvalue().strip()) from None


def carry_out(kind: str, folder: Path) -> dict[str, Any]:
    """Run one case in this process, which is the child."""
    wrote: list[str] = []
    sys.addaudithook(_watch(folder, wrote))
    try:
        CASES[kind](folder)
        code, message = 0, ""
    except CommandFailedError as error:
        code, message = error.code, str(error)
    except BaseException as error:  # noqa: BLE001  everything that comes is the outcome
        failure = explain(error)
        code, message = failure.code, failure.message
        if not isinstance(error, HwbenchError | OSError):
            message += "\n" + "".join(traceback.format_exception(error))[-3000:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"code": code, "message": message, "peak_mib": peak, "wrote": wrote}


def _watch(folder: Path, wrote: list[str]) -> Callable[[str, tuple[Any, ...]], None]:
    """An audit hook that notes what is changed outside of a folder."""
    home = str(folder) + os.sep

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        if event in _FORBIDDEN:
            wrote.append(f"{event} {arguments[0]!r}")
        elif event in _CHANGES or (event == "open" and isinstance(arguments[2], int) and arguments[2] & _WRITES):
            path = arguments[0]
            if isinstance(path, int) or not path:
                return
            path = os.path.realpath(os.fsdecode(path))
            if not path.startswith(home) and path not in (home.rstrip(os.sep), os.devnull):
                wrote.append(f"{event} {path!r}")

    return hook


def _child(kind: str, folder: Path, descriptor: int) -> None:
    """Set the limits, run the case and write its outcome; does not return."""
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    resource.setrlimit(resource.RLIMIT_DATA, (int(status["VmData"].split()[0]) * 1024 + MEMORY_MIB * _MIB,) * 2)
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S + 1))
    resource.setrlimit(resource.RLIMIT_FSIZE, (256 * _MIB,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    scratch = folder / "tmp"
    scratch.mkdir(exist_ok=True)
    os.environ.update(TMPDIR=str(scratch), XDG_STATE_HOME=str(scratch), HWBENCH_CACHE=str(scratch))
    import tempfile

    tempfile.tempdir = str(scratch)
    os.chdir(folder)
    outcome = carry_out(kind, folder)
    with os.fdopen(descriptor, "w") as pipe:
        json.dump(outcome, pipe)
    os._exit(0)


def run_case(kind: str, folder: Path) -> dict[str, Any]:
    """Fork, wait for the outcome or the deadline, and say how it ended."""
    beside = sorted(path.name for path in folder.parent.iterdir())
    reader, writer = os.pipe()
    start = time.monotonic()
    pid = os.fork()
    if pid == 0:
        os.close(reader)
        try:
            _child(kind, folder, writer)
        except BaseException:  # noqa: BLE001  a fault of the server, for its log
            traceback.print_exc()
        finally:
            os._exit(99)
    os.close(writer)
    text = b""
    while True:
        left = DEADLINE_S - (time.monotonic() - start)
        ready, _, _ = select.select([reader], [], [], max(0.0, left))
        chunk = os.read(reader, 1 << 16) if ready else None
        if not chunk:
            break
        text += chunk
    os.close(reader)
    timed_out = chunk is None
    if timed_out:
        os.kill(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    code = os.waitstatus_to_exitcode(status)
    outcome = {"code": code, "message": "took too long" if timed_out else f"died: {code}", "peak_mib": 0.0, "wrote": []}
    if code == 0 and text:
        outcome = json.loads(text)
    if sorted(path.name for path in folder.parent.iterdir()) != beside:
        outcome["wrote"].append("files beside the case's folder")
    return {**outcome, "cpu_s": used.ru_utime + used.ru_stime}


def warm_up() -> None:
    """Import what cases need, so that no fork imports it again."""
    import altair  # noqa: F401
    import onnxruntime  # noqa: F401
    import PIL.Image

    import hwbench.api
    import hwbench.dataset.tables
    import hwbench.export
    import hwbench.faults.listing
    import hwbench.lint
    import hwbench.report.html
    import hwbench.report.terminal  # noqa: F401
    from hwbench.backend import backends
    from hwbench.studies import studies

    PIL.Image.init()
    for registry in (backends, studies):
        for name in registry.names():
            registry.get(name)


if __name__ == "__main__":
    warm_up()
    for line in sys.stdin:
        kind, where = json.loads(line)
        case = Path(where)
        print(json.dumps(run_case(kind, case)), flush=True)
        shutil.rmtree(case)
