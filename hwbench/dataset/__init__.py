"""Data for evaluation and calibration: read from the user's file in batches, checked once, kept as ``.npy`` files."""

from hwbench.dataset.dataset import Dataset
from hwbench.dataset.materialise import materialise
from hwbench.dataset.opening import open_source
from hwbench.dataset.source import Source
from hwbench.dataset.spec import DataSpec, Preprocess

__all__ = ["DataSpec", "Dataset", "Preprocess", "Source", "materialise", "open_source"]
