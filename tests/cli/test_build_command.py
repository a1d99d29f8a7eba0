from __future__ import annotations

import json

import onnx
import pytest
from models import mlp, two_inputs


def test_a_build_is_placed_with_its_manifest(hw, model, data, tmp_path):
    out = tmp_path / "build"
    ended = hw("build", model, "--profile", "cpu-int8", "--calibration", data, "--out", out)
    assert ended.code == 0, ended.err
    assert str(out / "model.onnx") in ended.out
    assert "operators that multiply: 3 in int8" in ended.out
    onnx.checker.check_model(onnx.load(out / "model.onnx"))
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["asked"]["format"] == "int8"
    assert manifest["calibration"] == {"source": str(data), "n": 12, "note": "given"}


def test_json_is_the_manifest(hw, tmp_path):
    onnx.save(mlp(), tmp_path / "mlp.onnx")
    ended = hw("build", tmp_path / "mlp.onnx", "--profile", "cpu-fp32", "--out", tmp_path / "build", "--json")
    assert ended.code == 0
    assert ended.json == json.loads((tmp_path / "build" / "manifest.json").read_text())
    assert sum(ended.json["contents"]["stored"].values()) == 128 * 64 + 128 + 128 * 10 + 10


def test_a_folder_that_holds_a_build_is_left_alone(hw, model, tmp_path):
    arguments = ["build", model, "--profile", "cpu-fp32", "--out", tmp_path / "build"]
    assert hw(*arguments).code == 0
    before = (tmp_path / "build" / "manifest.json").stat().st_mtime_ns
    again = hw(*arguments)
    assert again.code == 2
    assert "holds a build; name another folder" in again.err
    assert (tmp_path / "build" / "manifest.json").stat().st_mtime_ns == before


def test_dynamic_sizes_are_asked_for_and_taken(hw, tmp_path):
    onnx.save(two_inputs(), tmp_path / "model.onnx")
    arguments = ["build", tmp_path / "model.onnx", "--profile", "cpu-fp32", "--out", tmp_path / "build"]
    refused = hw(*arguments)
    assert refused.code == 2
    assert "input 'ids' has a dynamic dimension 1 without a size" in refused.err
    assert not (tmp_path / "build").exists()
    ended = hw(*arguments, "--shape", "ids=1x6:int64", "--shape", "mask=1x6")
    assert ended.code == 0, ended.err
    shapes = [
        [size.dim_value for size in value.type.tensor_type.shape.dim][1:]
        for value in onnx.load(tmp_path / "build" / "model.onnx").graph.input
    ]
    assert shapes == [[6], [6]]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--profile", "cpu-int8"], "static int8 needs calibration data; give --calibration"),
        (["--profile", "cpu-int9"], "Did you mean 'cpu-int8'"),
        (["--profile", "cpu-int8", "--calibration", "none.npz"], "none.npz: no such file"),
    ],
)
def test_what_cannot_be_built_leaves_nothing(hw, model, tmp_path, monkeypatch, flags, said):
    monkeypatch.chdir(tmp_path)
    ended = hw("build", model, *flags, "--out", tmp_path / "build")
    assert ended.code == 2
    assert said in ended.err
    assert not (tmp_path / "build").exists()


def test_a_model_in_which_nothing_can_be_quantized_is_said(hw, tmp_path):
    from models import make_model
    from onnx import helper

    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    onnx.save(make_model(nodes, {"x": (1, ["N", 4])}, {"y": (1, ["N", 4])}), tmp_path / "relu.onnx")
    ended = hw("build", tmp_path / "relu.onnx", "--profile", "cpu-int8-dynamic", "--out", tmp_path / "build")
    assert ended.code == 2
    assert "nothing to quantize" in ended.err
    assert not (tmp_path / "build").exists()
