"""The options a profile may set for ONNX Runtime; the standard library only, so that any machine can read them."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

Provider = Literal["cpu", "cuda", "tensorrt", "openvino"]

_SWITCH = ("0", "1")
_BOOLEAN = ("0", "1", "True", "False", "true", "false")
_BYTES = range(1 << 50)
_SPIN_US = range(1_000_001)
_SHAPE = r"[\w./-]{1,200}:\d{1,9}(x\d{1,9}){0,7}"
_SHAPES = re.compile(rf"{_SHAPE}(,{_SHAPE}){{0,31}}", re.ASCII)
# The largest values that a session can use: Linux runs on at most 8,192 processors, and no machine has as many GPUs.
_MOST = {"device_id": 1023, "intra_op_threads": 8192, "inter_op_threads": 8192}

# The session's entries that choose kernels, rewrites and waiting, and neither name a file nor load code. Of the others
# (onnxruntime_session_options_config_keys.h), some write files (statistics of nodes, partitions, profiles, optimized models,
# contexts), some read them, and some only make sense with a runtime's own files.
SESSION_CONFIG: dict[str, Any] = {
    "mlas.disable_kleidiai": _SWITCH,
    "mlas.qnbit.force_fp32": _SWITCH,
    "mlas.use_lut_gemm": _SWITCH,
    "optimization.constant_folding_max_output_size_in_bytes": _BYTES,
    "optimization.disable_specified_optimizers": re.compile(r"\w{1,64}(;\w{1,64}){0,63}", re.ASCII),
    "optimization.enable_cast_chain_elimination": _SWITCH,
    "optimization.enable_gelu_approximation": _SWITCH,
    "session.allow_released_opsets_only": _SWITCH,
    "session.disable_aot_function_inlining": _SWITCH,
    "session.disable_double_qdq_remover": _SWITCH,
    "session.disable_prepacking": _SWITCH,
    "session.disable_qdq_constant_folding": _SWITCH,
    "session.disable_quant_qdq": _SWITCH,
    "session.dynamic_block_base": range(65_537),
    "session.enable_dq_matmulnbits_fusion": _SWITCH,
    "session.enable_quant_qdq_cleanup": _SWITCH,
    "session.force_spinning_stop": _SWITCH,
    "session.graph_optimizations_loop_level": ("0", "1", "2"),
    "session.inter_op.spin_backoff_max": range(65_537),
    "session.inter_op.spin_duration_us": _SPIN_US,
    "session.intra_op.spin_backoff_max": range(65_537),
    "session.intra_op.spin_duration_us": _SPIN_US,
    "session.qdq_matmulnbits_accuracy_level": range(5),
    "session.qdq_matmulnbits_block_size": ("16", "32", "64", "128", "256"),
    "session.qdqisint8allowed": _SWITCH,
    "session.set_denormal_as_zero": _SWITCH,
    "session.strict_shape_type_inference": _SWITCH,
    "session.use_device_allocator_for_initializers": _SWITCH,
    "session.disable_cpu_ep_fallback": "allow_fallback",
    "session.inter_op.allow_spinning": "allow_spinning",
    "session.intra_op.allow_spinning": "allow_spinning",
    "session.x64quantprecision": "x64_precision",
}

# Providers' options of the same kind. Addresses (streams, allocators), plugin and decryption libraries, calibration tables,
# caches, dumps and configuration files are left out.
PROVIDER_OPTIONS: dict[str, Any] = {
    "arena_extend_strategy": ("kNextPowerOfTwo", "kSameAsRequested"),
    "cudnn_conv1d_pad_to_nc1d": _SWITCH,
    "cudnn_conv_algo_search": ("EXHAUSTIVE", "HEURISTIC", "DEFAULT"),
    "cudnn_conv_use_max_workspace": _SWITCH,
    "do_copy_in_default_stream": _SWITCH,
    "enable_cuda_graph": _SWITCH,
    "enable_skip_layer_norm_strict_mode": _SWITCH,
    "fuse_conv_bias": _SWITCH,
    "gpu_mem_limit": _BYTES,
    "prefer_nhwc": _SWITCH,
    "sdpa_kernel": range(256),
    "tunable_op_enable": _SWITCH,
    "tunable_op_max_tuning_duration_ms": range(3_600_001),
    "tunable_op_tuning_enable": _SWITCH,
    "use_ep_level_unified_stream": _SWITCH,
    "use_tf32": _SWITCH,
    "trt_auxiliary_streams": range(129),
    "trt_bf16_enable": _BOOLEAN,
    "trt_build_heuristics_enable": _BOOLEAN,
    "trt_builder_optimization_level": range(6),
    "trt_context_memory_sharing_enable": _BOOLEAN,
    "trt_cuda_graph_enable": _BOOLEAN,
    "trt_dla_core": range(16),
    "trt_dla_enable": _BOOLEAN,
    "trt_engine_hw_compatible": _BOOLEAN,
    "trt_force_sequential_engine_build": _BOOLEAN,
    "trt_fp16_enable": _BOOLEAN,
    "trt_int8_enable": _BOOLEAN,
    "trt_layer_norm_fp32_fallback": _BOOLEAN,
    "trt_max_partition_iterations": range(1_000_001),
    "trt_max_workspace_size": _BYTES,
    "trt_min_subgraph_size": range(1_000_001),
    "trt_op_types_to_exclude": re.compile(r"\w{1,64}(,\w{1,64}){0,63}", re.ASCII),
    "trt_profile_max_shapes": _SHAPES,
    "trt_profile_min_shapes": _SHAPES,
    "trt_profile_opt_shapes": _SHAPES,
    "trt_sparsity_enable": _BOOLEAN,
    "device_type": re.compile(r"(CPU|GPU|NPU)(\.\d{1,4})?", re.ASCII),
    "disable_dynamic_shapes": _BOOLEAN,
    "enable_opencl_throttling": _BOOLEAN,
    "enable_qdq_optimizer": _BOOLEAN,
    "model_priority": ("LOW", "MEDIUM", "HIGH", "DEFAULT"),
    "num_of_threads": range(8193),
    "num_streams": range(8193),
    "precision": ("FP32", "FP16", "ACCURACY"),
    "device_id": "device_id",
}


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
        config: Further session configuration entries, key to value; a profile may set those in `SESSION_CONFIG`.
        provider_options: Options of the provider, key to value; a profile may set those in `PROVIDER_OPTIONS`.
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
    config: dict[str, str] = field(default_factory=dict, metadata={"allowed": SESSION_CONFIG})
    provider_options: dict[str, str] = field(default_factory=dict, metadata={"allowed": PROVIDER_OPTIONS})

    def __post_init__(self) -> None:
        """Refuse counts that no machine has; a validator of profiles reports the error with its key."""
        for name, most in _MOST.items():
            given = getattr(self, name)
            if given < 0:
                raise ValueError(f"{name} must not be negative, not {given}")
            if given > most:
                raise ValueError(f"{name} must be at most {most}, not {given}")
