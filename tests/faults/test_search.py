from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest
from models import make_model, mlp
from onnx import helper

from hwbench.faults import bits
from hwbench.faults.search import most_changing, sign_flips
from hwbench.faults.space import FaultSpace
from hwbench.worker.perturb import stored_initializers


def only(array, nodes=(), **others):
    return "w", list(nodes), {"w": array, **others}


def change(array, element, bit):
    with np.errstate(all="ignore"):
        new = bits.flip(array, [element], [bit]).astype(np.float64).ravel()[element]
        return abs(new - float(array.ravel()[element]))


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_every_second_candidate_is_of_the_bit_that_changes_a_number_most_and_all_stay_finite(dtype):
    w = np.random.default_rng(0).normal(0, 0.3, (40, 20)).astype(dtype)
    w[0, 0] = 1.5  # with its highest exponent bit it is no number
    places = most_changing(*only(w), 16, seed=3)
    width = bits.width(w.dtype)
    assert len(set(places)) == 16
    assert [bit for _, bit in places[::2]] == [width - 2] * 8
    assert all(0 < change(w, *place) < np.inf for place in places)
    assert {bit for _, bit in places} > {width - 2}
    changes = np.array([change(w, element, width - 2) for element in range(w.size)])
    assert change(w, *places[0]) == changes[np.isfinite(changes)].max()
    assert not np.isfinite(changes[0])
    assert most_changing(*only(w), 16, seed=3) == places != most_changing(*only(w), 16, seed=4)


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, np.int32, ml_dtypes.int4])
def test_of_an_integer_only_the_highest_bit_is_tried_the_largest_numbers_and_random_ones(dtype):
    w = np.random.default_rng(0).integers(0, 8, 300).astype(dtype)
    w[123] = 7
    w[:100] = 0
    places = most_changing(*only(w), 40, seed=0)
    assert {bit for _, bit in places} == {bits.width(w.dtype) - 1}
    largest = np.flatnonzero(w.astype(int) == 7)[:5].tolist()
    assert [element for element, _ in places if element in largest] == largest
    assert any(element < 100 for element, _ in places)


def test_a_step_of_an_integer_counts_as_much_as_its_scale():
    w, scales = np.full((3, 4), 5, np.int8), np.array([0.1, -3.0, 0.2], np.float32)
    node = helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=0)
    assert most_changing(*only(w, [node], s=scales), 1, seed=0) == [(4, 7)]
    blocked = helper.make_node("DequantizeLinear", ["w", "s"], ["y"], axis=1, block_size=2)
    scales = np.array([[1, 1], [1, 1], [1, 2]], np.float32)
    assert most_changing(*only(w, [blocked], s=scales), 1, seed=0) == [(10, 7)]


def test_fewer_candidates_where_there_are_no_more():
    assert most_changing(*only(np.array([3, 4], np.int8)), 9, seed=0) == [(1, 7), (0, 7)]
    assert most_changing(*only(np.array([np.nan, np.inf], np.float32)), 9, seed=0) == []
    assert {bit for _, bit in most_changing(*only(np.array(0.25, np.float32)), 20, seed=0)} == set(range(23, 32))


def test_signs_of_the_largest_weights_of_the_first_layers_in_turns():
    model = mlp()
    stored = stored_initializers(model)
    space, nodes = FaultSpace.of(model, stored), list(model.graph.node)
    first, second = (np.argsort(-np.abs(stored[name]).ravel()) for name in ("w1", "w2"))
    flips = sign_flips(space, nodes, stored, layers=2, count=5)
    assert flips == [("w1", first[0], 31), ("w2", second[0], 31), ("w1", first[1], 31), ("w2", second[1], 31),
                     ("w1", first[2], 31)]  # fmt: skip
    assert {name for name, _, _ in sign_flips(space, nodes, stored, layers=1, count=5)} == {"w1"}
    assert len(sign_flips(space, nodes, stored, layers=1, count=10**6)) == stored["w1"].size


def test_unsigned_weights_are_as_large_as_they_are_far_from_their_zero_point():
    nodes = [
        helper.make_node("DequantizeLinear", ["w", "s", "z"], ["d"], axis=1),
        helper.make_node("MatMul", ["x", "d"], ["y"], "matmul"),
    ]
    w = np.array([[128, 0], [255, 250]], np.uint8)
    stored = {"w": w, "s": np.array([1.0, 2.0], np.float32), "z": np.array([128, 0], np.uint8)}
    model = make_model(nodes, {"x": (1, ["N", 2])}, {"y": (1, ["N", 2])}, stored)
    flips = sign_flips(FaultSpace.of(model, stored), nodes, stored, layers=1, count=4)
    assert flips == [("w", 3, 7), ("w", 2, 7), ("w", 0, 7), ("w", 1, 7)]
