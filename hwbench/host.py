"""What machine and which package versions a run was made with, and where this user's cache is."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import psutil

from hwbench.cpu import cpu_flags, cpu_model

PACKAGES = (
    "hwbench-ml",
    "numpy",
    "onnx",
    "onnx-ir",
    "onnxruntime",
    "onnxruntime-gpu",
    "openvino",
    "tensorrt",
    "nncf",
    "polars",
    "scipy",
)


def cache_home() -> Path:
    """Where builds and system roots are kept between runs: ``$HWBENCH_CACHE``, else the user's cache directory."""
    chosen = os.environ.get("HWBENCH_CACHE")
    if chosen:
        return Path(chosen)
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "hwbench"


def describe_host() -> dict[str, Any]:
    """Processor, memory and system of this machine, as ``run.json`` stores them."""
    return {
        "cpu_model": cpu_model(),
        "isa": list(cpu_flags()),
        "cores_physical": psutil.cpu_count(logical=False),
        "cores_logical": os.cpu_count(),
        "memory_mib": psutil.virtual_memory().total // 2**20,
        "kernel": platform.release(),
        "os": _os_name(),
        "python": platform.python_version(),
        "machine": platform.machine(),
    }


def package_versions() -> dict[str, str]:
    """Versions of the packages a figure may depend on, those that are installed."""
    found = {}
    for name in PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _os_name() -> str:
    try:
        return platform.freedesktop_os_release()["PRETTY_NAME"]
    except OSError:
        return platform.system()
