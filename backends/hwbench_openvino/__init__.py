"""The OpenVINO backend: any device that OpenVINO lists, its precision always pinned."""

from hwbench_openvino.backend import OpenVinoBackend

__all__ = ["OpenVinoBackend"]
