"""ONNX files: what is opened, what is refused and how, and how a graph is normalized."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from hwbench.backend import TensorSpec
from hwbench.errors import InputError, ModelError
from hwbench.model import MAX_IR_VERSION, MAX_OPSET, Model, external_files, normalize, read_proto
from tests import models

MLP = models.mlp().SerializeToString()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("models")


@pytest.fixture
def beside(tmp_path):
    """A model with its weights beside it, in a folder of its own; returns what saves it with another location."""
    home = tmp_path / "home"
    home.mkdir()
    path = models.saved(models.mlp(), home / "model.onnx", external=True)

    def relocate(**changes):
        proto = onnx.load(path, load_external_data=False)
        for tensor in proto.graph.initializer:
            entries = {entry.key: entry.value for entry in tensor.external_data} | changes
            del tensor.external_data[:]
            for key, value in entries.items():
                tensor.external_data.add(key=key, value=value)
        onnx.save(proto, home / "changed.onnx")
        return home / "changed.onnx"

    return relocate


def outputs(path, feeds):
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


# Opening


def test_a_model_is_described(tmp_path):
    path = models.saved(models.small_cnn(), tmp_path / "cnn.v2.onnx")
    model = Model.open(path)
    assert model.name == "cnn.v2"
    assert model.sha256 == hashlib.sha256(path.read_bytes()).hexdigest()
    assert model.inputs == (TensorSpec("x", "float32", (None, 1, 8, 8)),)
    assert model.outputs == (TensorSpec("y", "float32", (None, 10)),)
    assert (model.nodes, model.parameters, model.bytes) == (8, 72 + 8 + 576 + 80, path.stat().st_size)
    said = model.describe()
    assert (said["file"], said["sha256"], said["inputs"][0]["shape"]) == ("cnn.v2.onnx", model.sha256, (None, 1, 8, 8))


@pytest.mark.parametrize(
    ("shapes", "batch"), [([["N", 4], ["N", 2]], None), ([[8, 4], [8, 2]], 8), ([[8, 4], [1, 2]], None), ([[]], None)]
)
def test_the_batch_is_what_all_inputs_agree_on(tmp_path, shapes, batch):
    inputs = {f"x{i}": (TensorProto.FLOAT, shape) for i, shape in enumerate(shapes)}
    nodes = [helper.make_node("Identity", ["x0"], ["y"])]
    proto = models.make_model(nodes, inputs, {"y": (TensorProto.FLOAT, shapes[0])})
    assert Model.open(models.saved(proto, tmp_path / "m.onnx")).batch == batch


def test_initializers_are_no_inputs(tmp_path):
    proto = models.mlp()
    proto.graph.input.append(helper.make_tensor_value_info("w1", TensorProto.FLOAT, [128, 64]))
    assert [spec.name for spec in Model.open(models.saved(proto, tmp_path / "m.onnx")).inputs] == ["x"]


def test_external_data_belong_to_the_model(tmp_path):
    path = models.saved(models.mlp(), tmp_path / "m.onnx", external=True)
    data = tmp_path / "m.onnx.data"
    before = Model.open(path)
    assert external_files(read_proto(path), path) == [data]
    assert before.bytes == path.stat().st_size + data.stat().st_size
    changed = bytearray(data.read_bytes())
    changed[0] ^= 1
    data.write_bytes(changed)
    assert Model.open(path).sha256 != before.sha256


# Bad files


@settings(max_examples=150)
@given(length=st.integers(0, len(MLP) - 1) | st.integers(len(MLP) - 300, len(MLP) - 1))
def test_a_truncated_file_is_refused_wherever_it_was_cut(folder, length):
    path = folder / "cut.onnx"
    path.write_bytes(MLP[:length])
    with pytest.raises(ModelError, match=r"cut\.onnx: not (an ONNX file|a valid ONNX model)"):
        Model.open(path)


@settings(max_examples=150)
@given(content=st.binary(max_size=200) | st.text(max_size=50).map(str.encode))
def test_what_is_not_onnx_is_refused(folder, content):
    path = folder / "other.onnx"
    path.write_bytes(content)
    with pytest.raises(ModelError, match=r"other\.onnx: not an ONNX file"):
        Model.open(path)


def test_a_missing_file_is_named(tmp_path):
    for path, problem in (
        (tmp_path / "none.onnx", "no such model file"),
        (tmp_path, "is a folder, not a regular file"),
    ):
        with pytest.raises(ModelError, match=f"{path}: {problem}"):
            Model.open(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda proto: proto.graph.output[0].ClearField("type"), "not a valid ONNX model: Field 'type'"),
        (lambda proto: proto.graph.node[0].ClearField("op_type"), "not a valid ONNX model"),
        (lambda proto: proto.graph.node[1].input.__setitem__(0, "nowhere"), "not a valid ONNX model"),
        (lambda proto: setattr(proto, "ir_version", 99), "not a valid ONNX model: .*99"),
        (lambda proto: proto.ClearField("opset_import"), "not a valid ONNX model: .*opset"),
        (lambda proto: setattr(proto.graph.input[0].type.tensor_type, "elem_type", 0), "'x' has no known element type"),
        (
            lambda proto: setattr(proto.graph.input[0].type.tensor_type, "elem_type", 99),
            "'x' has no known element type",
        ),
        (
            lambda proto: proto.graph.input[0].CopyFrom(
                helper.make_tensor_sequence_value_info("x", TensorProto.FLOAT, ["N", 64])
            ),
            "'x' is not a tensor; sequences",
        ),
    ],
)
def test_a_damaged_graph_is_refused(tmp_path, change, message):
    proto = models.mlp()
    change(proto)
    path = tmp_path / "bad.onnx"
    path.write_bytes(proto.SerializeToString())
    with pytest.raises(ModelError, match=rf"bad\.onnx: .*{message}"):
        Model.open(path)


# External data outside the folder


@pytest.mark.parametrize("location", ["../secret", "sub/../../secret", "/etc/hostname", "ABSOLUTE", "link", "sub/link"])
def test_external_data_outside_the_folder_are_refused(tmp_path, beside, location):
    secret = tmp_path / "secret"
    secret.write_bytes(bytes(10**5))
    (tmp_path / "home" / "sub").mkdir()
    (tmp_path / "home" / "link").symlink_to(secret)
    (tmp_path / "home" / "sub" / "link").symlink_to("../../secret")
    path = beside(location=location.replace("ABSOLUTE", str(secret)))
    with pytest.raises(ModelError, match="outside the model's folder; refused") as refused:
        Model.open(path)
    assert "tensor 'w1' refers to" in str(refused.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"location": "gone.data"}, "refers to 'gone.data', which is missing"),
        ({"location": ""}, "refers to '', which is missing"),
        ({"offset": "1000000"}, "which is truncated"),
        ({"length": "9" * 30}, "which is truncated"),
        ({"offset": "-4"}, "which is truncated"),
    ],
)
def test_external_data_that_are_not_there_are_refused(beside, changes, message):
    with pytest.raises(ModelError, match=message):
        Model.open(beside(**changes))


def test_truncated_external_data_are_refused(tmp_path):
    path = models.saved(models.mlp(), tmp_path / "m.onnx", external=True)
    data = tmp_path / "m.onnx.data"
    data.write_bytes(data.read_bytes()[:-1])
    with pytest.raises(ModelError, match=r"refers to 'm\.onnx\.data', which is truncated"):
        Model.open(path)


def leak():
    tensor = TensorProto(name="leak", data_type=TensorProto.FLOAT, dims=[4], data_location=TensorProto.EXTERNAL)
    tensor.external_data.add(key="location", value="/etc/passwd")
    return helper.make_node("Constant", [], ["k"], value=tensor)


def in_a_branch():
    branch = helper.make_graph([leak()], "branch", [], [helper.make_tensor_value_info("k", TensorProto.FLOAT, [4])])
    node = helper.make_node("If", ["c"], ["y"], then_branch=branch, else_branch=branch)
    return models.make_model([node], {"c": (TensorProto.BOOL, [])}, {"y": (TensorProto.FLOAT, [4])})


def in_a_function():
    body = [leak(), helper.make_node("Add", ["a", "k"], ["b"])]
    opset = [helper.make_opsetid("", models.OPSET)]
    proto = models.make_model(
        [helper.make_node("Leak", ["x"], ["y"], domain="f")], {"x": (1, ["N", 4])}, {"y": (1, ["N", 4])}
    )
    proto.functions.append(helper.make_function("f", "Leak", ["a"], ["b"], body, opset))
    return proto


@pytest.mark.parametrize("hidden", [in_a_branch, in_a_function])
def test_external_data_are_found_wherever_they_hide(tmp_path, hidden):
    path = tmp_path / "m.onnx"
    path.write_bytes(hidden().SerializeToString())
    with pytest.raises(ModelError, match="tensor 'leak' refers to '/etc/passwd', outside"):
        Model.open(path)


# Normalizing


def normalized(proto, folder: Path, shapes=None, **more):
    source = models.saved(proto, folder / "source.onnx")
    normalize(source, folder / "target.onnx", shapes=shapes or {}, **more)
    return onnx.load(folder / "target.onnx")


def test_constants_become_initializers(tmp_path):
    proto = models.mlp()
    weight = proto.graph.initializer.pop(0)
    proto.graph.node.insert(0, helper.make_node("Constant", [], [weight.name], value=weight))
    made = normalized(proto, tmp_path)
    assert [node.op_type for node in made.graph.node] == ["Gemm", "Relu", "MatMul", "Add"]
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in made.graph.initializer}
    np.testing.assert_array_equal(stored[weight.name], numpy_helper.to_array(weight))


def test_every_node_has_a_name_of_its_own(tmp_path):
    proto = models.small_cnn()
    for node in proto.graph.node[:3]:
        node.name = "same"
    names = [node.name for node in normalized(proto, tmp_path).graph.node]
    assert all(names)
    assert len(set(names)) == len(names)


@pytest.mark.parametrize(
    ("opset", "ir_version", "pinned"), [(24, 13, MAX_OPSET), (17, 8, 17), (12, 7, 13), (21, 10, 21)]
)
def test_opset_and_ir_version_are_pinned(tmp_path, opset, ir_version, pinned):
    proto = models.mlp()
    proto.opset_import[0].version, proto.ir_version = opset, ir_version
    made = normalized(proto, tmp_path)
    assert made.opset_import[0].version == pinned
    assert made.ir_version == min(ir_version, MAX_IR_VERSION)
    feeds = models.feeds(models.mlp())
    np.testing.assert_allclose(
        outputs(tmp_path / "target.onnx", feeds)[0],
        outputs(models.mlp().SerializeToString(), feeds)[0],
        rtol=1e-5,
        atol=1e-6,
    )


def test_what_is_measured_as_it_stands_keeps_its_opset(tmp_path):
    proto = models.mlp()
    proto.opset_import[0].version, proto.ir_version = 24, 13
    made = normalized(proto, tmp_path, pin=False)
    assert (made.opset_import[0].version, made.ir_version) == (24, 13)


def test_an_opset_that_cannot_be_converted_is_named(tmp_path):
    proto = models.mlp()
    proto.opset_import[0].version = 999
    with pytest.raises(ModelError, match=r"opset 999 cannot be converted to 21, .*; export the model with opset 21"):
        normalized(proto, tmp_path)


def test_dimensions_are_fixed_to_the_data(tmp_path):
    made = normalized(models.two_inputs(), tmp_path, {"ids": (7,), "mask": (7,)})
    shapes = [
        [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim] for value in made.graph.input
    ]
    assert shapes == [["N", 7], ["N", 7]]
    feeds = {"ids": np.ones((2, 7), np.int64), "mask": np.ones((2, 7), np.float32)}
    expected = outputs(models.two_inputs().SerializeToString(), feeds)
    np.testing.assert_array_equal(outputs(tmp_path / "target.onnx", feeds), expected)


@pytest.mark.parametrize("free", ["?", -1])
def test_unknown_sizes_without_a_name_are_independent(tmp_path, free):
    """Paddle's exporters write them all alike."""
    proto = models.make_model(
        [helper.make_node("Relu", ["x"], ["y"], "relu")],
        {"x": (1, [free, 3, free, free])},
        {"y": (1, [free, 3, free, free])},
    )
    assert Model.open(models.saved(proto, tmp_path / "model.onnx")).inputs[0].shape == (None, 3, None, None)
    made = normalized(proto, tmp_path, {"x": (3, 48, 320)})
    dims = made.graph.input[0].type.tensor_type.shape.dim
    assert [dim.dim_value for dim in dims[1:]] == [3, 48, 320]
    assert not dims[0].HasField("dim_value")
    x = np.zeros((2, 3, 48, 320), np.float32)
    session = ort.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])
    assert session.run(None, {"x": x})[0].shape == x.shape


def test_the_graph_tells_on_which_axis_its_batch_is(tmp_path):
    inferred = Model.open(models.saved(models.carried_state(), tmp_path / "symbols.onnx"))
    assert inferred.batch_axes == {"state": 1, "rate": None, "next": 1}
    assert inferred.batch is None
    assert [spec.shape for spec in inferred.sample_inputs] == [(None, 64), (None, 2, 16), (None,)]
    fixed = models.saved(models.carried_state(batch=3), tmp_path / "fixed.onnx")
    assert Model.open(fixed).batch_axes == {"rate": None}
    assert Model.open(fixed, {"state": 1}).batch == 3
    for axes, message in (({"state": 3}, "has 3 dimensions"), ({"next": "none"}, "an output needs a batch axis")):
        with pytest.raises(ModelError, match=message):
            Model.open(fixed, axes)


def test_outputs_follow_the_inputs(tmp_path):
    proto = models.make_model(
        [helper.make_node("Relu", ["x"], ["y"])], {"x": (1, ["N", "T", 4])}, {"y": (1, ["N", "T", 4])}
    )
    made = normalized(proto, tmp_path, {"x": (5, 4)})
    dims = made.graph.output[0].type.tensor_type.shape.dim
    assert [dim.dim_param or dim.dim_value for dim in dims] == ["N", 5, 4]


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ({}, r"input 'ids' has a dynamic dimension 1 without a size; give data, or --shape ids="),
        ({"ids": (7,)}, "input 'mask' has a dynamic dimension 1"),
        ({"ids": (7,), "mask": (8,)}, "dimension 'S' is 7 in one input and 8 in 'mask'"),
    ],
)
def test_dynamic_dimensions_need_a_size(tmp_path, shapes, message):
    with pytest.raises(ModelError, match=message) as refused:
        normalized(models.two_inputs(), tmp_path, shapes)
    assert isinstance(refused.value, InputError)
    assert not (tmp_path / "target.onnx").exists()


def test_dynamic_dimensions_are_told_before_any_work(tmp_path):
    model = Model.open(models.saved(models.two_inputs(), tmp_path / "m.onnx"))
    model.require_sizes({"ids": (7,), "mask": (7,)})
    with pytest.raises(ModelError, match="input 'mask' has a dynamic dimension 1 without a size"):
        model.require_sizes({"ids": (7,), "mask": ()})


def test_weights_beside_the_model_come_along(tmp_path):
    source = models.saved(models.mlp(), tmp_path / "source.onnx", external=True)
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "target.onnx"
    normalize(source, target, shapes={})
    feeds = models.feeds(models.mlp())
    np.testing.assert_array_equal(outputs(target, feeds), outputs(models.mlp().SerializeToString(), feeds))
