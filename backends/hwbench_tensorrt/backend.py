"""Finds out whether TensorRT can run here, and hands out sessions."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from hwbench.backend import Availability, Backend, Coverage, Session
from hwbench.errors import UnavailableError
from hwbench_tensorrt.driver import Device, driver_version, find_device, find_devices
from hwbench_tensorrt.options import TensorRtOptions

OLDEST = 11  # the first version in which every network is strongly typed
PACKAGES = {"tensorrt": "tensorrt", "cuda": "cuda-python"}  # import name to distribution


class TensorRtBackend(Backend):
    """TensorRT on an NVIDIA GPU.

    Nothing of TensorRT is imported before the driver has answered: its objects may crash the process without one.
    """

    name: ClassVar[str] = "tensorrt"
    options_type: ClassVar[type[TensorRtOptions]] = TensorRtOptions
    runtime: ClassVar[str] = "tensorrt"
    install: ClassVar[str] = "pip install 'hwbench-ml[tensorrt]'"

    def _probe_impl(self) -> Availability:
        try:
            devices = find_devices()
        except UnavailableError as error:
            return self._without_driver(error)
        import cuda.bindings
        import tensorrt as trt

        versions = {"tensorrt": trt.__version__, "cuda-bindings": cuda.bindings.__version__, "driver": driver_version()}
        versions |= {f"GPU {device.label}": device.name for device in devices}
        if not _recent(trt.__version__):
            return Availability(False, _too_old(trt.__version__), self.install, versions)
        return Availability(
            available=True,
            versions=versions,
            devices=tuple(device.label for device in devices),
            isa=tuple(sorted({device.isa for device in devices})),
        )

    def _without_driver(self, error: UnavailableError) -> Availability:
        missing = [package for name, package in PACKAGES.items() if importlib.util.find_spec(name) is None]
        if not missing:
            return Availability(False, error.reason, error.hint)
        reason = f"{error.reason}; not installed either: {', '.join(missing)}"
        return Availability(False, reason, f"{error.hint}; then {self.install}")

    def _device_impl(self, options: TensorRtOptions) -> str:
        return f"cuda:{options.device_id}"

    def _coverage_impl(self, model: Path, options: TensorRtOptions) -> Coverage:
        device = self._require(options)
        from hwbench_tensorrt.coverage import model_coverage
        from hwbench_tensorrt.session import read_model

        return model_coverage(read_model(model), device)

    def _session_impl(self, options: TensorRtOptions, mutable: Sequence[str]) -> Session:
        device = self._require(options)
        from hwbench_tensorrt.session import TensorRtSession

        return TensorRtSession(options, mutable, device)

    def _require(self, options: TensorRtOptions) -> Device:
        """The GPU asked for, once the driver and TensorRT are known to be there."""
        device = find_device(options.device_id)
        import tensorrt as trt

        if not _recent(trt.__version__):
            raise UnavailableError(_too_old(trt.__version__), self.install)
        return device


def _recent(version: str) -> bool:
    return int(version.partition(".")[0]) >= OLDEST


def _too_old(version: str) -> str:
    return f"TensorRT {version} is installed, but {OLDEST} or newer is needed, in which networks are strongly typed"
