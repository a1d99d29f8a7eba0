"""The embedded model and data: a small residual CNN and the MNIST digits it was not trained on.

`MODEL` is an ONNX file, `DATA` the 1,000 held-out digits with their labels, `CALIBRATION` 256 of the training images
without labels. `hwbench.demo.make` made all three; README.md beside them states the data's source and licence.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

FOLDER: Final = Path(__file__).parent
MODEL: Final = FOLDER / "digits.onnx"
DATA: Final = FOLDER / "digits.npz"
CALIBRATION: Final = FOLDER / "calibration.npz"
