from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import branches, make_model, numberless, small_cnn, trees
from onnx import TensorProto, helper, numpy_helper

from hwbench.errors import InputError
from hwbench.faults.fault import Fault
from hwbench.patching import InitializerPatcher
from hwbench.stored import COMPLEX, SPARSE, TEXT, Inventory, reads

Array = np.ndarray[Any, np.dtype[Any]]


def values(model: onnx.ModelProto) -> dict[str, Array]:
    return {place.name: place.read(model) for place in Inventory.of(model).places}


def constants() -> onnx.ModelProto:
    """Every form in which a node holds a number, and a function."""
    inside = helper.make_node("Constant", [], ["two"], "two", value_float=2.0)
    given = helper.make_node("Constant", [], ["given"], "given")
    given.attribute.append(
        onnx.AttributeProto(name="value_float", ref_attr_name="factor", type=onnx.AttributeProto.FLOAT)
    )
    scale = helper.make_node("Sum", ["a", "two", "given"], ["b"], "scale")
    opsets = [helper.make_opsetid("", 21)]
    function = helper.make_function("local", "scaled", ["a"], ["b"], [inside, given, scale], opsets, ["factor"])
    nodes = [
        helper.make_node("Constant", [], ["floats"], value_floats=[1.25, -0.0]),
        helper.make_node("Constant", [], ["ints"], value_ints=[-1, 2**40]),
        helper.make_node("Constant", [], ["int"], value_int=7),
        helper.make_node("Constant", [], ["tensor"], value=numpy_helper.from_array(np.ones((2, 3), np.float16))),
        helper.make_node(
            "ConstantOfShape", ["ints"], ["filled"], value=numpy_helper.from_array(np.array([3], np.int8))
        ),
        helper.make_node(
            "Scaler", ["x"], ["scaled"], "scaler", domain="ai.onnx.ml", offset=[1.0, 2.0], scale=[3.0, 4.0]
        ),
        helper.make_node("scaled", ["scaled"], ["y"], "call", domain="local"),
    ]
    model = make_model(nodes, {"x": (1, ["N", 2])}, {"y": (1, ["N", 2])})
    model.functions.append(function)
    return model


def test_numbers_are_found_in_every_form():
    found = values(constants())
    assert {name: (array.dtype.name, array.tolist()) for name, array in found.items()} == {
        "@attribute/floats/value_floats": ("float32", [1.25, -0.0]),
        "@attribute/ints/value_ints": ("int64", [-1, 2**40]),
        "@attribute/int/value_int": ("int64", 7),
        "@attribute/tensor/value": ("float16", [[1.0] * 3] * 2),
        "@attribute/filled/value": ("int8", [3]),
        "@attribute/scaler/offset": ("float32", [1.0, 2.0]),
        "@attribute/scaler/scale": ("float32", [3.0, 4.0]),
        "@function/scaled/@attribute/two/value_float": ("float32", 2.0),
    }


def test_settings_of_operators_are_no_stored_numbers():
    assert list(values(small_cnn())) == ["w1", "b1", "w2", "w3"]  # no pads


def test_branches_and_bodies_are_named_by_the_way_to_them():
    inner = "@graph/outer_if/else_branch/@graph/inner_if"
    assert list(values(branches())) == [
        *("limit", "floor", "w"),
        f"{inner}/else_branch/@attribute/shift/value",
        f"{inner}/then_branch/v",
        "@graph/outer_if/then_branch/v",
        "@graph/loop/body/v",
    ]


def test_what_cannot_have_faults_is_counted():
    model = trees(n_trees=2)
    model.graph.initializer.append(helper.make_tensor("words", TensorProto.STRING, [2, 2], [b"a", b"b", b"c", b"d"]))
    model.graph.initializer.append(numpy_helper.from_array(np.ones(3, np.complex64), "waves"))
    sparse = helper.make_sparse_tensor(
        helper.make_tensor("few", 1, [2], [1.0, 2.0]), helper.make_tensor("at", 7, [2], [0, 5]), [9]
    )
    model.graph.sparse_initializer.append(sparse)
    inventory = Inventory.of(model)
    assert inventory.left_out == {TEXT: 4 + 14, COMPLEX: 3, SPARSE: 2}
    assert all(place.name.startswith("@attribute/forest/") for place in inventory.places)
    assert Inventory.of(numberless()) == Inventory((), {})


def test_equal_names_are_told_apart():
    """Names of nodes need not be unique, and an initializer may be called like an attribute."""
    nodes = [helper.make_node("Constant", [], [name], "same", value_int=at) for at, name in enumerate("ab")]
    model = make_model(nodes, {}, {"a": (7, []), "b": (7, [])}, {"@attribute/same/value_int": np.int64(2)})
    assert {name: int(array) for name, array in values(model).items()} == {
        "@attribute/same/value_int": 2,
        "@attribute/same/value_int#2": 0,
        "@attribute/same/value_int#3": 1,
    }


def test_a_node_reads_what_its_branches_take_from_around_them():
    nodes = {node.name: node for node in branches().graph.node}
    assert sorted(reads(nodes["outer_if"])) == ["is_high", "is_low", "x"]
    assert reads(nodes["loop"]) == ["trips", "", "chosen"]
    assert reads(nodes["classifier"]) == ["looped", "w"]


@pytest.mark.parametrize("make", [trees, branches, constants, small_cnn])
@given(data=st.data())
@settings(max_examples=10)
def test_the_same_fault_twice_gives_the_file_back_byte_for_byte(
    make: Callable[[], onnx.ModelProto], data: st.DataObject
):
    model = make()
    patcher, places = InitializerPatcher(model.SerializeToString(), list(values(model))), values(model)
    for _ in range(3):
        name = data.draw(st.sampled_from(sorted(places)))
        per = 8 * places[name].itemsize
        at = data.draw(st.integers(0, places[name].size - 1)), data.draw(st.integers(0, per - 1))
        fault = Fault(name, *at)
        faulty = fault.apply(places[name])
        made = onnx.load_model_from_string(patcher.patched({name: faulty}))
        assert made.SerializeToString(deterministic=True) != model.SerializeToString(deterministic=True)
        now = values(made)
        assert {other: array.tobytes() for other, array in now.items()} == {
            other: (faulty if other == name else array).tobytes() for other, array in places.items()
        }
        twice = patcher.patched({name: fault.apply(now[name])})
        assert onnx.load_model_from_string(twice).SerializeToString(deterministic=True) == model.SerializeToString(
            deterministic=True
        )


def test_a_signaling_nan_keeps_its_bits():
    """Python's floats are double, and turning one into the other makes such a NaN quiet."""
    name = "@attribute/floats/value_floats"
    faulty = Fault(name, 0, 30).apply(values(constants())[name])
    assert faulty.view(np.uint32)[0] == 0x7FA00000
    patched = InitializerPatcher(constants().SerializeToString(), [name]).patched({name: faulty})
    assert values(onnx.load_model_from_string(patched))[name].view(np.uint32)[0] == 0x7FA00000


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("@attribute/scaler/scale", np.ones(3, np.float32), "keeps its dtype and shape; float32 \\(3,\\)"),
        ("@attribute/scaler/scale", np.ones(2), "keeps its dtype and shape; float64"),
        ("@attribute/scaler/nothing", np.ones(2), "the model has no initializer"),
    ],
)
def test_what_does_not_fit_is_refused_and_changes_nothing(name, value, message):
    model = constants()
    patcher = InitializerPatcher(model.SerializeToString(), list(values(model)))
    with pytest.raises(InputError, match=message):
        patcher.patched({name: value})
    again = onnx.load_model_from_string(patcher.patched({}))
    assert again.SerializeToString(deterministic=True) == model.SerializeToString(deterministic=True)
