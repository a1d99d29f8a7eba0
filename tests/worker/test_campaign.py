from __future__ import annotations

import platform

import numpy as np
import onnx
import pytest
from campaigns import ORT, Row, bare_onnxruntime, naive_counts, random_faults, run_campaign
from models import batch_shaped, dynamic_int8, feeds, int4, make_model, mlp, small_cnn, static_int8, two_inputs
from onnx import helper, numpy_helper

from hwbench.cpu import cpu_flags
from hwbench.errors import DataError
from hwbench.faults import bits, cuts
from hwbench.worker.outcomes import COLUMNS
from hwbench.worker.perturb import stored_initializers

pytestmark = pytest.mark.isa
SATURATES = platform.machine() == "x86_64" and not {"avx_vnni", "avx512_vnni", "amx_int8"}.intersection(cpu_flags())
KINDS = ("flip", "stuck_at_0", "stuck_at_1", "burst", "random_value")
node = helper.make_node


def normal(*shape: int) -> np.ndarray:
    fan = np.prod(shape[1:]) if len(shape) > 1 else 1
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)


def mobile() -> onnx.ModelProto:
    """A depthwise, a grouped and a plain convolution, two branches, and their operators in turns."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], "expand"),
        node("Conv", ["x", "w0"], ["side"], "side", strides=[1, 1]),
        node("Relu", ["a"], ["ra"], "relu_a"),
        node("Relu", ["side"], ["rs"], "relu_side"),
        node("Add", ["ra", "rs"], ["sum"], "add"),
        node("Conv", ["sum", "w2", "b2"], ["b"], "depthwise", group=6),
        node("Clip", ["b", "low", "high"], ["c"], "clip"),
        node("Conv", ["c", "w3"], ["d"], "grouped", group=2),
        node("GlobalAveragePool", ["d"], ["e"], "pool"),
        node("Flatten", ["e"], ["f"], "flatten"),
        node("Gemm", ["f", "w4", "b4"], ["y"], "classifier"),
    ]
    weights = {"w0": normal(6, 3, 3, 3), "w1": normal(6, 3, 3, 3), "b1": normal(6), "w2": normal(6, 1, 2, 2)}
    weights |= {"b2": normal(6), "w3": normal(8, 3, 1, 1), "w4": normal(8, 4), "b4": normal(4)}
    weights |= {"low": np.float32(-1), "high": np.float32(6)}
    return make_model(nodes, {"x": (1, ["N", 3, 6, 6])}, {"y": (1, ["N", 4])}, weights)


def attention() -> onnx.ModelProto:
    """A transformer block over five vectors an input."""
    nodes = [
        node("MatMul", ["x", "wq"], ["q"], "query"),
        node("MatMul", ["x", "wk"], ["k"], "key"),
        node("MatMul", ["x", "wv"], ["v"], "value"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"], "scores"),
        node("Softmax", ["scores"], ["weights"]),
        node("MatMul", ["weights", "v"], ["mixed"], "mix"),
        node("Add", ["mixed", "x"], ["residual"]),
        node("LayerNormalization", ["residual", "gain", "shift"], ["normal"]),
        node("ReduceMean", ["normal", "middle"], ["pooled"], keepdims=0),
        node("MatMul", ["pooled", "wc"], ["y"], "classifier"),
    ]
    weights = {"wq": normal(8, 8), "wk": normal(8, 8), "wv": normal(8, 8), "wc": normal(8, 4)}
    weights |= {"gain": np.ones(8, np.float32), "shift": normal(8), "middle": np.array([1])}
    return make_model(nodes, {"x": (1, ["N", 5, 8])}, {"y": (1, ["N", 4])}, weights)


def wide() -> onnx.ModelProto:
    """Convolutions of kernel 1 × 1 and many channels, one of them behind a sum: faults before them are rank-one updates."""
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["a"], "expand"),
        node("Clip", ["a", "low", "high"], ["ra"], "relu_a"),
        node("Conv", ["ra", "w2", "b2"], ["b"], "depthwise", group=128, pads=[1, 1, 1, 1]),
        node("Relu", ["b"], ["rb"], "relu_b"),
        node("Conv", ["rb", "w3", "b3"], ["c"], "project"),
        node("Conv", ["c", "w4"], ["d"], "mix"),
        node("Add", ["d", "c"], ["sum"], "add"),
        node("Conv", ["sum", "w5"], ["e"], "head"),
        node("Relu", ["e"], ["re"], "relu_e"),
        node("GlobalAveragePool", ["re"], ["p"], "pool"),
        node("Flatten", ["p"], ["f"], "flatten"),
        node("Gemm", ["f", "w6", "b6"], ["y"], "classifier"),
    ]
    weights = {"w1": normal(128, 3, 1, 1), "b1": normal(128), "w2": normal(128, 1, 3, 3), "b2": normal(128)}
    weights |= {"w3": normal(130, 128, 1, 1), "b3": normal(130), "w4": normal(130, 130, 1, 1)}
    weights |= {"w5": normal(16, 130, 1, 1), "w6": normal(16, 4), "b6": normal(4)}
    weights |= {"low": np.float32(0), "high": np.float32(6)}
    return make_model(nodes, {"x": (1, ["N", 3, 6, 6])}, {"y": (1, ["N", 4])}, weights)


def outcomes(done) -> list[tuple[int, int]]:
    return list(zip(done["n_changed"], done["n_due"], strict=True))


def partly_right(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray:
    """Labels by which two inputs of three are right."""
    made = bare_onnxruntime(model, inputs)
    assert made is not None
    labels = made.argmax(axis=1)
    labels[::3] = (labels[::3] + 1) % made.shape[1]
    return labels


INTEGER = {
    "cnn": lambda: static_int8(small_cnn()),
    "cnn-tensorwise": lambda: static_int8(small_cnn(), per_channel=False, weights="u8"),
    "mlp": lambda: static_int8(mlp()),
    "mobile": lambda: static_int8(mobile()),
}
FLOAT = {
    "cnn": small_cnn,
    "mlp": mlp,
    "ids": two_inputs,
    "mobile": mobile,
    "wide": wide,
    "attention": attention,
    "attention-int8": lambda: static_int8(attention()),  # its softmax and normalization stay floats
    "blocks": lambda: int4(mlp()),
    "dynamic": lambda: dynamic_int8(mlp()),
}


# Exact: every trial counts what a fresh session on the patched file counts


@pytest.mark.parametrize("name", INTEGER)
def test_every_trial_of_an_integer_build_is_that_of_a_full_rebuild(tmp_path, name):
    model = INTEGER[name]()
    inputs, faults = feeds(model, batch=20), random_faults(model, 150, kinds=KINDS)
    done = run_campaign(model, inputs, faults, tmp_path / "job", exact=True)
    expected = naive_counts(model, inputs, faults)
    assert outcomes(done) == expected
    assert sum(changed > 0 for changed, _ in expected) > 5
    assert set(done["n_inputs"]) == {20}
    checks = done.checks
    assert (checks["segmented"], checks["golden_equal"], checks["golden_max_abs_diff"]) == (True, True, 0)
    assert (checks["golden_restored"], checks["lane_max_abs_diff"], checks["reason"]) == (True, 0, "")
    assert checks["rebuilt"] < len(faults)


def test_segments_that_would_run_by_other_kernels_are_not_trusted(tmp_path):
    """On x86 ONNX Runtime makes unsigned activations of signed ones, and fuses their layers, between operators only.

    A segment starts and ends with them, so that it computes in floats, which differ from the whole's integers: by rounding
    with VNNI, by far more where sums saturate. The precisions show it, whatever the golden outputs are.
    """
    model = static_int8(small_cnn(), activations="s8", symmetric=True)
    inputs, faults = feeds(model, batch=20), random_faults(model, 50, kinds=KINDS)
    done = run_campaign(model, inputs, faults, tmp_path / "job", exact=True)
    assert outcomes(done) == naive_counts(model, inputs, faults)
    assert done.checks["segmented"] == (platform.machine() != "x86_64")
    if not done.checks["segmented"]:
        assert "computes in fp32 in a part of the graph, in int8 in the whole" in done.checks["reason"]
        assert done.checks["rebuilt"] == len(faults)


def test_lanes_that_saturate_otherwise_than_their_layer_are_found_out(tmp_path, monkeypatch):
    """A convolution of one channel to one has lanes here, which `cuts` knows better than to give it."""
    monkeypatch.setattr(cuts, "_is_single", lambda *_: False)
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "single"),
        node("Relu", ["a"], ["ra"], "relu"),
        node("Conv", ["ra", "w2"], ["b"], "second"),
        node("GlobalAveragePool", ["b"], ["p"], "pool"),
        node("Flatten", ["p"], ["y"], "flatten"),
    ]
    weights = {"w1": np.ones((1, 1, 3, 3), np.float32), "w2": normal(4, 1, 3, 3)}
    model = static_int8(make_model(nodes, {"x": (1, ["N", 1, 8, 8])}, {"y": (1, ["N", 4])}, weights))
    (stored,) = [tensor.name for tensor in model.graph.initializer if tensor.name == "w1_quantized"]
    inputs, faults = feeds(model, batch=20), [(stored, at % 9, at % 8, "flip", 1, 0) for at in range(24)]
    done = run_campaign(model, inputs, faults, tmp_path / "job", exact=True)
    assert outcomes(done) == naive_counts(model, inputs, faults)
    assert (done.checks["lane_max_abs_diff"] > 0) == SATURATES
    assert done.checks["rebuilt"] == (len(faults) if SATURATES else 0)


@pytest.mark.parametrize("name", FLOAT)
def test_every_trial_of_a_float_build_is_that_of_a_full_rebuild(tmp_path, name):
    model = FLOAT[name]()
    inputs, faults = feeds(model, batch=20), random_faults(model, 150, kinds=KINDS)
    done = run_campaign(model, inputs, faults, tmp_path / "job")
    expected = naive_counts(model, inputs, faults)
    assert outcomes(done) == expected
    assert sum(changed > 0 for changed, _ in expected) > 5
    assert done.checks["segmented"] == (name != "dynamic")
    assert done.checks["reason"] == ""


def test_a_float_network_is_told_by_its_layers_alone(tmp_path):
    done = run_campaign(mobile(), feeds(mobile()), random_faults(mobile(), 100, kinds=KINDS), tmp_path / "job")
    assert done.checks["rebuilt"] == 0
    assert done.checks["golden_restored"]


@pytest.mark.parametrize("model", [small_cnn(), static_int8(small_cnn())], ids=["fp32", "int8"])
def test_a_fault_that_stays_behind_in_a_layer_is_found_out(tmp_path, model):
    """Bursts over the end of a channel change two, so that the layer is computed as a whole, and put back after the trial."""
    name = next(
        tensor.name for tensor in model.graph.initializer if tensor.name.startswith("w1") and len(tensor.dims) > 1
    )
    (stored,) = [numpy_helper.to_array(one) for one in model.graph.initializer if one.name == name]
    faults = [(name, stored[0].size - 1, bits.width(stored.dtype) - 1, "burst", 2, 0)]
    exact = stored.dtype == np.int8
    assert run_campaign(model, feeds(model), faults, tmp_path / "sound", exact=exact).checks["golden_restored"]
    backend = "worker.crashing_backend:KeepingBackend"
    kept = run_campaign(model, feeds(model), faults, tmp_path / "kept", exact=exact, backend=backend)
    assert kept.checks["segmented"]
    assert not kept.checks["golden_restored"]


@pytest.mark.parametrize("name", ["cnn", "mlp"])
@pytest.mark.parametrize("quantized", [True, False], ids=["int8", "fp32"])
def test_every_trial_on_openvino_is_that_of_a_full_rebuild_there(tmp_path, name, quantized):
    openvino = pytest.importorskip("openvino")

    def bare(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> np.ndarray | None:
        onnx.save(model, tmp_path / "bare.onnx")
        core = openvino.Core()
        options = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
        compiled = core.compile_model(core.read_model(tmp_path / "bare.onnx"), "CPU", options)
        return np.array(compiled(dict(inputs))[0])

    model = static_int8({"cnn": small_cnn, "mlp": mlp}[name]()) if quantized else {"cnn": small_cnn, "mlp": mlp}[name]()
    inputs, faults = feeds(model, batch=8), random_faults(model, 120)[::8]
    done = run_campaign(
        model, inputs, faults, tmp_path / "job", exact=quantized, backend="hwbench_openvino:OpenVinoBackend",
        options={"inference_num_threads": 1},
    )  # fmt: skip
    assert outcomes(done) == naive_counts(model, inputs, faults, bare)
    if not done.checks["segmented"]:
        assert quantized
        assert "in a part of the graph" in done.checks["reason"]


# What must not matter


@pytest.mark.parametrize("model", [static_int8(small_cnn()), two_inputs()], ids=["int8", "ids"])
def test_how_many_inputs_are_held_at_a_time_makes_no_difference(tmp_path, model):
    inputs, faults = feeds(model, batch=8), random_faults(model, 40, kinds=KINDS)
    if "ids" in inputs:  # as many words in each chunk
        inputs = {name: value[:, :6] for name, value in inputs.items()}
    runs = [run_campaign(model, inputs, faults, tmp_path / str(chunk), chunk=chunk) for chunk in (64, 1, 7)]
    assert any(runs[0]["n_changed"])
    for other in runs[1:]:
        np.testing.assert_array_equal(other.counts, runs[0].counts)
        np.testing.assert_allclose(other.max_abs_error, runs[0].max_abs_error, rtol=1e-5, atol=1e-6)


def test_trials_do_not_depend_on_those_beside_them(tmp_path):
    model = static_int8(small_cnn())
    inputs, faults = feeds(model, batch=10), random_faults(model, 90, kinds=KINDS)
    whole = run_campaign(model, inputs, faults, tmp_path / "whole", exact=True)
    parts = [run_campaign(model, inputs, faults[at::3], tmp_path / f"part{at}", exact=True) for at in range(3)]
    again = np.empty_like(whole.counts)
    for at, part in enumerate(parts):
        again[at::3] = part.counts
    np.testing.assert_array_equal(again, whole.counts)
    backwards = run_campaign(model, inputs, faults[::-1], tmp_path / "backwards", exact=True)
    np.testing.assert_array_equal(backwards.counts[::-1], whole.counts)


def test_segments_and_full_rebuilds_count_the_same(tmp_path):
    model = static_int8(small_cnn())
    inputs, faults = feeds(model, batch=10), random_faults(model, 60, kinds=KINDS)
    labels = np.arange(10) % 10
    runs = [
        run_campaign(model, inputs, faults, tmp_path / str(segmented), segmented=segmented, labels=labels, exact=True)
        for segmented in (True, False)
    ]
    np.testing.assert_array_equal(runs[0].counts, runs[1].counts)
    np.testing.assert_array_equal(runs[0].max_abs_error, runs[1].max_abs_error)
    assert runs[1].checks == {"segmented": False, "reason": "", "rebuilt": 60, "untold": 0}


def test_a_graph_of_a_fixed_batch_counts_as_one_of_any(tmp_path):
    free, fixed = small_cnn(), small_cnn()
    for value in (*fixed.graph.input, *fixed.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    inputs, faults = feeds(free, batch=10), random_faults(free, 60)
    wanted = run_campaign(free, inputs, faults, tmp_path / "free")
    for segmented in (True, False):
        done = run_campaign(fixed, inputs, faults, tmp_path / f"fixed-{segmented}", batch=4, segmented=segmented)
        np.testing.assert_array_equal(done.counts, wanted.counts)


# Where parts of a graph cannot be run, or not on some inputs alone


def test_a_graph_that_mixes_its_inputs_is_run_whole_and_says_so(tmp_path):
    """The first axis of what the layers make counts positions; types tell no more than that its size is free."""
    nodes = [
        node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        node("MatMul", ["t", "w1"], ["a"], "first"),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "w2"], ["c"], "second"),
        node("ReduceMean", ["c", "front"], ["y"], keepdims=0),
    ]
    weights = {"front": np.array([0]), "w1": normal(16, 8), "w2": normal(8, 4)}
    model = make_model(nodes, {"x": (1, ["N", "S", 16])}, {"y": (1, ["N", 4])}, weights)
    faults = [fault for fault in random_faults(model, 60) if fault[0] != "front"]
    for number, shape in enumerate([(9, 5, 16), (5, 5, 16), (1, 5, 16), (1, 1, 16)]):
        inputs = {"x": np.random.default_rng(0).standard_normal(shape).astype(np.float32)}
        done = run_campaign(model, inputs, faults, tmp_path / str(number))
        assert outcomes(done) == naive_counts(model, inputs, faults)
        if shape[0] > 1:
            assert done.checks["reason"] == "the graph after 'c' does not give the same for some inputs alone"
            assert done.checks["rebuilt"] == len(faults)


def test_shapes_that_depend_on_the_batch_are_not_cut_through(tmp_path):
    model = batch_shaped()
    inputs = feeds(model, batch=9)
    faults = [fault for fault in random_faults(model, 100) if fault[0].startswith("w")]
    done = run_campaign(model, inputs, faults, tmp_path / "job")
    assert outcomes(done) == naive_counts(model, inputs, faults)
    assert done.checks["segmented"]
    assert done.checks["rebuilt"] == sum(fault[0] == "w1" for fault in faults)


def test_a_part_that_the_runtime_refuses_is_run_whole_and_says_so(tmp_path):
    """Text between operators is fine within a graph; a session that takes or gives it is refused."""
    nodes = [
        node("Cast", ["x"], ["text"], to=onnx.TensorProto.STRING),
        node("MatMul", ["x", "w1"], ["hidden"], "first"),
        node("Cast", ["text"], ["again"], to=1),
        node("Cast", ["text"], ["once_more"], to=1),
        node("Sum", ["hidden", "again", "once_more"], ["sum"]),
        node("MatMul", ["sum", "w2"], ["y"], "second"),
    ]
    weights = {"w1": normal(16, 16), "w2": normal(16, 4)}
    model = make_model(nodes, {"x": (1, ["N", 16])}, {"y": (1, ["N", 4])}, weights)
    inputs, faults = feeds(model, batch=6), random_faults(model, 60)
    done = run_campaign(model, inputs, faults, tmp_path / "job")
    assert outcomes(done) == naive_counts(model, inputs, faults)
    assert done.checks["rebuilt"] == len(faults)
    assert done.checks["reason"].startswith("a part of the graph cannot be run")


def test_what_branches_read_from_around_them_reaches_the_segments(tmp_path):
    """A number that a layer and a branch both read changes both; what only a layer reads is run by its segments."""
    then = helper.make_graph(
        [node("MatMul", ["hidden", "both"], ["then"])], "then", [], [helper.make_tensor_value_info("then", 1, None)]
    )
    other = helper.make_graph(
        [node("Add", ["hidden", "x"], ["else"])], "else", [], [helper.make_tensor_value_info("else", 1, None)]
    )
    nodes = [
        node("ReduceMax", ["front"], ["largest"], keepdims=0),
        node("Greater", ["largest", "zero"], ["condition"]),
        node("MatMul", ["x", "w0"], ["a"], "zeroth"),
        node("MatMul", ["a", "both"], ["hidden"], "first"),
        node("If", ["condition"], ["chosen"], then_branch=then, else_branch=other),
        node("MatMul", ["chosen", "w2"], ["y"], "second"),
    ]
    weights = {"w0": normal(16, 16), "both": normal(16, 16), "w2": normal(16, 4), "zero": np.float32(0)}
    weights["front"] = np.ones(1, np.float32)
    model = make_model(nodes, {"x": (1, ["N", 16])}, {"y": (1, ["N", 4])}, weights)
    inputs = feeds(model, batch=6)
    faults = [fault for fault in random_faults(model, 120) if fault[0] in ("w0", "both", "w2")]
    done = run_campaign(model, inputs, faults, tmp_path / "job")
    assert outcomes(done) == naive_counts(model, inputs, faults)
    assert done.checks["rebuilt"] == sum(fault[0] == "both" for fault in faults) > 0


def test_a_fault_on_which_the_rest_of_the_graph_stops_is_due(tmp_path):
    """A number that a layer makes is the index of a row: faults make some that are not there."""
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], "index"),
        node("Clip", ["a", "low", "high"], ["b"]),
        node("Add", ["b", "shift"], ["c"]),
        node("Cast", ["c"], ["ids"], to=onnx.TensorProto.INT64),
        node("Gather", ["table", "ids"], ["rows"]),
        node("Flatten", ["rows"], ["flat"]),
        node("MatMul", ["flat", "w2"], ["y"], "classifier"),
    ]
    weights = {"w1": normal(16, 4), "low": np.float32(0), "high": np.float32(3), "shift": np.zeros(4, np.float32)}
    weights |= {"table": normal(4, 8), "w2": normal(32, 4)}
    model = make_model(nodes, {"x": (1, ["N", 16])}, {"y": (1, ["N", 4])}, weights)
    inputs, faults = (
        feeds(model, batch=8),
        [("shift", at, bit, "flip", 1, 0) for at in range(4) for bit in (22, 29, 30)],
    )
    faults += [("w1", at, 30, "flip", 1, 0) for at in range(20)]
    done = run_campaign(model, inputs, faults, tmp_path / "job")
    expected = naive_counts(model, inputs, faults)
    assert outcomes(done) == expected
    assert any(due == 8 for _, due in expected)


# What is counted


def test_an_input_whose_golden_output_is_not_finite_does_not_count(tmp_path):
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], "first"),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "w2"], ["c"], "second"),
        node("Log", ["c"], ["y"]),
    ]
    model = make_model(
        nodes,
        {"x": (1, ["N", 16])},
        {"y": (1, ["N", 4])},
        {"w1": normal(16, 16), "w2": normal(16, 4) + np.float32(0.4)},
    )
    inputs, faults = feeds(model, batch=12), random_faults(model, 60)
    done = run_campaign(model, inputs, faults, tmp_path / "job")
    rebuilt = run_campaign(model, inputs, faults, tmp_path / "rebuilt", segmented=False)
    finite = (np.maximum(inputs["x"] @ normal(16, 16), 0) @ (normal(16, 4) + 0.4) > 0).all(axis=1)
    assert 0 < finite.sum() < 12
    assert set(done["n_inputs"]) == {finite.sum()}
    np.testing.assert_array_equal(done.counts, rebuilt.counts)
    assert done.checks["golden_restored"]


def test_a_regression_counts_errors_above_the_tolerance(tmp_path):
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], "first"),
        node("Relu", ["a"], ["b"]),
        node("MatMul", ["b", "w2"], ["y"], "out"),
    ]
    w1, w2 = normal(16, 8), normal(8, 1)
    model = make_model(nodes, {"x": (1, ["N", 16])}, {"y": (1, ["N", 1])}, {"w1": w1, "w2": w2})
    inputs = feeds(model, batch=10)
    faults: list[Row] = [("w2", 3, 22, "flip", 1, 0), ("w1", 5, 31, "flip", 1, 0), ("w2", 0, 0, "flip", 1, 0)]
    done = run_campaign(model, inputs, faults, tmp_path / "job", outcome={"kind": "tolerance", "tolerance": 0.01})
    hidden = np.maximum(inputs["x"] @ w1, 0)
    mantissa = w2.copy().reshape(-1).view(np.uint32)
    mantissa[3] ^= 1 << 22
    first = np.abs(hidden @ mantissa.view(np.float32).reshape(8, 1) - hidden @ w2)
    assert done["n_changed"][0] == (first > 0.01).sum() > 0
    assert done.max_abs_error[0] == pytest.approx(first.max(), rel=1e-4)
    assert (done["n_changed"][2], done["n_top5"]) == (0, [0, 0, 0])


def test_right_inputs_alone_are_counted_where_that_is_asked(tmp_path):
    model = static_int8(small_cnn())
    inputs, faults = feeds(model, batch=20), random_faults(model, 72)
    answers = run_campaign(model, inputs, faults, tmp_path / "all", exact=True)
    labels = partly_right(model, inputs)
    some = run_campaign(model, inputs, faults, tmp_path / "some", exact=True, labels=labels, only_correct=True)
    assert set(some["n_inputs"]) == {13}
    assert all(few <= many for few, many in zip(some["n_changed"], answers["n_changed"], strict=True))
    assert some["n_won"] == [0] * 72
    assert some["n_lost"] == [a + b for a, b in zip(some["n_changed"], some["n_due"], strict=True)]


def test_an_output_that_ranks_no_classes_needs_a_tolerance(tmp_path):
    model = make_model(
        [node("MatMul", ["x", "w"], ["y"], "out")], {"x": (1, ["N", 4])}, {"y": (1, ["N", 1])}, {"w": normal(4, 1)}
    )
    with pytest.raises(DataError, match="classes"):
        run_campaign(model, feeds(model), random_faults(model, 3), tmp_path / "job")


# Trials run one by one


def test_trials_run_one_by_one_count_as_together_and_a_lost_one_counts_everything(tmp_path):
    model = static_int8(small_cnn())
    inputs, faults = feeds(model, batch=10), random_faults(model, 24)
    labels = partly_right(model, inputs)
    given = {"segmented": False, "labels": labels, "only_correct": True, "chunk": 4}
    together = run_campaign(model, inputs, faults, tmp_path / "together", **given)
    variants = ("lost", *(str(at) for at in range(24)))
    alone = run_campaign(model, inputs, faults, tmp_path / "alone", variants=variants, **given).checks
    for at in range(24):
        assert alone[str(at)]["counts"] == together.counts[at].tolist()
        error = alone[str(at)]["max_abs_error"]
        assert (np.inf if error is None else error) == together.max_abs_error[at]
    assert alone["lost"]["trials"] == [alone["lost"]["trials"][0]] * 24
    lost = dict(zip(COLUMNS, alone["lost"]["trials"][0]["counts"], strict=True))
    assert {name: count for name, count in lost.items() if count} == {"n_inputs": 6, "n_due": 6, "n_lost": 6}
    assert alone["lost"]["trials"][0]["max_abs_error"] is None


def test_the_backend_is_the_one_of_the_job(tmp_path):
    with pytest.raises(ModuleNotFoundError, match="no_such_backend"):
        run_campaign(mlp(), feeds(mlp()), random_faults(mlp(), 3), tmp_path / "job", backend="no_such_backend:Backend")
    assert ORT.startswith("hwbench_onnxruntime")


# Trials over some of the inputs


@pytest.mark.parametrize("segmented", [True, False])
def test_trials_over_blocks_of_inputs_tell_of_those_inputs_alone(tmp_path, segmented):
    model = static_int8(small_cnn())
    inputs, faults = feeds(model, batch=24), random_faults(model, 40, seed=6)
    rng = np.random.default_rng(2)
    order = rng.permutation(24)[:21]
    first = rng.integers(0, 20, len(faults))
    ranges = np.stack([first, np.minimum(first + rng.integers(1, 9, len(faults)), 21)], axis=1)
    given = {"order": order.tolist(), "ranges": ranges.tolist(), "n": 21, "chunk": 5, "segmented": segmented}
    made = run_campaign(model, inputs, faults, tmp_path / "job", **given)
    assert made["n_inputs"] == (ranges[:, 1] - ranges[:, 0]).tolist()
    expected = []
    for fault, (start, stop) in zip(faults, ranges, strict=True):
        some = {name: value[order[start:stop]] for name, value in inputs.items()}
        expected += naive_counts(model, some, [fault])
    assert list(zip(made["n_changed"], made["n_due"], strict=True)) == expected
    assert 0 < sum(made["n_changed"]) < sum(made["n_inputs"])


def test_a_lost_trial_over_a_block_counts_the_block(tmp_path):
    model = mlp()
    inputs, faults = feeds(model, batch=12), random_faults(model, 4)
    given = {
        "order": [5, 11, 2, 7, 0],
        "ranges": [[0, 2], [1, 5], [0, 2], [4, 5]],
        "n": 5,
        "chunk": 2,
        "segmented": False,
    }
    done = run_campaign(model, inputs, faults, tmp_path / "job", variants=("lost", "1"), **given).checks
    assert [record["counts"][:3] for record in done["lost"]["trials"]] == [[2, 0, 2], [4, 0, 4], [2, 0, 2], [1, 0, 1]]
    assert done["1"]["counts"][0] == 4


def test_faults_of_the_last_layer_that_change_nothing_are_masked(tmp_path):
    model = mlp()
    positive = int(np.argmax(stored_initializers(model)["w2"].reshape(-1) > 0))
    made = run_campaign(model, feeds(model, batch=5), [("w2", positive, 31, "stuck_at_0", 1, 0)], tmp_path / "job")
    assert made.checks["segmented"]
    assert made.checks["rebuilt"] == 0
    assert (made["n_inputs"], made["n_changed"], made["n_due"]) == ([5], [0], [0])
