from __future__ import annotations

import json
import re
from pathlib import Path

import models
import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from onnx.helper import make_node as node
from shared_run import SETTINGS, bare_outputs

import hwbench
from hwbench import demo
from hwbench.table import Row

LAYERS, LAYER_INPUTS = SETTINGS["fidelity"]["layers"], SETTINGS["fidelity"]["layer_inputs"]


def sqnr_db(reference: np.ndarray, output: np.ndarray) -> float:
    reference, error = reference.astype(np.float64), output.astype(np.float64) - reference
    return float(10 * np.log10((reference**2).sum() / (error**2).sum()))


def exposed(path: Path, tensor: str) -> bytes:
    """The model with one inner tensor as its first output."""
    model = onnx.load(path)
    model.graph.output.insert(0, onnx.ValueInfoProto(name=tensor))
    return model.SerializeToString()


def layer_rows(rows, metric: str, status: str = "ok") -> dict[str, Row]:
    """Layer to its row, in the table's order."""
    found = [(json.loads(row.condition).get("tensor"), row) for row in rows if row.metric == metric]
    return {tensor: row for tensor, row in found if tensor and row.status == status}


@pytest.mark.isa
def test_output_figures_are_what_a_naive_computation_gives(shared):
    reference = bare_outputs(demo.MODEL, shared.x).astype(np.float64)
    output = bare_outputs(shared.deployed("cpu-int8"), shared.x).astype(np.float64)
    error = np.abs(output - reference)
    cosines = (output * reference).sum(1) / np.linalg.norm(output, axis=1) / np.linalg.norm(reference, axis=1)
    wanted = {
        "max_abs_error": error.max(),
        "mean_abs_error": error.mean(),
        "sqnr_db": sqnr_db(reference, output),
        "cosine": cosines.mean(),
        "top1_agreement": (output.argmax(1) == reference.argmax(1)).mean(),
    }
    for metric, value in wanted.items():
        row = shared.row("cpu-int8", "fidelity", metric)
        assert row.value == pytest.approx(value, rel=1e-9), metric
        assert row.n == len(shared.x)


@pytest.mark.isa
def test_a_build_that_computes_the_same_has_infinite_sqnr_or_nearly_so(shared):
    assert shared.row("cpu-fp32", "fidelity", "sqnr_db").value > 100
    same, close = (shared.row(profile, "fidelity", "top1_agreement") for profile in ("cpu-fp32", "openvino-int8"))
    assert (same.value, same.ci_low, same.ci_high) == (1, 1, 1)
    assert "exact: all 96 outputs" in same.detail
    assert close.ci_low < close.value  # other bits: an equal answer on 96 inputs is no equal computation


@pytest.mark.isa
@pytest.mark.parametrize("profile", ["cpu-int8", "openvino-int8"])
def test_layers_come_in_the_order_of_their_own_error(shared, profile):
    rows = shared.rows(profile, "fidelity")
    own, accumulated = layer_rows(rows, "own_sqnr_db"), layer_rows(rows, "sqnr_db")
    graph = onnx.load(shared.run.path / "builds" / reference_build(shared) / "model.onnx").graph
    assert set(own) <= {name for node in graph.node for name in node.output}
    assert len(own) == LAYERS
    assert [row.value for row in own.values()] == sorted(row.value for row in own.values())
    assert own.keys() <= accumulated.keys()
    assert {row.n for row in [*own.values(), *accumulated.values()]} == {LAYER_INPUTS}


@pytest.mark.isa
def test_a_layer_without_figures_says_why(shared):
    for profile in ("cpu-fp32", "cpu-int8", "openvino-int8"):
        for metric in ("own_sqnr_db", "sqnr_db"):
            for row in layer_rows(shared.rows(profile, "fidelity"), metric, "unavailable").values():
                assert row.value is None
                assert re.search("not observable without changing it|computed alone|does not run alone", row.detail)


@pytest.mark.isa
def test_a_layers_figure_is_that_of_its_quantized_tensor_in_the_whole_build(shared):
    tensor, row = next(iter(layer_rows(shared.rows("cpu-int8", "fidelity"), "sqnr_db").items()))
    x, quantize = shared.x[:LAYER_INPUTS], quantize_node(shared, tensor)
    ours = dequantized(shared, quantize, bare_outputs(exposed(shared.deployed("cpu-int8"), quantize.output[0]), x))
    assert row.value == pytest.approx(sqnr_db(reference_values(shared, tensor, x), ours), rel=1e-4)


def quantize_node(shared, tensor: str) -> onnx.NodeProto:
    build = onnx.load(shared.deployed("cpu-int8"))
    (node,) = [node for node in build.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == tensor]
    return node


def dequantized(shared, quantize: onnx.NodeProto, value: np.ndarray) -> np.ndarray:
    build = onnx.load(shared.deployed("cpu-int8"))
    stored = {one.name: numpy_helper.to_array(one) for one in build.graph.initializer}
    return (value - stored[quantize.input[2]].astype(np.float64)) * stored[quantize.input[1]].astype(np.float64)


def reference_values(shared, tensor: str, x: np.ndarray) -> np.ndarray:
    return bare_outputs(exposed(shared.run.path / "builds" / reference_build(shared) / "model.onnx", tensor), x)


def reference_build(shared) -> str:
    (key,) = {row.build for row in shared.run.rows if row.profile == "reference"}
    return key


# A damaged layer


def contrasts() -> onnx.ModelProto:
    """A CNN whose later layer is the small difference of two feature maps."""
    first = normal(8, 1, 3, 3)
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "left"),
        node("Relu", ["a"], ["ra"], "left_relu"),
        node("Conv", ["x", "w2"], ["b"], "right"),
        node("Relu", ["b"], ["rb"], "right_relu"),
        node("Sub", ["ra", "rb"], ["contrast"], "difference"),
        node("GlobalAveragePool", ["contrast"], ["pooled"], "pool"),
        node("Flatten", ["pooled"], ["flat"], "flatten"),
        node("MatMul", ["flat", "w3"], ["y"], "classifier"),
    ]
    weights = {"w1": first, "w2": 0.7 * first + 0.05 * normal(8, 1, 3, 3, seed=1), "w3": normal(8, 10)}
    return models.make_model(nodes, {"x": (1, ["N", 1, 8, 8])}, {"y": (1, ["N", 10])}, weights)


def differential_attention() -> onnx.ModelProto:
    """A transformer block whose later layer is the small difference of two projections."""
    value = normal(8, 8)
    nodes = [
        node("MatMul", ["x", "wq"], ["q"], "query"),
        node("MatMul", ["x", "w1"], ["v1"], "value"),
        node("MatMul", ["x", "w2"], ["v2"], "other_value"),
        node("Transpose", ["x"], ["xt"], "keys", perm=[0, 2, 1]),
        node("MatMul", ["q", "xt"], ["scores"], "scores"),
        node("Softmax", ["scores"], ["attention"], "softmax"),
        node("Sub", ["v1", "v2"], ["contrast"], "difference"),
        node("MatMul", ["attention", "contrast"], ["mixed"], "mix"),
        node("ReduceMean", ["mixed", "middle"], ["pooled"], "pool", keepdims=0),
        node("MatMul", ["pooled", "w3"], ["y"], "classifier"),
    ]
    weights = {"wq": normal(8, 8, seed=1), "w1": value, "w2": 0.7 * value + 0.05 * normal(8, 8, seed=2)}
    weights |= {"w3": normal(8, 4), "middle": np.array([1])}
    return models.make_model(nodes, {"x": (1, ["N", 5, 8])}, {"y": (1, ["N", 4])}, weights)


def normal(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32) / np.float32(np.sqrt(shape[-1]))


def damaged(model: onnx.ModelProto, initializer: str, factor: float) -> onnx.ModelProto:
    """The model with one initializer multiplied by a number."""
    (found,) = [one for one in model.graph.initializer if one.name == initializer]
    value = numpy_helper.to_array(found)
    found.CopyFrom(numpy_helper.from_array((value * factor).astype(value.dtype), initializer))
    return model


@pytest.mark.parametrize(
    ("make", "initializer", "factor", "layer"),
    [
        pytest.param(contrasts, "w1_scale", 4.0, {"a", "ra"}, marks=pytest.mark.isa),
        (contrasts, "w1_quantized", 0.0, {"a", "ra"}),
        (differential_attention, "w1_scale", 4.0, {"v1"}),
        pytest.param(differential_attention, "w1_quantized", 0.0, {"v1"}, marks=pytest.mark.isa),
    ],
)
def test_a_damaged_layer_comes_first_although_errors_after_it_are_larger(tmp_path, make, initializer, factor, layer):
    whole = make()
    models.saved(damaged(models.static_int8(whole), initializer, factor), tmp_path / "int8.onnx")
    np.savez(tmp_path / "data.npz", **models.feeds(whole, batch=24))
    profiles = [tmp_path / f"on-{backend}.toml" for backend in ("onnxruntime", "openvino")]
    for path in profiles:
        path.write_text(f'backend = "{path.stem.removeprefix("on-")}"\n[precision]\nformat = "as-is"\n')
    run = hwbench.run(
        tmp_path / "int8.onnx",
        reference=str(models.saved(whole, tmp_path / "fp32.onnx")),
        data={"source": str(tmp_path / "data.npz")},
        profiles=[str(path) for path in profiles],
        studies=["fidelity"],
        out=tmp_path / "run",
    )
    for path in profiles:
        rows = [row for row in run.rows if row.profile == path.stem]
        own, accumulated = layer_rows(rows, "own_sqnr_db"), layer_rows(rows, "sqnr_db")
        first = next(iter(own))
        assert first in layer
        assert own[first].value == min(row.value for row in own.values())
        assert min(row.value for row in accumulated.values()) < accumulated[first].value
