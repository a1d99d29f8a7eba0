from __future__ import annotations

import numpy as np
import onnx
import pytest
from shared_run import bare_outputs

MODULE = """
import numpy as np
from sklearn.linear_model import LinearRegression

def model():
    x = np.random.default_rng(0).standard_normal((50, 4))
    return LinearRegression().fit(x, x @ [1.0, 2.0, 3.0, 4.0] + 5)
"""


@pytest.fixture
def trained(tmp_path, monkeypatch):
    (tmp_path / "trained_model.py").write_text(MODULE)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)


def test_a_model_is_exported_and_its_parity_told(hw, trained, tmp_path):
    ended = hw("export", "trained_model:model", "--input", "1x4", "--out", tmp_path / "linear.onnx")
    assert ended.code == 0, ended.err
    assert "parity" in ended.out
    onnx.checker.check_model(onnx.load(tmp_path / "linear.onnx"))
    x = np.array([[1, 1, 1, 1], [0, 0, 0, 0]], np.float32)
    assert bare_outputs(tmp_path / "linear.onnx", x).reshape(-1) == pytest.approx([15, 5], abs=1e-4)


@pytest.mark.parametrize(
    ("target", "flags", "said"),
    [
        ("no_such_module:model", ["--input", "1x4"], "no_such_module"),
        ("trained_model:mdel", ["--input", "1x4"], "mdel"),
        ("trained_model:model", ["--input", "4by4"], "4by4"),
        ("trained_model:model", ["--input", "1x4", "--framework", "sklern"], "Did you mean 'sklearn'"),
    ],
)
def test_what_cannot_be_exported_writes_nothing(hw, trained, tmp_path, target, flags, said):
    ended = hw("export", target, *flags, "--out", tmp_path / "model.onnx")
    assert ended.code == 2
    assert said in ended.err
    assert "Traceback" not in ended.err
    assert not (tmp_path / "model.onnx").exists()
