from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import onnx
import pytest
from campaigns import bare_onnxruntime
from models import feeds, make_model, small_cnn, static_int8
from onnx import helper
from onnx.external_data_helper import load_external_data_for_model

from hwbench.faults import updates
from hwbench.faults.cuts import GraphCutter
from hwbench.faults.segments import segment_files, write_segments

pytestmark = pytest.mark.isa
LAYERS = 12


def deep() -> onnx.ModelProto:
    """Layers of 16 KiB each."""
    names = ["x", *(f"a{at}" for at in range(LAYERS - 1)), "y"]
    nodes = [helper.make_node("MatMul", [x, f"w{at}"], [y], f"layer{at}") for at, (x, y) in enumerate(pairwise(names))]
    weights = {f"w{at}": np.random.default_rng(at).standard_normal((64, 64)).astype(np.float32) for at in range(LAYERS)}
    return make_model(nodes, {"x": (1, ["N", 64])}, {"y": (1, ["N", 64])}, weights)


def written(model: onnx.ModelProto, folder: Path) -> dict:
    cutter = GraphCutter(model)
    return write_segments(cutter, cutter.layers, folder, cutter.outputs[0])


def test_segments_share_one_file_of_weights(tmp_path):
    plan = written(deep(), tmp_path / "segments")
    model = LAYERS * 64 * 64 * 4
    assert (tmp_path / "segments" / "weights.bin").stat().st_size < 1.1 * model
    shared = {plan["layers"][at][kind] for at in range(LAYERS) for kind in ("advance", "rest")} - {""}
    assert len(shared) > LAYERS
    assert sum(Path(file).stat().st_size for file in shared) < model


def test_a_segment_holds_the_weights_of_the_graph(tmp_path):
    model = deep()
    plan = written(model, tmp_path / "segments")
    x = feeds(model, batch=3)
    first = plan["layers"][0]
    made = x
    for file in (first["advance"], first["rest"]):
        segment = onnx.load(file, load_external_data=False)
        load_external_data_for_model(segment, str(Path(file).parent))
        made = {segment.graph.output[0].name: bare_onnxruntime(segment, made)}
    np.testing.assert_array_equal(made["y"], bare_onnxruntime(model, x))


@pytest.mark.parametrize("quantized", [False, True], ids=["fp32", "int8"])
def test_only_a_build_that_rounds_activations_is_compared_on_the_way(tmp_path, quantized):
    plan = written(static_int8(small_cnn()) if quantized else small_cnn(), tmp_path / "segments")
    assert (len(plan["checkpoints"]) > 1) == quantized
    assert len(plan["chain"]) == (len(plan["checkpoints"]) if quantized else 0)


def test_every_file_that_was_written_travels_with_the_plan(tmp_path):
    """To a machine elsewhere go those files, and no others."""
    wide = updates.WORTH
    nodes = [
        helper.make_node("Conv", ["x", "w1"], ["a"], "layer"),
        helper.make_node("Conv", ["a", "w2"], ["b"], "next"),
        helper.make_node("GlobalAveragePool", ["b"], ["y"], "pool"),
    ]
    weights = {"w1": np.ones((wide, 3, 1, 1), np.float32), "w2": np.ones((4, wide, 1, 1), np.float32)}
    model = make_model(nodes, {"x": (1, ["N", 3, 2, 2])}, {"y": (1, ["N", 4, 1, 1])}, weights)
    plan = written(model, tmp_path / "segments")
    assert plan["layers"][0]["update"]["weight"] == "w2"
    assert plan["layers"][1]["update"] is None
    assert {Path(file) for file in segment_files(plan)} == set((tmp_path / "segments").iterdir())
