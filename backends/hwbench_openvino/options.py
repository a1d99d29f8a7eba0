"""The options a profile may set for OpenVINO; the standard library only, so that any machine can read them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

_SWITCH = ("YES", "NO")
_LEVEL = ("LOW", "MEDIUM", "HIGH", "DEFAULT")
_CACHED = ("u4", "u8", "f16", "bf16", "f32")
_GROUP = range(65_537)
_DEVICE = re.compile(r"[A-Z]{1,16}(\.\d{1,4}){0,2}", re.ASCII)
# The largest value that a device can use: Linux runs on at most 8,192 processors.
_MOST = {"inference_num_threads": 8192, "num_streams": 8192}

# The devices' properties that choose kernels, threads and priorities, and neither name a file nor load code. Left out are the
# caches (CACHE_DIR, CACHE_PATH, CACHE_BLOB_ID, NPUW_CACHE_DIR), weights and models (WEIGHTS_PATH, ENABLE_WEIGHTLESS), kernels
# and tables read from files (CONFIG_FILE, GPU_CONV_LOOKUP_TABLE_PATH), dumps (NPUW_DUMP_*), logs, compilers' own strings, and
# the reservation of processors (ENABLE_CPU_RESERVATION), after which the process's next session finds none.
PROPERTIES: dict[str, Any] = {
    "COMPILATION_NUM_THREADS": range(1, 8193),
    "CPU_DENORMALS_OPTIMIZATION": _SWITCH,
    "CPU_SPARSE_WEIGHTS_DECOMPRESSION_RATE": (0.0, 1.0),
    "DYNAMIC_QUANTIZATION_GROUP_SIZE": _GROUP,
    "ENABLE_CPU_PINNING": _SWITCH,
    "ENABLE_HYPER_THREADING": _SWITCH,
    "ENABLE_TENSOR_PARALLEL": _SWITCH,
    "EXECUTION_MODE_HINT": ("PERFORMANCE", "ACCURACY"),
    "GPU_DISABLE_WINOGRAD_CONVOLUTION": _SWITCH,
    "GPU_ENABLE_LARGE_ALLOCATIONS": _SWITCH,
    "GPU_ENABLE_LOOP_UNROLLING": _SWITCH,
    "GPU_ENABLE_SDPA_OPTIMIZATION": _SWITCH,
    "GPU_HOST_TASK_PRIORITY": _LEVEL[:3],
    "GPU_QUEUE_PRIORITY": _LEVEL,
    "GPU_QUEUE_THROTTLE": _LEVEL,
    "KEY_CACHE_GROUP_SIZE": _GROUP,
    "KEY_CACHE_PRECISION": _CACHED,
    "KV_CACHE_PRECISION": _CACHED,
    "MODEL_DISTRIBUTION_POLICY": ("TENSOR_PARALLEL",),
    "MODEL_PRIORITY": _LEVEL[:3],
    "NPU_DEFER_WEIGHTS_LOAD": _SWITCH,
    "NPU_TILES": range(1, 65),
    "NPU_TURBO": _SWITCH,
    "PERFORMANCE_HINT_NUM_REQUESTS": range(8193),
    "SCHEDULING_CORE_TYPE": ("ANY_CORE", "PCORE_ONLY", "ECORE_ONLY"),
    "TBB_PARTITIONER": ("STATIC", "AUTO"),
    "VALUE_CACHE_GROUP_SIZE": _GROUP,
    "VALUE_CACHE_PRECISION": _CACHED,
    "WORKLOAD_TYPE": ("DEFAULT", "EFFICIENT"),
    "INFERENCE_NUM_THREADS": "inference_num_threads",
    "INFERENCE_PRECISION_HINT": "inference_precision",
    "NUM_STREAMS": "num_streams",
    "PERFORMANCE_HINT": "performance_hint",
}


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
        cache_dir: Folder in which compiled models are kept, and from which they are loaded unchecked; empty for none. Only a
            trusted profile may set it.
        config: Further properties of the device, key to value; a profile may set those in `PROPERTIES`.
    """

    __pydantic_config__: ClassVar[dict[str, Any]] = {"extra": "forbid"}

    device: str = "CPU"
    inference_precision: Literal["f32", "bf16", "f16"] = "f32"
    performance_hint: Literal["latency", "throughput"] = "latency"
    inference_num_threads: int = 0
    num_streams: int = 0
    cache_dir: str = field(
        default="", metadata={"trusted_only": "compiled models are written there and loaded unchecked"}
    )
    config: dict[str, str] = field(default_factory=dict, metadata={"allowed": PROPERTIES})

    def __post_init__(self) -> None:
        """Refuse counts that no machine has; a validator of profiles reports the error with its key."""
        if not _DEVICE.fullmatch(self.device):
            raise ValueError(f"device must be one device's name, such as CPU or GPU.1, not {self.device[:40]!r}")
        for name, most in _MOST.items():
            given = getattr(self, name)
            if given < 0:
                raise ValueError(f"{name} must not be negative, not {given}")
            if given > most:
                raise ValueError(f"{name} must be at most {most}, not {given}")
