from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper
from shared_run import SETTINGS, bare_outputs

from hwbench import demo

LAYERS, LAYER_INPUTS = SETTINGS["fidelity"]["layers"], SETTINGS["fidelity"]["layer_inputs"]


def sqnr_db(reference: np.ndarray, output: np.ndarray) -> float:
    reference, error = reference.astype(np.float64), output.astype(np.float64) - reference
    return float(10 * np.log10((reference**2).sum() / (error**2).sum()))


def exposed(path: Path, tensor: str) -> bytes:
    """The model with one inner tensor as its first output."""
    model = onnx.load(path)
    model.graph.output.insert(0, onnx.ValueInfoProto(name=tensor))
    return model.SerializeToString()


def worst_tensors(shared, profile: str) -> list[str]:
    return [
        json.loads(row.condition)["tensor"]
        for row in shared.rows(profile, "fidelity", "sqnr_db")
        if "tensor" in row.condition
    ]


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


def test_a_build_that_computes_the_same_has_infinite_sqnr_or_nearly_so(shared):
    assert shared.row("cpu-fp32", "fidelity", "sqnr_db").value > 100
    assert shared.row("cpu-fp32", "fidelity", "top1_agreement").value == 1


@pytest.mark.parametrize("profile", ["cpu-int8", "openvino-int8"])
def test_the_worst_layers_are_tensors_of_the_reference_worst_first(shared, profile):
    tensors = worst_tensors(shared, profile)
    assert len(tensors) == LAYERS
    graph = onnx.load(shared.run.path / "builds" / reference_build(shared) / "model.onnx").graph
    assert set(tensors) <= {name for node in graph.node for name in node.output}
    worst = [shared.row(profile, "fidelity", "sqnr_db", tensor=tensor).value for tensor in tensors]
    assert worst == sorted(worst)
    assert {row.n for row in shared.rows(profile, "fidelity", "sqnr_db") if "tensor" in row.condition} == {LAYER_INPUTS}


def test_a_layers_figure_is_that_of_its_quantized_tensor_in_the_whole_build(shared):
    tensor = worst_tensors(shared, "cpu-int8")[0]
    x = shared.x[:LAYER_INPUTS]
    build = onnx.load(shared.deployed("cpu-int8"))
    stored = {one.name: numpy_helper.to_array(one) for one in build.graph.initializer}
    (quantize,) = [node for node in build.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == tensor]
    scale, zero = stored[quantize.input[1]].astype(np.float64), stored[quantize.input[2]].astype(np.float64)
    ours = (bare_outputs(exposed(shared.deployed("cpu-int8"), quantize.output[0]), x) - zero) * scale
    theirs = bare_outputs(exposed(shared.run.path / "builds" / reference_build(shared) / "model.onnx", tensor), x)
    row = shared.row("cpu-int8", "fidelity", "sqnr_db", tensor=tensor)
    assert row.value == pytest.approx(sqnr_db(theirs, ours), rel=1e-4)


def reference_build(shared) -> str:
    (key,) = {row.build for row in shared.run.rows if row.profile == "reference"}
    return key
