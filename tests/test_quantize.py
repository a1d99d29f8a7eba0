"""What every precision makes of a model, with the real quantizers."""

import time
from collections import Counter

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from job_files import files_in
from onnx import TensorProto, helper, numpy_helper

from hwbench.errors import ModelError, UnavailableError, UnsupportedError
from hwbench.profile import Precision
from hwbench.quantize import quantizer_versions, run
from hwbench.targets import open_target
from hwbench.worker.protocol import Job, JobContext
from tests import models

pytestmark = pytest.mark.isa
SAMPLES = 40


class Made:
    """What came out of a quantizing job."""

    def __init__(self, folder, contents):
        self.folder, self.contents, self.path = folder, contents, folder / "model.onnx"
        self.graph = onnx.load(self.path).graph
        self.stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in self.graph.initializer}
        self.types = {tensor.name: tensor.data_type for tensor in self.graph.initializer}
        self.ops = Counter(node.op_type for node in self.graph.node)

    def dequantized(self, start):
        """Input names of the DequantizeLinear of the initializer whose name starts so."""
        return next(
            node.input
            for node in self.graph.node
            if node.op_type == "DequantizeLinear" and node.input[0].startswith(start)
        )

    def quantized(self, name):
        """Input names of the QuantizeLinear of a tensor."""
        return next(
            node.input for node in self.graph.node if node.op_type == "QuantizeLinear" and node.input[0] == name
        )

    def output(self, feeds):
        session = ort.InferenceSession(self.path, providers=["CPUExecutionProvider"])
        return session.run(None, feeds)[0]


def params(proto, folder, feeds=None, **precision):
    """A job's parameters: the model and its calibration data, saved in ``folder``."""
    feeds = models.feeds(proto, batch=SAMPLES) if feeds is None else feeds
    files = {name: folder / f"{name}.npy" for name in feeds}
    for name, value in feeds.items():
        np.save(files[name], value)
    needs = Precision.model_validate(precision).needs_calibration
    return {
        "model": str(models.saved(proto, folder / "given.onnx")),
        "precision": precision,
        "shapes": {name: list(value.shape[1:]) for name, value in feeds.items()},
        "calibration": {name: str(file) for name, file in files.items()} if needs else {},
    }


@pytest.fixture
def make(tmp_path):
    def quantize(proto, feeds=None, **precision):
        folder = tmp_path / f"job{len(list(tmp_path.iterdir()))}"
        folder.mkdir()
        job = JobContext(folder, params(proto, tmp_path, feeds, **precision))
        return Made(folder, run(job)["contents"])

    return quantize


def close(made, proto, relative):
    """Whether a build's outputs differ from the model's by less than a share of their norm."""
    feeds = models.feeds(proto, batch=16, seed=5)
    want = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)[0]
    return np.linalg.norm(made.output(feeds) - want) < relative * np.linalg.norm(want)


@pytest.mark.parametrize(
    ("precision", "relative"),
    [
        ({"format": "fp32"}, 1e-5),
        ({"format": "as-is"}, 1e-6),
        ({"format": "fp16"}, 5e-3),
        ({"format": "int8"}, 0.06),
        ({"format": "int8", "per_channel": False, "weights": "u8"}, 0.06),
        ({"format": "int8", "reduce_range": True}, 0.06),
        ({"format": "int8", "activations": "s8", "quantize_bias": False, "reduce_range": True}, 0.1),
        ({"format": "int8", "calibration": {"method": "percentile"}}, 0.06),
        ({"format": "int8", "dynamic": True, "reduce_range": True}, 0.06),
        ({"format": "int4"}, 0.3),
    ],
    ids=str,
)
@pytest.mark.parametrize("model", [models.small_cnn, models.mlp])
def test_builds_compute_what_the_model_computes(make, model, precision, relative):
    made = make(model(), **precision)
    assert close(made, model(), relative)
    onnx.checker.check_model(onnx.load(made.path), full_check=True)
    assert [path.name for path in made.folder.iterdir()] == ["model.onnx"]
    assert made.contents["bytes"] == made.path.stat().st_size
    assert made.contents["opset"] == {"ai.onnx": 21}
    assert made.contents["ir_version"] == 10
    assert sum(made.contents["stored"].values()) == sum(value.size for value in made.stored.values())


LARGE = [{"format": form} for form in ("fp32", "int8", "int4", "fp16", "bf16", "as-is")]
LARGE += [{"format": "int8", "dynamic": True}, {"format": "int8", "calibration": {"method": "entropy"}}]


@pytest.mark.parametrize("precision", LARGE, ids=str)
def test_builds_beyond_protobufs_limit_have_their_weights_beside_them(make, monkeypatch, precision):
    whole = make(models.mlp(), **precision)
    monkeypatch.setattr(onnx.checker, "MAXIMUM_PROTOBUF", 5_000)
    made = make(models.mlp(), **precision)
    assert {path.name for path in made.folder.glob("*.onnx*")} == {"model.onnx", "model.onnx.data"}
    assert made.contents["stored"] == whole.contents["stored"]
    assert made.contents["bytes"] > 2 * made.path.stat().st_size
    assert made.stored.keys() == whole.stored.keys()
    for name, value in whole.stored.items():
        np.testing.assert_array_equal(made.stored[name], value)


# int8


@pytest.mark.parametrize("method", ["minmax", "entropy", "percentile"])
def test_static_int8_quantizes_every_product(make, method):
    made = make(models.small_cnn(), format="int8", calibration={"method": method})
    assert made.contents["compute"] == {"int8": 3}
    assert made.types[made.dequantized("w1")[0]] == TensorProto.INT8
    assert made.types[made.dequantized("b1")[0]] == TensorProto.INT32
    assert made.types[made.quantized("x")[2]] == TensorProto.UINT8


def test_a_bias_of_one_row_is_a_bias(make):
    """As scikit-learn's multilayer perceptrons have them."""
    proto = models.mlp()
    (bias,) = [tensor for tensor in proto.graph.initializer if tensor.name == "b2"]
    bias.dims[:] = [1, 10]
    made = make(proto, format="int8")
    assert made.contents["compute"] == {"int8": 2}
    assert close(made, proto, 0.06)


def test_calibration_methods_differ_in_what_they_clip(make):
    feeds = {"x": models.feeds(models.mlp(), batch=64)["x"] ** 3}  # heavy tails
    feeds["x"][:16] *= 0.1  # entropy clips what comes after the first batch only

    def step(**calibration):
        made = make(models.mlp(), feeds, format="int8", calibration=calibration)
        return float(made.stored[made.quantized("x")[1]])

    assert step() == pytest.approx(np.ptp(feeds["x"]) / 255, rel=1e-5)
    assert step(method="percentile", percentile=99.0) == pytest.approx(
        np.ptp(np.percentile(feeds["x"], [0.5, 99.5])) / 255,
        rel=0.1,  # half of the cut on each side
    )
    assert step(method="percentile", percentile=99.0) < step(method="percentile", percentile=99.9) < step()
    assert step(method="entropy") < 0.9 * step()


@pytest.mark.parametrize(
    ("n", "samples", "row", "seen"), [(20, 256, 19, True), (7, 256, 6, True), (64, 32, 31, True), (64, 32, 32, False)]
)
def test_calibration_takes_as_many_samples_as_asked(make, n, samples, row, seen):
    feeds = models.feeds(models.mlp(), batch=n)
    feeds["x"][row, 0] = 100.0
    made = make(models.mlp(), feeds, format="int8", calibration={"samples": samples})
    assert (made.stored[made.quantized("x")[1]] > 0.3) == seen


def test_a_graph_of_fixed_batch_is_calibrated_in_its_batches(make):
    proto = models.mlp()
    for value in (*proto.graph.input, *proto.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 8
    made = make(proto, models.feeds(models.mlp(), batch=5), format="int8")
    assert made.contents["compute"] == {"int8": 2}


@pytest.mark.parametrize("per_channel", [True, False])
def test_scales_are_per_channel_or_one(make, per_channel):
    made = make(models.small_cnn(), format="int8", per_channel=per_channel)
    for weight, channels in (("w1", 8), ("w2", 8), ("w3", 10)):
        assert made.stored[made.dequantized(weight)[1]].size == (channels if per_channel else 1)


@pytest.mark.parametrize(("reduce_range", "largest"), [(True, 64), (False, 127)])
@pytest.mark.parametrize("dynamic", [True, False])
def test_reduced_range_keeps_weights_within_7_bits(make, reduce_range, largest, dynamic):
    made = make(models.small_cnn(), format="int8", reduce_range=reduce_range, dynamic=dynamic)
    weights = [value for name, value in made.stored.items() if value.dtype == np.int8 and value.ndim > 1]
    assert len(weights) == 3
    assert max(np.abs(value.astype(int)).max() for value in weights) == largest


def test_s8_is_symmetric(make):
    made = make(models.small_cnn(), format="int8", activations="s8")
    points = [
        made.stored[node.input[2]] for node in made.graph.node if node.op_type in ("QuantizeLinear", "DequantizeLinear")
    ]
    assert points
    assert not any(value.any() for value in points)
    assert "uint8" not in made.contents["stored"]


def test_u8_is_not(make):
    made = make(models.small_cnn(), format="int8", weights="u8")
    assert made.stored[made.quantized("x")[2]] != 0
    assert made.types[made.dequantized("w1")[0]] == TensorProto.UINT8


def test_biases_are_left_in_float_where_asked(make):
    assert "int32" in make(models.small_cnn(), format="int8").contents["stored"]
    made = make(models.small_cnn(), format="int8", quantize_bias=False)
    assert "int32" not in made.contents["stored"]
    assert made.types["b1"] == TensorProto.FLOAT


def test_dynamic_int8_stores_no_activation_ranges(make):
    made = make(models.small_cnn(), format="int8", dynamic=True)
    assert made.ops["DynamicQuantizeLinear"] == made.ops["ConvInteger"] + made.ops["MatMulInteger"] == 3
    assert made.ops["QuantizeLinear"] == 0
    assert made.contents["compute"] == {"int8": 3}


def test_several_inputs_with_dynamic_dimensions(make):
    proto = models.two_inputs()
    feeds = models.feeds(proto, batch=12)
    made = make(proto, feeds, format="int8")
    assert made.contents["compute"] == {"int8": 1}
    assert [value.type.tensor_type.shape.dim[1].dim_value for value in made.graph.input] == [12, 12]
    assert made.output(feeds).shape == (12, 3)


@pytest.mark.slow
def test_nncf_in_a_worker_of_its_own(tmp_path):
    pytest.importorskip("importlib.metadata").version("nncf")
    given = params(models.small_cnn(), tmp_path, format="int8", quantizer="nncf")
    job = Job("hwbench.quantize:run", given, files=files_in(given))
    result = open_target("local").run(job, tmp_path / "job")
    assert result.ok, result.detail
    made = Made(result.folder, result.data["contents"])
    assert made.contents["compute"] == {"int8": 3}
    assert close(made, models.small_cnn(), 0.1)


# int4, half precisions, as it is


@pytest.mark.parametrize("block_size", [16, 32, 64])
def test_int4_stores_blocks_of_int4_elements(make, block_size):
    made = make(models.mlp(), format="int4", block_size=block_size)
    assert made.contents["stored"]["int4"] == 128 * 10
    assert made.contents["compute"] == {"fp32": 1, "int4": 1}
    weight, scale = made.dequantized("w2")[:2]
    assert made.types[weight] == TensorProto.INT4
    assert made.stored[scale].shape == (128 // block_size, 10)
    assert made.types["w1"] == TensorProto.FLOAT


def given(proto):
    return {tensor.name: numpy_helper.to_array(tensor) for tensor in proto.graph.initializer}


@pytest.mark.parametrize(
    ("form", "dtype", "stored"), [("fp16", np.float16, "float16"), ("bf16", ml_dtypes.bfloat16, "bfloat16")]
)
def test_half_precisions_round_the_weights_once(make, form, dtype, stored):
    proto = models.small_cnn()
    # In bfloat16 halfway between two neighbours but for a bit that float16 would drop, and beyond float16's range.
    bias = np.float32([1 + 2**-8 + 2**-20, 1e-6, 3e-8, 1e5, -1e5, 0.1, 1 / 3, 2**-30])
    if form == "fp16":
        bias = bias[[0, 5, 6]].repeat(3)[:8]
    proto.graph.initializer[1].CopyFrom(numpy_helper.from_array(bias, "b1"))
    made = make(proto, format=form)
    assert made.contents["stored"] == {stored: 736}
    assert made.contents["compute"] == {form: 3}
    for name, exact in given(proto).items():
        np.testing.assert_array_equal(made.stored[name], exact.astype(dtype))


@pytest.mark.parametrize("form", ["fp16", "bf16"])
def test_half_precisions_keep_float32_inputs_and_outputs(make, form):
    made = make(models.small_cnn(), format=form)
    assert {value.type.tensor_type.elem_type for value in (*made.graph.input, *made.graph.output)} == {
        TensorProto.FLOAT
    }
    inner = {"fp16": TensorProto.FLOAT16, "bf16": TensorProto.BFLOAT16}[form]
    casts = [onnx.helper.get_node_attr_value(node, "to") for node in made.graph.node if node.op_type == "Cast"]
    assert sorted(casts) == sorted([inner, TensorProto.FLOAT])
    onnx.checker.check_model(onnx.load(made.path), full_check=True)


def test_as_it_is_means_as_it_is(make):
    proto = models.static_int8(models.small_cnn())
    proto.ir_version, proto.opset_import[0].version = 11, 23
    made = make(proto, format="as-is")
    for node, before in zip(made.graph.node, proto.graph.node, strict=True):
        before.name = before.name or node.name  # all that is added: names for nodes that have none
        assert node == before
    assert made.contents["ir_version"] == 11
    assert made.contents["opset"]["ai.onnx"] == 23
    for name, value in given(proto).items():
        np.testing.assert_array_equal(made.stored[name], value)
    assert made.contents["compute"] == {"int8": 3}


# What cannot be made


def activation_only():
    return models.make_model([helper.make_node("Relu", ["x"], ["y"])], {"x": (1, ["N", 4])}, {"y": (1, ["N", 4])})


@pytest.mark.parametrize(
    ("model", "precision"),
    [
        (activation_only, {"format": "int8"}),
        (activation_only, {"format": "int8", "dynamic": True}),
        (activation_only, {"format": "int4"}),
        (activation_only, {"format": "fp16"}),
        (activation_only, {"format": "bf16"}),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),  # str would hold an address, another in every process
)
def test_nothing_to_quantize_is_said(make, model, precision):
    with pytest.raises(UnavailableError, match=f"nothing to quantize: .* takes {precision['format']}"):
        make(model(), **precision)


def test_an_operator_no_runtime_knows_is_named(make):
    with pytest.raises(UnsupportedError, match=r"cannot prepare .*Strange"):
        make(models.unknown_operator(), format="fp32")
    assert make(models.unknown_operator(), format="as-is").ops["Strange"] == 1  # that is for the backend to refuse


def test_an_opset_no_runtime_knows_is_named(make):
    proto = models.mlp()
    proto.opset_import[0].version = 999
    with pytest.raises(ModelError, match="opset 999 cannot be converted"):
        make(proto, format="fp32")


def test_versions_are_those_of_the_tools_that_take_part():
    assert set(quantizer_versions(Precision(format="as-is"))) == {"onnx", "onnx-ir"}
    assert set(quantizer_versions(Precision(format="int8"))) == {"onnx", "onnx-ir", "onnxruntime"}
    assert set(quantizer_versions(Precision(format="int8", quantizer="nncf"))) >= {"nncf", "onnxruntime"}
    assert quantizer_versions(Precision())["onnxruntime"] == ort.__version__


@pytest.mark.parametrize("form", ["fp32", "as-is"])
def test_dimensions_stay_dynamic_where_a_branch_that_is_not_taken_admits_other_sizes(make, form):
    """As in a detector for two sampling rates: the inputs of one are too long for the branch of the other."""
    branches = {
        "then_branch": [helper.make_node("ReduceMean", ["x", "axis"], ["mean"], "mean", keepdims=0)],
        "else_branch": [helper.make_node("Squeeze", ["x", "axis"], ["squeezed"], "squeeze")],
    }
    graphs = {
        name: helper.make_graph(nodes, name, [], [helper.make_tensor_value_info(nodes[-1].output[0], 1, ["N"])])
        for name, nodes in branches.items()
    }
    proto = models.make_model(
        [
            helper.make_node("Equal", ["rate", "high"], ["is_high"], "compare"),
            helper.make_node("If", ["is_high"], ["y"], "branch", **graphs),
        ],
        {"x": (TensorProto.FLOAT, ["N", "L"]), "rate": (TensorProto.INT64, [1])},
        {"y": (TensorProto.FLOAT, ["N"])},
        {"axis": np.array([1]), "high": np.array([16000])},
    )
    x = np.arange(16, dtype=np.float32).reshape(2, 8)
    made = make(proto, {"x": x, "rate": np.array([[16000]] * 2)}, format=form)
    np.testing.assert_array_equal(made.output({"x": x, "rate": np.array([16000])}), x.mean(axis=1))


def test_thousands_of_outputs_are_no_static_build(make, tmp_path):
    """A graph of 3,000 outputs kept ONNX Runtime's quantizer busy for minutes."""
    nodes = [helper.make_node("MatMul", ["x", "w"], ["h"], "layer")]
    nodes += [helper.make_node("Relu", ["h"], [f"y{at}"], f"relu{at}") for at in range(3000)]
    outputs = {f"y{at}": (TensorProto.FLOAT, ["N", 3]) for at in range(3000)}
    weights = {"w": np.ones((4, 3), np.float32)}
    proto = models.make_model(nodes, {"x": (TensorProto.FLOAT, ["N", 4])}, outputs, weights)
    started = time.process_time()
    with pytest.raises(UnavailableError, match=r"the model has 3000 outputs, .*limit of 500 .*export the model with"):
        make(proto, format="int8", activations="u8", weights="s8")
    assert time.process_time() - started < 30
    assert make(proto, format="fp32").ops["Relu"] == 3000
