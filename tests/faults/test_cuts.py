from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from benchmarks.networks import resnet20
from models import batch_shaped, feeds, int4, make_model, mlp, small_cnn, static_int8, two_inputs
from onnx import helper

from hwbench.faults.cuts import GraphCutter, Layer
from hwbench.faults.segments import LANES

pytestmark = pytest.mark.isa
IMAGE, ROW = {"x": (1, ["N", 3, 6, 6])}, {"x": (1, ["N", 16])}
Y = {"y": (1, ["N", 4])}
node = helper.make_node


def normal(*shape: int) -> np.ndarray:
    fan = np.prod(shape[1:]) if len(shape) > 1 else 1
    return (np.random.default_rng(sum(shape)).standard_normal(shape) * np.sqrt(2 / fan)).astype(np.float32)


def run(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_outputs()]
    wanted = {one.name: inputs[one.name] for one in session.get_inputs()}
    return dict(zip(names, session.run(names, wanted), strict=True))


def attention() -> onnx.ModelProto:
    """A transformer block over a batch of five vectors each."""
    nodes = [
        node("MatMul", ["x", "wq"], ["q"], "query"),
        node("MatMul", ["x", "wk"], ["k"], "key"),
        node("MatMul", ["x", "wv"], ["v0"], "value"),
        node("Add", ["v0", "bv"], ["v"], "value_bias"),
        node("Transpose", ["k"], ["kt"], perm=[0, 2, 1]),
        node("MatMul", ["q", "kt"], ["scores"], "scores"),
        node("Softmax", ["scores"], ["weights"]),
        node("MatMul", ["weights", "v"], ["mixed"], "mix"),
        node("Add", ["mixed", "x"], ["residual"]),
        node("LayerNormalization", ["residual", "gain", "shift"], ["normal"]),
        node("ReduceMean", ["normal", "middle"], ["pooled"], keepdims=0),
        node("MatMul", ["pooled", "wc"], ["y"], "classifier"),
    ]
    weights = {"wq": normal(8, 8), "wk": normal(8, 8), "wv": normal(8, 8), "bv": normal(8), "wc": normal(8, 4)}
    weights |= {"gain": np.ones(8, np.float32), "shift": normal(8), "middle": np.array([1])}
    return make_model(nodes, {"x": (1, ["N", 5, 8])}, Y, weights)


def mobile() -> onnx.ModelProto:
    """A depthwise, a grouped and a plain convolution."""
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "expand"),
        node("Conv", ["a", "w2", "b2"], ["b"], "depthwise", group=6),
        node("Clip", ["b", "low", "high"], ["c"], "clip"),
        node("Conv", ["c", "w3"], ["d"], "grouped", group=2),
        node("GlobalAveragePool", ["d"], ["e"]),
        node("Flatten", ["e"], ["f"]),
        node("Gemm", ["f", "w4", "b4"], ["y"], "classifier"),
    ]
    weights = {"w1": normal(6, 3, 3, 3), "w2": normal(6, 1, 2, 2), "b2": normal(6), "w3": normal(8, 3, 1, 1)}
    weights |= {"w4": normal(8, 4), "b4": normal(4), "low": np.float32(-1), "high": np.float32(6)}
    return make_model(nodes, IMAGE, Y, weights)


def interleaved() -> onnx.ModelProto:
    """Two branches whose operators stand in turns in the file."""
    nodes = [
        node("Conv", ["x", "wa"], ["a"], "a"),
        node("Conv", ["x", "wb"], ["b"], "b"),
        node("Relu", ["b"], ["rb"], "rb"),
        node("Relu", ["a"], ["ra"], "ra"),
        node("Add", ["ra", "rb"], ["sum"]),
        node("GlobalAveragePool", ["sum"], ["pooled"]),
        node("Flatten", ["pooled"], ["flat"]),
        node("MatMul", ["flat", "w"], ["y"], "classifier"),
    ]
    return make_model(nodes, IMAGE, Y, {"wa": normal(8, 3, 3, 3), "wb": normal(8, 3, 3, 3), "w": normal(8, 4)})


def row_bias() -> onnx.ModelProto:
    """Layers whose biases have a leading axis of one."""
    nodes = [
        node("Gemm", ["x", "w1", "b1"], ["a"], "first"),
        node("Relu", ["a"], ["ra"]),
        node("Gemm", ["ra", "w2", "b2"], ["y"], "second"),
    ]
    weights = {"w1": normal(16, 16), "b1": normal(1, 16), "w2": normal(16, 4), "b2": normal(1, 4)}
    return make_model(nodes, ROW, Y, weights)


FLOAT = {
    "row bias": row_bias,
    "resnet20": resnet20,
    "cnn": small_cnn,
    "mlp": mlp,
    "ids and mask": two_inputs,
    "attention": attention,
    "mobile": mobile,
    "interleaved": interleaved,
    "blocks of int4": lambda: int4(mlp()),
}
INTEGER = {
    "resnet20": lambda: static_int8(resnet20()),
    "cnn": lambda: static_int8(small_cnn()),
    "cnn, one scale a tensor": lambda: static_int8(small_cnn(), per_channel=False, weights="u8"),
    "mlp": lambda: static_int8(mlp()),
    "mobile": lambda: static_int8(mobile()),
    "attention": lambda: static_int8(attention()),
}


def segmented(cutter: GraphCutter, inputs: dict[str, np.ndarray]) -> tuple[np.ndarray, dict[str, np.ndarray]]:
    """The output, made cut by cut at every layer after which the graph can be cut, and every tensor met on the way."""
    seen, given = dict(inputs), cutter.inputs
    for names in [*(cutter.cut_after(layer.position) for layer in cutter.cuttable), [cutter.outputs[0]]]:
        made = [name for name in names if name not in given]
        if made:
            seen |= run(cutter.segment(given, made), seen)
        given = names
    return seen[cutter.outputs[0]], seen


@pytest.mark.parametrize("name", INTEGER)
def test_an_integer_network_run_in_segments_gives_its_output_bit_for_bit(name):
    model = INTEGER[name]()
    inputs, cutter = feeds(model, batch=6), GraphCutter(model)
    assert len(cutter.cuttable) >= 2
    whole = run(model, inputs)[cutter.outputs[0]]
    assert segmented(cutter, inputs)[0].tobytes() == whole.tobytes()


@pytest.mark.parametrize("name", FLOAT)
def test_a_float_network_run_in_segments_gives_its_output_but_for_rounding(name):
    model = FLOAT[name]()
    inputs, cutter = feeds(model, batch=6), GraphCutter(model)
    whole, made = run(model, inputs)[cutter.outputs[0]], segmented(cutter, inputs)[0]
    np.testing.assert_allclose(made, whole, atol=1e-4)
    np.testing.assert_array_equal(made.argmax(axis=1), whole.argmax(axis=1))


def own_channels(
    cutter: GraphCutter, layer: Layer, seen: dict[str, np.ndarray], lanes: int
) -> tuple[np.ndarray, np.ndarray]:
    """A layer's output in its lanes, which hold its channels in turn, and those channels of its own output."""
    x = seen[layer.x]
    turn = np.resize(np.arange(layer.channels), lanes)
    lane = run(cutter.lane(layer, lanes), {layer.x: np.take(x, turn, axis=1) if layer.depthwise else x})[layer.out]
    own = run(cutter.segment([layer.x], [layer.out]), {layer.x: x})[layer.out]
    return lane, np.take(own, turn, axis=layer.axis)


@pytest.mark.parametrize(
    ("name", "exact"), [*((name, True) for name in INTEGER if name != "resnet20"), *((name, False) for name in FLOAT)]
)
def test_lanes_compute_a_layers_own_channels(name, exact):
    model = (INTEGER if exact else FLOAT)[name]()
    cutter = GraphCutter(model)
    seen = segmented(cutter, feeds(model, batch=3))[1]
    with_lanes = [layer for layer in cutter.cuttable if layer.parameters]
    assert with_lanes
    for layer in with_lanes:
        seen |= {} if layer.x in seen else run(cutter.segment(cutter.inputs, [layer.x]), seen)
        for lanes in (2, layer.channels, 2 * layer.channels + 1):
            lane, own = own_channels(cutter, layer, seen, lanes)
            if exact:
                assert lane.tobytes() == own.tobytes(), (layer.node, lanes)
            else:
                np.testing.assert_allclose(lane, own, atol=1e-4, err_msg=layer.node)


# Channels in and out and kernel, by which ONNX Runtime chooses among its kernels for x86 (QLinearConv, MlasConvSymPackWSize):
# symmetric convolutions, packed matrices, depthwise ones.
SATURATING = {
    **{f"{a} to {b}, {k} × {k}": (a, b, k, 1) for a in (1, 3, 4, 8) for b in (2, 8, 12, 16, 20, 72) for k in (1, 3)},
    **{f"depthwise {channels}": (channels, channels, 3, channels) for channels in (2, 6, 16, 80)},
}


def saturating(reads: int, makes: int, kernel: int, group: int, weights: type = np.int8) -> onnx.ModelProto:
    """A quantized convolution, half of its weights as large as they can be: on x86 without VNNI its sums leave int16."""
    rng = np.random.default_rng(makes)
    shape = (makes, reads // group, kernel, kernel)
    drawn = np.where(rng.random(shape) < 0.5, np.sign(rng.standard_normal(shape)) * 127, rng.integers(-127, 128, shape))
    zero = 128 if weights is np.uint8 else 0
    nodes = [
        node("QuantizeLinear", ["x", "sx", "zx"], ["xq"], "quantize"),
        node("DequantizeLinear", ["xq", "sx", "zx"], ["xd"]),
        node("DequantizeLinear", ["w", "sw", "zw"], ["wd"], axis=0),
        node("Conv", ["xd", "wd"], ["c"], "layer", group=group),
        node("QuantizeLinear", ["c", "sy", "zy"], ["cq"], "requantize"),
        node("DequantizeLinear", ["cq", "sy", "zy"], ["cd"]),
        node("GlobalAveragePool", ["cd"], ["y"], "pool"),
    ]
    constants = {"w": (drawn + zero).astype(weights), "sx": np.float32(0.05), "zx": np.uint8(100)}
    constants |= {"sw": np.full(makes, 0.01, np.float32), "zw": np.full(makes, zero, weights)}
    constants |= {"sy": np.float32(0.02 * np.sqrt(drawn[0].size)), "zy": np.uint8(128)}
    return make_model(nodes, {"x": (1, ["N", reads, 6, 6])}, {"y": (1, ["N", makes, 1, 1])}, constants)


@pytest.mark.parametrize("weights", [np.int8, np.uint8])
@pytest.mark.parametrize("shape", SATURATING.values(), ids=SATURATING)
def test_lanes_saturate_as_their_layer_does(shape, weights):
    cutter = GraphCutter(saturating(*shape, weights=weights))
    (layer,) = cutter.layers
    x = np.random.default_rng(0).uniform(-5, 7.7, (2, shape[0], 6, 6)).astype(np.float32)
    seen = run(cutter.segment(["x"], ["xq"]), {"x": x})
    whole = run(cutter.segment(["x"], [layer.out]), {"x": x})[layer.out]
    lane, own = own_channels(cutter, layer, seen, LANES)
    assert own.tobytes() == np.take(whole, np.resize(np.arange(layer.channels), LANES), axis=1).tobytes()
    assert lane.tobytes() == own.tobytes()


def test_a_convolution_of_one_channel_to_one_has_no_lanes():
    """ONNX Runtime computes it by its depthwise kernel, which is exact where the kernel of its lanes would saturate."""
    assert layers(saturating(1, 1, 3, 1))["layer"].parameters == {}
    assert layers(saturating(2, 1, 3, 1))["layer"].parameters == {"w": 0, "sw": 0, "zw": 0}
    assert layers(saturating(1, 2, 3, 1))["layer"].parameters == {"w": 0, "sw": 0, "zw": 0}


def layers(model: onnx.ModelProto) -> dict[str, Layer]:
    return {layer.node: layer for layer in GraphCutter(model).layers}


def test_a_layer_takes_the_channelwise_operators_behind_it():
    found = layers(small_cnn())
    assert [(layer.out, layer.channels) for layer in found.values()] == [("r1", 8), ("c2", 8), ("y", 10)]
    assert [layer.parameters for layer in found.values()] == [{"w1": 0, "b1": 0}, {"w2": 0}, {"w3": 1}]
    found = layers(mlp())
    assert (found["gemm"].out, found["gemm"].parameters) == ("r", {"w1": 0, "b1": 0})
    assert (found["matmul"].out, found["matmul"].parameters) == ("y", {"w2": 1, "b2": 0})


def test_a_quantized_layer_ends_in_its_integers_and_starts_from_integers():
    cutter = GraphCutter(static_int8(small_cnn()))
    first, second, last = cutter.layers
    numpy_types = [cutter.types[layer.out].type.tensor_type.elem_type for layer in (first, second, last)]
    assert numpy_types == [onnx.TensorProto.UINT8] * 3
    assert second.x == first.out
    assert set(second.parameters) == {"w2_quantized", "w2_scale", "w2_zero_point"}
    assert set(first.parameters) == {
        *("w1_quantized", "w1_scale", "w1_zero_point"),
        *("b1_quantized", "b1_quantized_scale", "b1_quantized_zero_point"),
    }


def test_one_scale_for_all_channels_is_no_channels_parameter():
    found = layers(static_int8(small_cnn(), per_channel=False))
    assert set(found["conv1"].parameters) == {"w1_quantized", "b1_quantized"}


@pytest.mark.parametrize("quantized", [False, True], ids=["fp32", "int8"])
def test_a_depthwise_convolution_belongs_to_the_layer_it_waits_for(quantized):
    cutter = GraphCutter(static_int8(mobile()) if quantized else mobile())
    expand, grouped, classifier = cutter.layers
    assert (expand.node, grouped.node, classifier.node) == ("expand", "grouped", "classifier")
    assert (expand.depthwise, grouped.x) == (False, expand.out)
    stored = {"w1_quantized", "w2_quantized", "b2_quantized"} if quantized else {"w1", "w2", "b2"}
    assert stored <= expand.parameters.keys()
    assert {expand.parameters[name] for name in stored} == {0}
    assert stored <= {name for name, home in cutter.homes.items() if home is expand}


def test_a_layer_ends_before_a_depthwise_convolution_that_is_not_alone_in_reading_it():
    nodes = [
        node("Conv", ["x", "w1"], ["a"], "expand"),
        node("Conv", ["a", "w2"], ["b"], "depthwise", group=6, pads=[0, 0, 1, 1]),
        node("Add", ["a", "b"], ["c"]),
        node("GlobalAveragePool", ["c"], ["e"]),
        node("Flatten", ["e"], ["f"]),
        node("MatMul", ["f", "w4"], ["y"], "classifier"),
    ]
    weights = {"w1": normal(6, 3, 3, 3), "w2": normal(6, 1, 2, 2), "w4": normal(6, 4)}
    found = layers(make_model(nodes, IMAGE, Y, weights))
    assert (found["expand"].out, found["expand"].parameters) == ("a", {"w1": 0})
    assert (found["depthwise"].depthwise, found["depthwise"].parameters) == (True, {"w2": 0})


def test_grouped_layers_have_no_lanes():
    found = layers(mobile())
    assert (found["grouped"].depthwise, found["grouped"].parameters) == (False, {})
    assert found["classifier"].parameters == {"w4": 1, "b4": 0}


def test_a_bias_may_be_a_row():
    assert layers(row_bias())["second"].parameters == {"w2": 1, "b2": 1}


def two_gemms(**weights: np.ndarray) -> onnx.ModelProto:
    """Two layers and a classifier; they read the weights called so."""
    second, bias = ("w2" if "w2" in weights else "w1"), ("b2" if "b2" in weights else "b1")
    nodes = [
        node("Gemm", ["x", "w1", "b1"], ["a"], "first"),
        node("Relu", ["a"], ["ra"]),
        node("Gemm", ["ra", second, bias], ["b"], "second"),
        node("Relu", ["b"], ["rb"]),
        node("MatMul", ["rb", "w"], ["y"], "classifier"),
    ]
    return make_model(nodes, ROW, Y, {"w1": normal(16, 16), "b1": normal(16), "w": normal(16, 4), **weights})


@pytest.mark.parametrize("weights", [{"w2": normal(16, 16)}, {"b2": normal(16)}], ids=["bias", "weight"])
def test_layers_that_share_a_number_per_channel_have_no_lanes(weights):
    found = layers(two_gemms(**weights))
    assert [found[name].parameters for name in ("first", "second", "classifier")] == [{}, {}, {"w": 1}]


def test_numbers_per_channel_that_an_operator_makes_leave_no_lanes():
    nodes = [
        node("Mul", ["b", "half"], ["made"]),
        node("Gemm", ["x", "w1", "made"], ["a"], "layer"),
        node("MatMul", ["a", "w"], ["y"], "classifier"),
    ]
    model = make_model(
        nodes, ROW, Y, {"w1": normal(16, 16), "b": normal(16), "half": np.float32(0.5), "w": normal(16, 4)}
    )
    assert layers(model)["layer"].parameters == {}


@pytest.mark.parametrize(("axis", "block", "parameters"), [(0, 0, {"wq"}), (1, 0, {"wq", "s"}), (0, 4, {"wq", "s"})])
def test_scales_belong_to_channels_where_they_run_along_them(axis, block, parameters):
    """The weight is square and its blocks as many as its channels, so that sizes alone do not tell."""
    stored = np.random.default_rng(0).integers(-127, 127, (16, 16) if not block else (16, 4)).astype(np.int8)
    scale = np.full((4, 4) if block else 16, 0.01, np.float32)
    attributes = {"axis": axis, **({"block_size": block} if block else {})}
    nodes = [
        node("DequantizeLinear", ["wq", "s"], ["w1"], "dequantize", **attributes),
        node("MatMul", ["x", "w1"], ["a"], "layer"),
        node("MatMul", ["a", "w"], ["y"], "classifier"),
    ]
    model = make_model(nodes, ROW, Y, {"wq": stored, "s": scale, "w": normal(stored.shape[1], 4)})
    found = layers(model)["layer"].parameters
    assert set(found) == parameters
    assert found["wq"] == 1
    assert found.get("s", axis == 1) == (1 if block else 0)


@pytest.mark.parametrize("per_channel", [True, False])
def test_a_number_that_one_layer_alone_depends_on_has_its_home_there(per_channel):
    cutter = GraphCutter(static_int8(small_cnn(), per_channel=per_channel))
    homes = {name: layer.node for name, layer in cutter.homes.items()}
    first = {f"w1_{part}" for part in ("quantized", "scale", "zero_point")} | {"b1_quantized", "b1_quantized_scale"}
    assert {name for name, node in homes.items() if node == "conv1"} == first | {"b1_quantized_zero_point"}
    assert {name for name, node in homes.items() if node == "classifier"} == {
        "w3_quantized",
        "w3_scale",
        "w3_zero_point",
    }
    assert not {"x_scale", "r1_scale", "r1_zero_point", "c2_scale", "y_scale"} & homes.keys()  # others read by them too


def test_a_number_that_two_layers_share_has_no_home():
    homes = GraphCutter(two_gemms(w2=normal(16, 16))).homes
    assert {name: layer.node for name, layer in homes.items()} == {"w1": "first", "w2": "second", "w": "classifier"}


def test_bounds_of_an_activation_belong_to_its_layer():
    homes = GraphCutter(mobile()).homes
    assert (homes["low"].node, homes["b2"].node, homes["w3"].node) == ("expand", "expand", "grouped")


def test_scales_and_zero_points_tell_how_others_are_read():
    cutter = GraphCutter(static_int8(small_cnn()))
    told = {name for name in cutter.constants if cutter.is_gauge(name)}
    assert told == {name for name in cutter.constants if name.endswith(("_scale", "_zero_point"))}


def test_layers_stand_one_after_the_other_whatever_the_order_of_the_file():
    cutter = GraphCutter(interleaved())
    order = [one.name for one in cutter.nodes if one.name]
    assert order.index("ra") == order.index("a") + 1
    assert order.index("rb") == order.index("b") + 1
    made = {"x", *cutter.constants}
    for one in cutter.nodes:
        assert made.issuperset(one.input)
        made.update(one.output)
    assert sorted(map(str, cutter.nodes)) == sorted(map(str, interleaved().graph.node))


def test_the_graph_is_not_cut_where_a_tensor_has_not_one_row_an_input():
    cutter = GraphCutter(batch_shaped())
    assert [layer.node for layer in cutter.layers] == ["before", "after", "classifier"]
    assert "target" in cutter.cut_after(cutter.layers[0].position)
    assert [layer.node for layer in cutter.cuttable] == ["after", "classifier"]


def test_the_graph_is_not_cut_where_types_are_not_known():
    nodes = [
        node("MatMul", ["x", "w1"], ["a"], "known"),
        node("Strange", ["a"], ["b"], domain="tests.example"),
        node("MatMul", ["b", "w2"], ["c"], "unknown"),
        node("Relu", ["c"], ["y"]),
    ]
    model = make_model(nodes, ROW, Y, {"w1": normal(16, 16), "w2": normal(16, 4)})
    assert [layer.node for layer in GraphCutter(model).cuttable] == ["known"]


def test_first_use_of_a_number_is_the_operator_it_reaches():
    cutter = GraphCutter(static_int8(small_cnn()))
    for name, op_type in (("w1_scale", "Conv"), ("x_scale", "QuantizeLinear"), ("w3_quantized", "MatMul")):
        assert cutter.nodes[cutter.first_use(name)].op_type == op_type
    idle = make_model([node("Relu", ["x"], ["y"])], {"x": (1, ["N", 4])}, Y, {"idle": normal(2)})
    assert GraphCutter(idle).first_use("idle") == 1
