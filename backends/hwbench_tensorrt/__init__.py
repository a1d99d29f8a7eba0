"""The TensorRT backend: NVIDIA GPUs, strongly typed networks, explicit quantization (TensorRT 11 or newer)."""

from hwbench_tensorrt.backend import TensorRtBackend

__all__ = ["TensorRtBackend"]
