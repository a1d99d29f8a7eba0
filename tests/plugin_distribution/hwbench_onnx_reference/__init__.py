"""ONNX's own reference implementation as a backend: what an operator is specified to do, in numpy."""

from hwbench_onnx_reference.backend import OnnxReferenceBackend

__all__ = ["OnnxReferenceBackend"]
