"""The ONNX Runtime backend: the CPU provider, and the CUDA, TensorRT and OpenVINO providers where a wheel has them."""

from hwbench_onnxruntime.backend import OnnxRuntimeBackend

__all__ = ["OnnxRuntimeBackend"]
