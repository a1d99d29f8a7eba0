"""Tensors that 8 bits cannot hold stay in float, with every calibration method and both static quantizers."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

import hwbench
from hwbench.calibration import CalibrationFeeds, calibrate
from hwbench.quantize import run
from hwbench.worker.protocol import JobContext
from tests import models

LOWEST = float(np.finfo(np.float32).min)
QUANTIZERS = (
    {"calibration": {"method": "minmax"}},
    {"calibration": {"method": "percentile"}},
    {"calibration": {"method": "entropy"}},
    {"activations": "s8", "reduce_range": True},
)
MASKS = [(-math.inf, "where"), (LOWEST, "where"), (LOWEST, "add"), (-1e4, "add")]


def files(feeds, folder: Path) -> dict[str, str]:
    for name, value in feeds.items():
        np.save(folder / f"{name}.npy", value)
    return {name: str(folder / f"{name}.npy") for name in feeds}


def quantized(proto: onnx.ModelProto, feeds, folder: Path, **precision):
    """What `run` makes of a model."""
    params = {
        "model": str(models.saved(proto, folder / "given.onnx")),
        "precision": {"format": "int8", **precision},
        "shapes": {name: list(value.shape[1:]) for name, value in feeds.items()},
        "calibration": files(feeds, folder),
    }
    (folder / "job").mkdir()
    return run(JobContext(folder / "job", params))["contents"]


def outputs(model: Path | bytes, feeds) -> np.ndarray:
    # ONNX Runtime 1.32's further optimizations refuse a transposed s8 tensor, as NNCF writes it: "kt_q ... UINT8".
    options = ort.SessionOptions()
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_BASIC
    return ort.InferenceSession(model, options, providers=["CPUExecutionProvider"]).run(None, feeds)[0]


def sqnr_db(wanted: np.ndarray, got: np.ndarray) -> float:
    return 10 * math.log10((wanted**2).sum() / ((wanted - got) ** 2).sum())


def scales(path: Path) -> list[float]:
    graph = onnx.load(path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    nodes = [node for node in graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")]
    return [float(scale) for node in nodes for scale in stored[node.input[1]].reshape(-1)]


@pytest.mark.parametrize(
    ("precision", "masked", "how"),
    [
        *((precision, *mask) for precision in QUANTIZERS for mask in MASKS),
        pytest.param({"quantizer": "nncf"}, -math.inf, "where", marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_masked_transformer_keeps_its_fidelity_in_int8(tmp_path, precision, masked, how):
    proto, unseen = models.masked_transformer(masked, how), models.padded(64, seed=9)
    made = quantized(proto, models.padded(40), tmp_path, **precision)
    path = tmp_path / "job" / "model.onnx"
    assert sqnr_db(outputs(proto.SerializeToString(), unseen), outputs(path, unseen)) > 20
    assert made["compute"] == {"int8": 6}  # every product is still int8
    assert "seen" in made["kept_in_float"]
    assert "calibrated range" in made["kept_in_float"]["seen"]
    assert 0 < min(scales(path)) <= max(scales(path)) < 1e3
    assert {file.name for file in (tmp_path / "job").iterdir()} == {"model.onnx"}


def test_a_mask_that_leaves_the_scores_their_steps_is_quantized(tmp_path):
    proto, unseen = models.masked_transformer(-30.0), models.padded(64, seed=9)
    made = quantized(proto, models.padded(40), tmp_path)
    assert "kept_in_float" not in made
    assert sqnr_db(outputs(proto.SerializeToString(), unseen), outputs(tmp_path / "job" / "model.onnx", unseen)) > 20


def test_a_stored_mask_of_infinities_stays_in_float(tmp_path):
    """As decoders have it: a causal mask among the initializers, added to the scores."""
    proto = models.masked_transformer(0.0, "add")
    causal = np.triu(np.full((12, 12), -np.inf, np.float32), 1)
    proto.graph.initializer.append(numpy_helper.from_array(causal, "causal"))
    softmax = next(node for node in proto.graph.node if node.op_type == "Softmax")
    softmax.input[0] = "causally_seen"
    added = helper.make_node("Add", ["seen", "causal"], ["causally_seen"])  # without a name, by which to leave it out
    proto.graph.node.insert(list(proto.graph.node).index(softmax), added)
    made = quantized(proto, models.padded(40), tmp_path)
    assert {"causal", "causally_seen"} <= made["kept_in_float"].keys()
    unseen, path = models.padded(64, seed=9), tmp_path / "job" / "model.onnx"
    assert sqnr_db(outputs(proto.SerializeToString(), unseen), outputs(path, unseen)) > 20
    assert max(scales(path)) < 1e3


@pytest.mark.parametrize("spread", [0.0, 1e-3, 1.0, 1e3])
def test_a_wide_range_is_kept_in_float_if_the_rest_would_vanish_in_a_step(tmp_path, spread):
    """A step of [0, 1e6] is 3,922: the rest of the values is lost unless it is spread over a good part of that."""
    generator = np.random.default_rng(0)
    x = generator.standard_normal((64, 32)).astype(np.float32) * np.float32(spread)
    x[:, :2] = 1e6
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "only")]
    weights = {"w": generator.standard_normal((32, 4)).astype(np.float32)}
    path = models.saved(
        models.make_model(nodes, {"x": (1, ["N", 32])}, {"y": (1, ["N", 4])}, weights), tmp_path / "m.onnx"
    )
    found = calibrate(path, CalibrationFeeds(files({"x": x}, tmp_path), 64, path, {}), "minmax", 0.0, large=False)
    assert ("x" in found.kept) == (0 < spread < 1e3)
    assert found.nodes == (["only"] if found.kept else ())


def test_manifest_record_and_report_say_which_tensors_and_why(tmp_path):
    models.saved(models.masked_transformer(-math.inf), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", **models.padded(40))
    done = hwbench.run(
        tmp_path / "model.onnx",
        data={"source": str(tmp_path / "data.npz")},
        profiles=["cpu-int8"],
        studies=["lint"],
        out=tmp_path / "run",
    )
    entry = done.record["profiles"]["cpu-int8"]
    manifest = (done.path / "builds" / entry["build"] / "manifest.json").read_text()
    (why,) = {entry["kept_in_float"]["seen"]}
    assert why.startswith("its calibrated range [-inf, ")
    assert why in manifest
    for view in ("report.md", "report.html"):
        assert f"seen: {why.split(' [')[0]}" in (done.path / view).read_text()
