"""A file made portable is single, has a dynamic batch and names nothing of the machine it was made on."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import helper, numpy_helper

from hwbench.errors import InputError, ModelError
from hwbench.export.portable import make_portable

LOCAL_PATH = "/home/someone/project/net.py"


def write(path, *, opset=18, batch="N", external=False, out="y"):
    """A model ``y = x @ w`` through a function, with an unused node, and a path wherever the format has room."""
    weight = numpy_helper.from_array(np.arange(2048, dtype=np.float32).reshape(2, 1024), "w")
    function = helper.make_function(
        "local", "product", ["a", "b"], ["c"], [helper.make_node("MatMul", ["a", "b"], ["c"], doc_string=LOCAL_PATH)],
        [helper.make_opsetid("", opset)],
    )  # fmt: skip
    nodes = [
        helper.make_node("product", ["x", "w"], [out], domain="local", doc_string=LOCAL_PATH),
        helper.make_node("Neg", ["x"], ["unused"]),
    ]
    x = helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [batch, 2], doc_string=LOCAL_PATH)
    y = helper.make_tensor_value_info(out, onnx.TensorProto.FLOAT, [batch, 1024])
    graph = helper.make_graph(nodes, "g", [x], [y], [weight], doc_string=LOCAL_PATH)
    opsets = [helper.make_opsetid("", opset), helper.make_opsetid("local", 1)]
    model = helper.make_model(graph, functions=[function], opset_imports=opsets, doc_string=LOCAL_PATH)
    helper.set_model_props(model, {"source": LOCAL_PATH})
    graph.node[0].metadata_props.add(key="trace", value=LOCAL_PATH)
    onnx.save(model, path, save_as_external_data=external, location="weights.bin", size_threshold=0)


@pytest.mark.parametrize("external", [False, True])
def test_result_is_one_clean_file(tmp_path, external):
    source, out = tmp_path / "raw.onnx", tmp_path / "out" / "final.onnx"
    write(source, external=external)
    assert LOCAL_PATH.encode() in source.read_bytes()
    assert (tmp_path / "weights.bin").exists() == external
    out.parent.mkdir()
    make_portable(source, out)
    assert [path.name for path in out.parent.iterdir()] == ["final.onnx"]
    assert LOCAL_PATH.encode() not in out.read_bytes()
    model = onnx.load(out, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert [node.op_type for node in model.graph.node] == ["MatMul"]
    assert not model.functions
    assert (numpy_helper.to_array(model.graph.initializer[0]) == np.arange(2048).reshape(2, 1024)).all()


def test_the_batch_gets_one_name(tmp_path):
    write(tmp_path / "raw.onnx", batch=None)
    make_portable(tmp_path / "raw.onnx", tmp_path / "final.onnx")
    graph = onnx.load(tmp_path / "final.onnx").graph
    dims = [value.type.tensor_type.shape.dim for value in (*graph.input, *graph.output)]
    assert [(first.dim_param, second.dim_value) for first, second in dims] == [("batch", 2), ("batch", 1024)]


def test_outputs_are_renamed(tmp_path):
    write(tmp_path / "raw.onnx")
    make_portable(tmp_path / "raw.onnx", tmp_path / "final.onnx", ["logits"])
    graph = onnx.load(tmp_path / "final.onnx").graph
    assert [value.name for value in graph.output] == ["logits"] == list(graph.node[-1].output)


def test_a_wrong_number_of_output_names_is_refused(tmp_path):
    write(tmp_path / "raw.onnx")
    with pytest.raises(InputError, match=r"2 output names \(a, b\) for 1 outputs"):
        make_portable(tmp_path / "raw.onnx", tmp_path / "final.onnx", ["a", "b"])


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"batch": 4}, r"input 'x' got the fixed shape \[4,2\]"),
        ({"opset": 22}, "opset 22; the supported runtimes read up to 21"),
        ({"out": "x"}, "invalid graph: .*redeclared"),
    ],
)
def test_what_cannot_travel_is_refused(tmp_path, options, message):
    write(tmp_path / "raw.onnx", **options)
    with pytest.raises(ModelError, match=message):
        make_portable(tmp_path / "raw.onnx", tmp_path / "final.onnx")
    assert not (tmp_path / "final.onnx").exists()
