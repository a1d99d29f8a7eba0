"""Keeps built engines and kernel timings on disk, under keys that say what they depend on."""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
from dataclasses import asdict
from pathlib import Path

from hwbench_tensorrt.driver import Device
from hwbench_tensorrt.options import TensorRtOptions

_DIGEST = 32  # bytes of a SHA-256
RUN_OPTIONS = ("device_id", "cuda_graph", "cache")  # they say how and where an engine runs, not how it is built


def cache_key(model: bytes, options: TensorRtOptions, refit: bool, version: str, device: Device) -> str:
    """The SHA-256 an engine is stored under, as 64 hexadecimal digits.

    An engine only runs on the GPU product and with the TensorRT version that built it, so both belong to the key.

    Args:
        model: The serialized ONNX model.
        options: The backend's options; those that only concern running are left out.
        refit: Whether the engine's weights can be changed.
        version: TensorRT's version.
        device: The GPU.
    """
    built = {name: value for name, value in asdict(options).items() if name not in RUN_OPTIONS}
    setting = {"options": built, "refit": refit, "tensorrt": version, "gpu": device.name, "isa": device.isa}
    digest = hashlib.sha256(json.dumps(setting, sort_keys=True).encode())
    digest.update(hashlib.sha256(model).digest())
    return digest.hexdigest()


class EngineCache:
    """A folder of engines, and of one file of kernel timings per TensorRT version and GPU.

    Each file begins with the SHA-256 of the rest. One that does not fit it is taken as missing, and written again.

    Args:
        folder: Where they are; None for no cache at all, in which nothing is ever found.
        version: TensorRT's version.
        device: The GPU.
    """

    def __init__(self, folder: str | None, version: str, device: Device) -> None:
        self._folder = None if folder is None else Path(folder)
        gpu = hashlib.sha256(device.name.encode()).hexdigest()[:8]
        self._timings = f"timings-{version}-{device.isa}-{gpu}.bin"

    def engine(self, key: str) -> bytes:
        """The engine stored under ``key``; empty if there is none."""
        return self._read(f"{key}.engine")

    def store_engine(self, key: str, engine: bytes) -> None:
        """Store an engine."""
        self._write(f"{key}.engine", engine)

    def timings(self) -> bytes:
        """The kernel timings of earlier builds; empty if there are none."""
        return self._read(self._timings)

    def store_timings(self, timings: bytes) -> None:
        """Store kernel timings in place of the earlier ones."""
        self._write(self._timings, timings)

    def _read(self, name: str) -> bytes:
        path = None if self._folder is None else self._folder / name
        stored = path.read_bytes() if path is not None and path.is_file() else b""
        digest, content = stored[:_DIGEST], stored[_DIGEST:]
        return content if hashlib.sha256(content).digest() == digest else b""

    def _write(self, name: str, content: bytes) -> None:
        if self._folder is None:
            return
        self._folder.mkdir(parents=True, exist_ok=True)
        # Two processes may build the same engine: each writes a file of its own and renames it, the last one stays.
        handle, part = tempfile.mkstemp(dir=self._folder, prefix=name, suffix=".part")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(hashlib.sha256(content).digest() + content)
            Path(part).replace(self._folder / name)
        finally:
            Path(part).unlink(missing_ok=True)
