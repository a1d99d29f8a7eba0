from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from benchmarks.networks import resnet20
from campaigns import Array, static_int8_of
from models import feeds, int4, make_model, mlp, small_cnn, static_int8, two_inputs
from onnx import helper, numpy_helper

from hwbench.faults.cuts import GraphCutter, Layer
