"""The options a profile may set for OpenVINO; the standard library only, so that any machine can read them."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal


@dataclass(frozen=True)
class OpenVinoOptions:
    """How OpenVINO compiles and runs a model.

    Attributes:
        device: The device, as OpenVINO lists it (``"CPU"``, ``"GPU"``, ``"GPU.1"``, ``"NPU"``).
        inference_precision: What floating-point operators compute in. Always pinned: left alone, OpenVINO takes
            bfloat16 on any CPU that has it.
        performance_hint: What OpenVINO tunes its streams and threads for.
        inference_num_threads: CPU threads; 0 leaves it to the runtime (one per physical core).
        num_streams: Inferences run at once; 0 leaves it to the hint (``latency``: 1).
        cache_dir: Folder in which compiled models are kept; empty for none.
        config: Further properties of the device, key to value.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    device: str = "CPU"
    inference_precision: Literal["f32", "bf16", "f16"] = "f32"
    performance_hint: Literal["latency", "throughput"] = "latency"
    inference_num_threads: int = 0
    num_streams: int = 0
    cache_dir: str = ""
    config: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse counts below zero; a validator of profiles reports the error with its key."""
        for name in ("inference_num_threads", "num_streams"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative")
