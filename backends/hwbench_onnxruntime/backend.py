"""ONNX Runtime as a backend: what works here, what it takes, and how a session is made."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from hwbench.backend import Availability, Backend, Coverage
from hwbench.cpu import cpu_flags
from hwbench_onnxruntime.options import OnnxRuntimeOptions

if TYPE_CHECKING:
    from hwbench_onnxruntime.session import OnnxRuntimeSession


class OnnxRuntimeBackend(Backend):
    """Compiles and runs models with ONNX Runtime."""

    name: ClassVar[str] = "onnxruntime"
    options_type: ClassVar[type[Any]] = OnnxRuntimeOptions
    threads_option: ClassVar[str | None] = "intra_op_threads"
    shared_options: ClassVar[Mapping[str, Any]] = {"allow_spinning": False}
    runtime: ClassVar[str] = "onnxruntime"
    install: ClassVar[str] = "pip install 'hwbench-ml[onnxruntime]'"

    def _probe_impl(self) -> Availability:
        import numpy as np
        import onnx
        import onnxruntime as ort

        from hwbench_onnxruntime.session import HINTS, PROVIDERS, provider_works

        listed = set(ort.get_available_providers())
        devices = tuple(name for name, full in PROVIDERS.items() if full in listed and provider_works(name))
        return Availability(
            available="cpu" in devices,
            reason="" if "cpu" in devices else "ONNX Runtime cannot run a model of one node on the CPU",
            versions={"onnxruntime": ort.__version__, "onnx": onnx.__version__, "numpy": np.__version__},
            devices=devices,
            hints={name: hint for name, hint in HINTS.items() if name not in devices},
            isa=cpu_flags(),
        )

    def _device_impl(self, options: OnnxRuntimeOptions) -> str:
        return options.provider

    def _coverage_impl(self, model: Path, options: OnnxRuntimeOptions) -> Coverage:
        from hwbench_onnxruntime.coverage import model_coverage

        return model_coverage(model, options)

    def _session_impl(self, options: OnnxRuntimeOptions, mutable: Sequence[str]) -> OnnxRuntimeSession:
        from hwbench_onnxruntime.session import OnnxRuntimeSession

        return OnnxRuntimeSession(options, mutable)
