"""Rules of a worker's sandbox: it writes to its job's folder only, and reads its job's files and the libraries.

The worker confines itself by these rules before it imports anything but the standard library (see `hwbench.worker.sandbox`).
"""

from __future__ import annotations

import compileall
import os
import shutil
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from functools import cache
from importlib.util import cache_from_source, find_spec
from pathlib import Path

import hwbench
from hwbench.worker.protocol import Job
from hwbench.worker.sandbox import support

SCRATCH = "scratch"
TRUSTED = "none: --trust-profile"
# Folders of programs and libraries; files that a loader, a C library or a driver reads; devices that it writes to.
_SYSTEM = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/opt", "/nix/store", "/run/opengl-driver")
_READABLE = ("/etc", "/proc", "/sys", "/dev/random", "/dev/urandom")
_DEVICES = ("/dev/null", "/dev/zero", "/dev/full")
_GPU_DEVICES = ("nvidia*", "nvhost*", "nvmap", "nvgpu", "dri", "dxg", "kfd", "accel")
_TEMPORARY = ("TMPDIR", "TMP", "TEMP")
_CACHES = ("XDG_CACHE_HOME", "MPLCONFIGDIR", "CUDA_CACHE_PATH", "NUMBA_CACHE_DIR", "TRITON_CACHE_DIR")


def describe(sandboxed: bool = True) -> str:
    """Describe the confinement of workers on this machine, as results and ``run.json`` record it.

    Args:
        sandboxed: False if the machine's owner has switched the sandbox off.
    """
    return str(support()) if sandboxed else TRUSTED


@contextmanager
def scratch(folder: Path) -> Iterator[dict[str, str]]:
    """A folder for the temporary files of a worker and the caches of its libraries, removed even if the worker is killed.

    Args:
        folder: The job's folder, in which it is made.

    Returns:
        The environment variables that give a worker its path.
    """
    place = folder / SCRATCH
    shutil.rmtree(place, ignore_errors=True)  # of a parent that was killed
    place.mkdir()
    try:
        yield dict.fromkeys((*_TEMPORARY, *_CACHES), str(place))
    finally:
        shutil.rmtree(place, ignore_errors=True)  # a process that has left the worker's group may still write there


def compile_code(job: Job) -> None:
    """Compile the modules of hwbench, of the job's backend and of its runtime that are not compiled yet.

    A worker cannot store compiled modules, and would compile them each time, which takes time and memory. A backend that this
    process has not imported is skipped.
    """
    module, _, name = job.backend.partition(":")
    runtime = getattr(getattr(sys.modules.get(module), name, None), "runtime", "")
    for package in filter(None, ("hwbench", module.partition(".")[0], runtime)):
        _compile_package(package)


@cache
def _compile_package(package: str) -> None:
    spec = find_spec(package)
    if spec is None or spec.origin is None or not spec.submodule_search_locations or sys.dont_write_bytecode:
        return
    kept = Path(cache_from_source(spec.origin))
    if package == "hwbench" or not kept.exists():
        compileall.compile_dir(Path(spec.origin).parent, quiet=2)


def rules(job: Job, folder: Path, programs: Iterable[str] = ()) -> dict[str, list[str]]:
    """Paths that a job's worker may use, by access: the argument of `hwbench.worker.sandbox.enter`.

    Args:
        job: The job.
        folder: Its folder.
        programs: Further paths that it runs or imports from: an emulator, a system root.
    """
    gpus = [str(path) for pattern in _GPU_DEVICES for path in Path("/dev").glob(pattern)]
    shared = ["/dev/shm"] if gpus else []  # noqa: S108  CUDA's shared memory
    return {
        "run": sorted({*code_folders(job.task, job.backend), job.own_copy, *programs} - {""}),
        "read": sorted({*_READABLE, *job.files}),
        "update": sorted({*_DEVICES, *gpus, *_names_of_threads(gpus)}),
        "own": [str(folder), *shared],
    }


def code_folders(*references: str) -> set[str]:
    """Folders of programs and libraries of the system, this interpreter and some modules; a worker cannot write there.

    Args:
        references: ``module:name`` of what a worker imports; a backend, for example.
    """
    return {*_SYSTEM, *_interpreter(), *_packages(references)} - {"", "/"}


def _interpreter() -> Iterator[str]:
    """Folders of this interpreter, its packages and the loader's libraries."""
    yield from (sys.prefix, sys.exec_prefix, sys.base_prefix, sys.base_exec_prefix)
    yield str(Path(sys.executable).parent)
    yield str(Path(sys.executable).resolve().parent)
    yield from (str(Path(entry).absolute()) for entry in sys.path)
    yield from os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)


def _packages(references: Iterable[str]) -> Iterator[str]:
    """Folders of hwbench and of the modules' packages, which an editable installation may have elsewhere."""
    yield str(Path(hwbench.__file__).parent)
    for reference in references:
        spec = find_spec(reference.partition(":")[0].partition(".")[0]) if reference else None
        if spec is not None and spec.origin is not None:
            yield str(Path(spec.origin).parent)


def _names_of_threads(gpus: Iterable[str]) -> Iterator[str]:
    """Folder below which CUDA must write its threads' names: all of ``/proc``, as child processes have other numbers.

    See NVIDIA/OpenShell, issue 1486.
    """
    if any("nvidia" in path or "nvhost" in path for path in gpus):
        yield "/proc"
