"""The options a profile may set for ONNX Runtime; the standard library only, so that any machine can read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]


@dataclass(frozen=True)
class OnnxRuntimeOptions:
    """How ONNX Runtime compiles and runs a model.

    Attributes:
        provider: The execution provider the model must run on.
        allow_fallback: Whether nodes that ``provider`` does not take may run on the CPU (for TensorRT: on CUDA,
            then the CPU). Otherwise such a model is refused.
        device_id: Index of the GPU, for ``cuda`` and ``tensorrt``.
        intra_op_threads: Threads within one operator; 0 is one per physical core.
        inter_op_threads: Operators run at once, in threads; 1 is one after the other, 0 leaves it to the runtime.
        allow_spinning: Whether idle threads spin (lower latency) or sleep (processor left to others).
        optimization: How far the graph is optimized.
        x64_precision: Whether x86 processors without VNNI avoid int8 kernels that saturate at int16 (exact, slower).
        config: Further session configuration entries, key to value.
        provider_options: Options of the provider, key to value.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    provider: Provider = "cpu"
    allow_fallback: bool = False
    device_id: int = 0
    intra_op_threads: int = 0
    inter_op_threads: int = 1
    allow_spinning: bool = True
    optimization: Literal["disable", "basic", "extended", "all"] = "all"
    x64_precision: bool = False
    config: dict[str, str] = field(default_factory=dict)
    provider_options: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse counts below zero; a validator of profiles reports the error with its key."""
        for name in ("device_id", "intra_op_threads", "inter_op_threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
