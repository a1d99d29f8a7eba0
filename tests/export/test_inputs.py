"""`--input` is read as documented, and the random values drawn for it are valid for every model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.errors import InputError
from hwbench.export.inputs import DTYPES, InputShape, named, parse_input, random_inputs


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("1x3x32x32", InputShape("", (1, 3, 32, 32), "float32")),
        ("ids=1x16:int64", InputShape("ids", (1, 16), "int64")),
        (" 8:bool ", InputShape("", (8,), "bool")),
    ],
)
def test_forms(text, spec):
    assert parse_input(text) == spec


@given(
    st.builds(
        InputShape,
        st.from_regex(r"[A-Za-z_][A-Za-z0-9_.]*", fullmatch=True) | st.just(""),
        st.lists(st.integers(1, 4096), min_size=1, max_size=5).map(tuple),
        st.sampled_from(DTYPES),
    )
)
def test_what_is_printed_reads_back(spec):
    assert parse_input(str(spec)) == spec


@pytest.mark.parametrize(
    "text", ["", "3,32,32", "1x", "x3", "=1x3", "1x3:", "1 x 3", "-1x3", "a=b=1x3", "1x3:float32:int8"]
)
def test_another_form_is_refused_with_an_example(text):
    with pytest.raises(InputError, match="ids=1x16:int64"):
        parse_input(text)


def test_a_zero_dimension_is_refused():
    with pytest.raises(InputError, match="at least 1"):
        parse_input("1x0x3")


def test_an_unknown_dtype_is_refused_with_the_known_ones():
    with pytest.raises(InputError, match=r"'complex64' is not one of float32, .*bool"):
        parse_input("1x3:complex64")


def test_nameless_inputs_get_names():
    one, two = InputShape("", (1, 2)), InputShape("mask", (1, 2))
    assert [spec.name for spec in named([one])] == ["input"]
    assert [spec.name for spec in named([one, two, one])] == ["input_0", "mask", "input_2"]


def test_no_input_and_equal_names_are_refused():
    with pytest.raises(InputError, match="--input 1x3x32x32"):
        named([])
    with pytest.raises(InputError, match="two inputs are called 'a'"):
        named([InputShape("a", (1,)), InputShape("a", (2,))])


@pytest.mark.parametrize("dtype", DTYPES)
def test_random_values_have_the_dtype_and_the_batch_asked(dtype):
    [value] = random_inputs([InputShape("x", (1, 4, 5), dtype)], batch=3, seed=1).values()
    assert (value.dtype, value.shape) == (np.dtype(dtype), (3, 4, 5))
    if value.dtype.kind != "f":
        assert set(np.unique(value).tolist()) == {0, 1}


def test_the_seed_decides_the_values():
    specs = [InputShape("x", (1, 4))]
    first, same, other = (random_inputs(specs, 2, seed)["x"] for seed in (5, 5, 6))
    assert (first == same).all()
    assert (first != other).any()
