"""Models that no runtime should be given, each wrong in one way: name to bytes of the file, with what lies beside it."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np
import onnx
from models import make_model, mlp, small_cnn
from onnx import TensorProto, helper, numpy_helper

FLOAT = TensorProto.FLOAT
Wide = dict[str, tuple[int, list[int | str]]]
X: Wide = {"x": (FLOAT, ["N", 1, 8, 8])}
Y: Wide = {"y": (FLOAT, ["N", 1, 8, 8])}
HOSTILE: dict[str, Callable[[], bytes]] = {}


def hostile(make: Callable[[], onnx.ModelProto | bytes]) -> Callable[[], bytes]:
    """Register a model under its function's name."""

    def content() -> bytes:
        made = make()
        return made if isinstance(made, bytes) else made.SerializeToString()

    HOSTILE[make.__name__] = content
    return content


def relu(**changes: Wide) -> onnx.ModelProto:
    """One operator, ``x`` to ``y``."""
    return make_model([helper.make_node("Relu", ["x"], ["y"], "relu")], changes.get("x", X), changes.get("y", Y))


def with_weight(weight: TensorProto) -> onnx.ModelProto:
    """A sum of ``x`` and one initializer."""
    model = make_model([helper.make_node("Add", ["x", weight.name], ["y"], "add")], X, Y)
    model.graph.initializer.append(weight)
    return model


def renamed(old: bytes, new: bytes) -> bytes:
    """The small CNN with some bytes of its names replaced."""
    assert len(old) == len(new)
    return small_cnn().SerializeToString().replace(old, new)


@hostile
def empty_file() -> bytes:
    return b""


@hostile
def no_graph() -> onnx.ModelProto:
    return onnx.ModelProto(ir_version=10)


@hostile
def node_name_not_utf8() -> bytes:
    return renamed(b"relu1", b"r\xff\xfeu1")


@hostile
def tensor_name_not_utf8() -> bytes:
    return renamed(b"c1", b"\xc3\x28")


@hostile
def input_name_not_utf8() -> bytes:
    model = small_cnn()
    model.graph.input[0].name = model.graph.node[0].input[0] = "Q?"
    return model.SerializeToString().replace(b"Q?", b"\xff\xff")


@hostile
def no_inputs() -> onnx.ModelProto:
    nodes = [helper.make_node("Identity", ["w"], ["y"], "same")]
    return make_model(nodes, {}, {"y": (FLOAT, [2, 3])}, {"w": np.zeros((2, 3), np.float32)})


@hostile
def batch_of_minus_1() -> onnx.ModelProto:
    return relu(x={"x": (FLOAT, [-1, 1, 8, 8])}, y={"y": (FLOAT, [-1, 1, 8, 8])})


@hostile
def batch_of_minus_2() -> onnx.ModelProto:
    return relu(x={"x": (FLOAT, [-2, 1, 8, 8])}, y={"y": (FLOAT, [-2, 1, 8, 8])})


@hostile
def batch_of_0() -> onnx.ModelProto:
    return relu(x={"x": (FLOAT, [0, 1, 8, 8])}, y={"y": (FLOAT, [0, 1, 8, 8])})


@hostile
def batch_beyond_memory() -> onnx.ModelProto:
    return relu(x={"x": (FLOAT, [2**62, 1, 8, 8])}, y={"y": (FLOAT, [2**62, 1, 8, 8])})


@hostile
def negative_dimension() -> onnx.ModelProto:
    return relu(x={"x": (FLOAT, ["N", 1, -8, 8])})


@hostile
def scalar_output() -> onnx.ModelProto:
    nodes = [helper.make_node("ReduceSum", ["x"], ["y"], "sum", keepdims=0)]
    return make_model(nodes, X, {"y": (FLOAT, [])})


@hostile
def bfloat16_output() -> onnx.ModelProto:
    nodes = [helper.make_node("Cast", ["x"], ["y"], "cast", to=TensorProto.BFLOAT16)]
    return make_model(nodes, X, {"y": (TensorProto.BFLOAT16, ["N", 1, 8, 8])})


@hostile
def bfloat16_input() -> onnx.ModelProto:
    nodes = [helper.make_node("Cast", ["x"], ["y"], "cast", to=FLOAT)]
    return make_model(nodes, {"x": (TensorProto.BFLOAT16, ["N", 1, 8, 8])}, Y)


@hostile
def string_output() -> onnx.ModelProto:
    nodes = [helper.make_node("Cast", ["x"], ["y"], "cast", to=TensorProto.STRING)]
    return make_model(nodes, X, {"y": (TensorProto.STRING, ["N", 1, 8, 8])})


@hostile
def float8_output() -> onnx.ModelProto:
    nodes = [helper.make_node("Cast", ["x"], ["y"], "cast", to=TensorProto.FLOAT8E4M3FN)]
    return make_model(nodes, X, {"y": (TensorProto.FLOAT8E4M3FN, ["N", 1, 8, 8])})


@hostile
def complex_output() -> onnx.ModelProto:
    return relu(y={"y": (TensorProto.COMPLEX64, ["N", 1, 8, 8])})


@hostile
def cyclic_graph() -> onnx.ModelProto:
    nodes = [helper.make_node("Add", ["x", "b"], ["a"], "one"), helper.make_node("Relu", ["a"], ["b"], "two")]
    return make_model(nodes, X, {"b": (FLOAT, ["N", 1, 8, 8])})


@hostile
def output_of_nothing() -> onnx.ModelProto:
    return make_model([helper.make_node("Relu", ["x"], ["a"], "relu")], X, Y)


@hostile
def duplicate_tensor_names() -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", ["x"], ["y"], "one"), helper.make_node("Relu", ["x"], ["y"], "two")]
    return make_model(nodes, X, Y)


@hostile
def duplicate_node_names() -> onnx.ModelProto:
    nodes = [helper.make_node("Relu", ["x"], ["a"], "same"), helper.make_node("Relu", ["a"], ["y"], "same")]
    return make_model(nodes, X, Y)


@hostile
def duplicate_inputs() -> onnx.ModelProto:
    model = relu()
    model.graph.input.append(model.graph.input[0])
    return model


@hostile
def duplicate_initializers() -> onnx.ModelProto:
    model = mlp()
    model.graph.initializer.append(model.graph.initializer[0])
    return model


@hostile
def unnamed_input() -> onnx.ModelProto:
    model = relu()
    model.graph.input[0].name = ""
    model.graph.node[0].input[0] = ""
    return model


@hostile
def unknown_operator() -> onnx.ModelProto:
    return make_model([helper.make_node("Strange", ["x"], ["y"], "strange")], X, Y)


@hostile
def unknown_domain() -> onnx.ModelProto:
    return make_model([helper.make_node("Strange", ["x"], ["y"], "strange", domain="a.b")], X, Y)


@hostile
def opset_999() -> onnx.ModelProto:
    model = relu()
    model.opset_import[0].version = 999
    return model


@hostile
def opset_negative() -> onnx.ModelProto:
    model = relu()
    model.opset_import[0].version = -5
    return model


@hostile
def no_opset() -> onnx.ModelProto:
    model = relu()
    del model.opset_import[:]
    return model


@hostile
def ir_99() -> onnx.ModelProto:
    model = relu()
    model.ir_version = 99
    return model


@hostile
def overflowing_initializer() -> onnx.ModelProto:
    return with_weight(TensorProto(name="w", data_type=FLOAT, dims=[2**62, 2**62], raw_data=b"abcd"))


@hostile
def negative_initializer() -> onnx.ModelProto:
    return with_weight(TensorProto(name="w", data_type=FLOAT, dims=[-1, 8], raw_data=bytes(32)))


@hostile
def short_initializer() -> onnx.ModelProto:
    return with_weight(TensorProto(name="w", data_type=FLOAT, dims=[8, 8], raw_data=bytes(30)))


@hostile
def long_initializer() -> onnx.ModelProto:
    return with_weight(TensorProto(name="w", data_type=FLOAT, dims=[8, 8], raw_data=bytes(4000)))


@hostile
def initializer_without_type() -> onnx.ModelProto:
    return with_weight(TensorProto(name="w", dims=[8, 8], raw_data=bytes(256)))


@hostile
def initializer_of_unknown_type() -> onnx.ModelProto:
    return with_weight(TensorProto(name="w", data_type=77, dims=[8, 8], raw_data=bytes(256)))


@hostile
def string_initializer() -> onnx.ModelProto:
    return with_weight(TensorProto(name="w", data_type=TensorProto.STRING, dims=[1], string_data=[b"\xff"]))


@hostile
def sparse_initializer() -> onnx.ModelProto:
    model = make_model([helper.make_node("Add", ["x", "w"], ["y"], "add")], X, Y)
    values = numpy_helper.from_array(np.ones(1, np.float32), "w")
    places = numpy_helper.from_array(np.array([2**40]), "w_places")
    model.graph.sparse_initializer.append(helper.make_sparse_tensor(values, places, [8]))
    return model


@hostile
def recursive_function() -> onnx.ModelProto:
    domain = "mine"
    body = [helper.make_node("Again", ["a"], ["b"], domain=domain)]
    again = helper.make_function(domain, "Again", ["a"], ["b"], body, [helper.make_opsetid(domain, 1)])
    model = make_model([helper.make_node("Again", ["x"], ["y"], "again", domain=domain)], X, Y)
    model.functions.append(again)
    return model


@hostile
def functions_in_a_circle() -> onnx.ModelProto:
    domain = "mine"
    made = [
        helper.make_function(
            domain,
            name,
            ["a"],
            ["b"],
            [helper.make_node(other, ["a"], ["b"], domain=domain)],
            [helper.make_opsetid(domain, 1)],
        )
        for name, other in (("One", "Two"), ("Two", "One"))
    ]
    model = make_model([helper.make_node("One", ["x"], ["y"], "again", domain=domain)], X, Y)
    model.functions.extend(made)
    return model


@hostile
def exponential_functions() -> onnx.ModelProto:
    """Forty functions, each of which calls the next one twice."""
    domain, made = "mine", []
    for number in range(40):
        last = number == 39
        calls = [
            helper.make_node("Relu" if last else f"F{number + 1}", [source], [target], domain="" if last else domain)
            for source, target in (("a", "c"), ("c", "b"))
        ]
        opsets = [helper.make_opsetid("", 21), helper.make_opsetid(domain, 1)]
        made.append(helper.make_function(domain, f"F{number}", ["a"], ["b"], calls, opsets))
    model = make_model([helper.make_node("F0", ["x"], ["y"], "again", domain=domain)], X, Y)
    model.functions.extend(made)
    return model


@hostile
def deep_subgraphs() -> onnx.ModelProto:
    """Conditions within conditions, both branches of which hold all the others: the file doubles at each level."""
    inner = branch(helper.make_node("Relu", ["x"], ["r"]))
    for number in range(9):
        inner = branch(helper.make_node("If", ["c"], [f"o{number}"], then_branch=inner, else_branch=inner))
    nodes = [helper.make_node("If", ["c"], ["y"], "if", then_branch=inner, else_branch=inner)]
    return make_model(nodes, X, Y, {"c": np.array(True)})


def branch(node: onnx.NodeProto) -> onnx.GraphProto:
    """A graph of one node without inputs."""
    return helper.make_graph([node], "g", [], [helper.make_tensor_value_info(node.output[0], FLOAT, None)])


@hostile
def names_with_paths_and_controls() -> onnx.ModelProto:
    nodes = [
        helper.make_node("Add", ["x", "../../w"], ["a\0b"], "\x1b[2J\n"),
        helper.make_node("Relu", ["a\0b"], ["y"], "$(touch x)"),
    ]
    return make_model(nodes, X, Y, {"../../w": np.zeros(8, np.float32)})


@hostile
def long_chain() -> onnx.ModelProto:
    names = ["x", *(f"t{number}" for number in range(3000)), "y"]
    return make_model([helper.make_node("Relu", [a], [b], b) for a, b in pairwise(names)], X, Y)


def external(**entries: str) -> bytes:
    """A model whose weights are said to be elsewhere."""
    weight = TensorProto(name="w", data_type=FLOAT, dims=[8], data_location=TensorProto.EXTERNAL)
    for key, value in entries.items():
        weight.external_data.add(key=key, value=value)
    return with_weight(weight).SerializeToString()


# Location, offset and length of external data; the files are those of `beside`.
EXTERNAL: dict[str, dict[str, str]] = {
    "absolute": {"location": "/etc/passwd"},
    "parent": {"location": "../outside.bin"},
    "hidden_parent": {"location": "folder/../../outside.bin"},
    "link_outside": {"location": "outside_link"},
    "link_loop": {"location": "loop_a"},
    "link_folder": {"location": "folder_link/passwd"},
    "nul": {"location": "w\0.bin"},
    "empty": {"location": ""},
    "folder": {"location": "folder"},
    "itself": {"location": "model.onnx", "length": "32"},
    "fifo": {"location": "fifo"},
    "missing": {"location": "nowhere.bin"},
    "none": {},
    "long": {"location": "a/" * 3000},
    "digits": {"location": "w.bin", "offset": "9" * 5000},
    "negative": {"location": "w.bin", "offset": "-4"},
    "huge": {"location": "w.bin", "offset": str(2**63)},
    "not_a_number": {"location": "w.bin", "offset": "²"},
    "short": {"location": "w.bin", "length": "31"},
    "beyond": {"location": "w.bin", "offset": "8", "length": "32"},
    "not_utf8": {"location": "w.bin", "offset": "4"},
}
