"""Options of an export are checked before anything is loaded, run or written."""

from __future__ import annotations

import sys

import pytest

from hwbench.errors import InputError, UnavailableError, UnknownNameError
from hwbench.export import export_model, exporters, parse_input

SHAPE = [parse_input("1x4")]


def test_the_shipped_exporters_are_registered():
    assert exporters.names() == ["keras", "sklearn", "torch"]
    for name in exporters.names():
        assert exporters.get(name).framework == name


@pytest.mark.parametrize("opset", [17, 22])
def test_an_opset_the_runtimes_do_not_read_is_refused(tmp_path, opset):
    with pytest.raises(InputError, match=f"opset {opset} is not between 18 and 21"):
        export_model("no_such:model", SHAPE, tmp_path / "model.onnx", opset=opset)


def test_a_folder_is_not_an_output_file(tmp_path):
    with pytest.raises(InputError, match="is a folder; name the ONNX file"):
        export_model("no_such:model", SHAPE, tmp_path)


def test_an_unknown_framework_is_refused_with_the_nearest(tmp_path):
    with pytest.raises(UnknownNameError, match=r"unknown exporter 'sklear'\. Did you mean 'sklearn'"):
        export_model(dict, SHAPE, tmp_path / "model.onnx", framework="sklear")


def test_without_onnx_runtime_nothing_is_written(tmp_path, monkeypatch):
    linear_model = pytest.importorskip("sklearn.linear_model")
    pytest.importorskip("skl2onnx")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    model = linear_model.Ridge().fit([[0, 1, 2, 3], [1, 1, 1, 1]], [0, 1])
    with pytest.raises(
        UnavailableError, match=r"parity check needs ONNX Runtime.*pip install 'hwbench-ml\[onnxruntime\]'"
    ):
        export_model(model, SHAPE, tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())
