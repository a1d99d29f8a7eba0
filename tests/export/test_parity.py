"""The comparison accepts what is within the tolerance and refuses everything else, with the figure."""

from __future__ import annotations

import re

import numpy as np
import onnx
import pytest

from hwbench.errors import ModelError
from hwbench.export.parity import max_difference, run_onnx

pytest.importorskip("onnxruntime")

VALUES = np.array([[1.0, -2.0], [0.5, 100.0]], np.float32)


def difference(got, expected=VALUES, atol=1e-4, rtol=1e-3):
    return max_difference([expected], [got], atol, rtol)


def test_equal_outputs_differ_by_nothing():
    assert difference(VALUES.copy()) == 0.0


def test_the_largest_difference_of_all_outputs_is_reported():
    small, large = VALUES + np.float32(2**-14), VALUES - np.float32(2**-13)
    assert max_difference([VALUES, VALUES], [small, large], 1e-3, 0.0) == pytest.approx(2**-13, rel=0.05)


def test_the_tolerance_is_relative_to_the_expected_value():
    shifted = VALUES.copy()
    shifted[1, 1] += 0.09
    assert difference(shifted) == pytest.approx(0.09, rel=1e-3)
    with pytest.raises(ModelError, match=r"differs by up to 0\.09, the tolerance is 0\.0001 \+ 0 of the value"):
        difference(shifted, rtol=0.0)


def test_a_small_element_is_not_hidden_by_a_large_one():
    shifted = VALUES.copy()
    shifted[1, 0] += 0.09
    with pytest.raises(ModelError, match="output 0 differs"):
        difference(shifted)


def test_not_a_number_and_infinity_match_only_themselves():
    odd = np.array([np.nan, np.inf, -np.inf], np.float32)
    assert difference(odd.copy(), odd) == 0.0
    for wrong in ([0, np.inf, -np.inf], [np.nan, 1, -np.inf], [np.nan, np.inf, np.inf]):
        with pytest.raises(ModelError, match="output 0 differs"):
            difference(np.array(wrong, np.float32), odd)


def test_another_shape_or_number_of_outputs_is_refused():
    with pytest.raises(ModelError, match=re.escape("shape (2, 2) in the source framework, (4,) when exported")):
        difference(VALUES.ravel())
    with pytest.raises(ModelError, match="1 outputs, the exported one 2"):
        max_difference([VALUES], [VALUES, VALUES], 1e-4, 1e-3)


def test_a_graph_the_runtime_refuses_is_the_model_s_error(tmp_path):
    node = onnx.helper.make_node("NoSuchOperator", ["x"], ["y"])
    info = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch"]) for name in "xy"]
    graph = onnx.helper.make_graph([node], "g", info[:1], info[1:])
    model = onnx.helper.make_model(graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 18)])
    path = tmp_path / "model.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(ModelError, match=r"ONNX Runtime cannot run .*NoSuchOperator"):
        run_onnx(path, [{"x": np.zeros(1, np.float32)}])
