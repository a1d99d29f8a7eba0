"""OpenVINO as a backend: what works here, what it takes, and how a session is made."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hwbench.backend import Availability, Backend, Coverage
from hwbench.cpu import cpu_flags
from hwbench_openvino.options import OpenVinoOptions

if TYPE_CHECKING:
    from hwbench_openvino.session import OpenVinoSession


class OpenVinoBackend(Backend):
    """Compiles and runs models with OpenVINO."""

    name: ClassVar[str] = "openvino"
    options_type: ClassVar[type[Any]] = OpenVinoOptions
    threads_option: ClassVar[str | None] = "inference_num_threads"
    compile_bytes: ClassVar[float] = 3e8
    runtime: ClassVar[str] = "openvino"
    install: ClassVar[str] = "pip install 'hwbench-ml[openvino]'"

    def _probe_impl(self) -> Availability:
        import numpy as np
        import onnx
        import openvino as ov

        from hwbench_openvino.session import HINTS, core

        devices = tuple(core().available_devices)
        capabilities = core().get_property("CPU", "OPTIMIZATION_CAPABILITIES") if "CPU" in devices else []
        return Availability(
            available=bool(devices),
            reason="" if devices else "OpenVINO lists no device on this machine",
            versions={"openvino": ov.__version__, "onnx": onnx.__version__, "numpy": np.__version__},
            devices=devices,
            hints={
                name: hint for name, hint in HINTS.items() if not any(device.startswith(name) for device in devices)
            },
            isa=(*cpu_flags(), *sorted(capabilities)),
        )

    def _device_impl(self, options: OpenVinoOptions) -> str:
        return options.device

    def _float_precision_impl(self, options: OpenVinoOptions) -> str:
        return {"f32": "fp32", "bf16": "bf16", "f16": "fp16"}[options.inference_precision]

    def _coverage_impl(self, model: Path, options: OpenVinoOptions) -> Coverage:
        from hwbench_openvino.coverage import model_coverage

        return model_coverage(model, options)

    def _session_impl(self, options: OpenVinoOptions, mutable: Sequence[str]) -> OpenVinoSession:
        from hwbench_openvino.session import OpenVinoSession

        return OpenVinoSession(options, mutable)
