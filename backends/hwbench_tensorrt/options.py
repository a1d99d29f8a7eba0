"""What a profile may set under ``[options]`` for TensorRT.

Standard library only: a profile is checked where the runtime is missing.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import ClassVar, Literal

# The largest values of any machine: GPUs, MiB of memory (64 TiB), samples in a batch.
_MOST = {"device_id": 1023, "workspace_mib": 1 << 26, "max_batch": 1 << 20}


@dataclass(frozen=True)
class TensorRtOptions:
    """How an engine is built and run.

    A precision is not among them: a TensorRT 11 network is strongly typed, so the ONNX file alone says what runs in
    float16 and what in int8.

    Attributes:
        device_id: Index of the GPU, as CUDA numbers the visible ones.
        workspace_mib: Most scratch memory a kernel may ask for while building, MiB; None for all the GPU has.
        optimization_level: How long the builder searches for fast kernels, from 0 (shortest) to 5.
        tf32: Let float32 matrix products round their inputs to TF32's 10-bit mantissas. Off here, though on by
            default in TensorRT, so that a float32 build computes in float32.
        cuda_graph: Replay a captured CUDA graph in latency loops, which saves the launch time of each kernel.
        min_batch: Smallest batch, in samples, of an engine whose first dimension is dynamic.
        opt_batch: Batch, in samples, that kernels are chosen for.
        max_batch: Largest batch, in samples.
        cache: Folder for built engines and kernel timings, which are loaded unchecked; None to build anew each time. Only a
            trusted profile may set it.

    Raises:
        ValueError: The batches are not 1 <= min_batch <= opt_batch <= max_batch, or another number is out of its range.
    """

    __pydantic_config__: ClassVar = {"extra": "forbid"}

    device_id: int = 0
    workspace_mib: int | None = None
    optimization_level: Literal[0, 1, 2, 3, 4, 5] = 3
    tf32: bool = False
    cuda_graph: bool = False
    min_batch: int = 1
    opt_batch: int = 1
    max_batch: int = 256
    cache: str | None = field(
        default=None, metadata={"trusted_only": "engines, which hold code, are written there and loaded unchecked"}
    )

    def __post_init__(self) -> None:
        if not 1 <= self.min_batch <= self.opt_batch <= self.max_batch:
            batches = f"{self.min_batch}, {self.opt_batch}, {self.max_batch}"
            raise ValueError(f"min_batch, opt_batch and max_batch must rise from 1 in this order, not {batches}")
        if self.device_id < 0:
            raise ValueError(f"device_id counts from 0, not {self.device_id}")
        if self.workspace_mib is not None and self.workspace_mib < 1:
            raise ValueError(f"workspace_mib must be at least 1, not {self.workspace_mib}")
        for name, most in _MOST.items():
            if (getattr(self, name) or 0) > most:
                raise ValueError(f"{name} must be at most {most}, not {getattr(self, name)}")
