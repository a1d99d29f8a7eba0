from __future__ import annotations

import ml_dtypes
import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import helper, numpy_helper

from hwbench.errors import InputError
from hwbench.faults import bits
from hwbench.faults.fault import KINDS, Fault, in_channel

DTYPES = [
    "float32",
    "float16",
    "bfloat16",
    "float64",
    "int8",
    "uint8",
    "int16",
    "int32",
    "int64",
    "int4",
    "uint4",
    "bool",
]
SHAPES = [(), (1,), (7,), (3, 4), (2, 1, 5), (2, 3, 2, 2)]


def random_bits(dtype: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """An array of random stored bits, NaN and negative zeros among the floats."""
    kind, rng = np.dtype(getattr(ml_dtypes, dtype, dtype)), np.random.default_rng(seed)
    if bits.width(kind) < 8:
        return rng.integers(0, 2 ** bits.width(kind), shape).astype(np.uint8).astype(kind)
    return np.frombuffer(rng.bytes(int(np.prod(shape)) * kind.itemsize), kind).reshape(shape).copy()


@st.composite
def faults(draw, kinds=KINDS):
    """A random array and a fault in it."""
    array = random_bits(draw(st.sampled_from(DTYPES)), draw(st.sampled_from(SHAPES)), draw(st.integers(0, 99)))
    width = bits.width(array.dtype)
    return array, Fault(
        "t",
        draw(st.integers(0, array.size - 1)),
        draw(st.integers(0, width - 1)),
        draw(st.sampled_from(kinds)),
        draw(st.integers(1, 3 * width)),
        draw(st.integers(0, 2**width - 1)),
    )


def raw_bits(array: np.ndarray) -> str:
    """The bits of a tensor in the order of memory, as an ONNX file stores them: int4 two a byte, no gap between elements."""
    tensor = numpy_helper.from_array(array.reshape(-1), "t")
    whole = "".join(f"{byte:08b}"[::-1] for byte in tensor.raw_data)
    if array.dtype == np.bool_:
        return whole[::8]  # the other seven bits of its byte mean nothing
    return whole[: array.size * bits.width(array.dtype)]


def flipped(text: str, places: range) -> str:
    return "".join(str(1 - int(bit)) if at in places else bit for at, bit in enumerate(text))


@given(faults(kinds=("flip", "burst")))
def test_what_is_flipped_twice_is_as_it_was(case):
    array, fault = case
    once = fault.apply(array)
    assert raw_bits(once) != raw_bits(array)
    assert raw_bits(fault.apply(once)) == raw_bits(array)


@given(faults(kinds=("stuck_at_0", "stuck_at_1", "random_value")))
def test_what_is_stuck_stays(case):
    array, fault = case
    once = fault.apply(array)
    assert raw_bits(fault.apply(once)) == raw_bits(once)


@given(faults())
def test_a_fault_changes_exactly_its_bits_of_what_the_file_stores(case):
    array, fault = case
    before, after = raw_bits(array), raw_bits(fault.apply(array))
    width = bits.width(array.dtype)
    first = fault.element * width + fault.bit
    start = fault.element * width
    wanted = {
        "flip": flipped(before, range(first, first + 1)),
        "burst": flipped(before, range(first, first + fault.width)),
        "stuck_at_0": before[:first] + "0" + before[first + 1 :],
        "stuck_at_1": before[:first] + "1" + before[first + 1 :],
        "random_value": before[:start] + f"{fault.value:0{width}b}"[::-1] + before[start + width :],
    }
    assert after == wanted[fault.kind]


@given(faults())
def test_the_tensor_itself_and_its_type_stay_as_they_are(case):
    array, fault = case
    before = array.tobytes()
    changed = fault.apply(array)
    assert (changed.dtype, changed.shape) == (array.dtype, array.shape)
    assert array.tobytes() == before


@pytest.mark.parametrize(
    ("dtype", "bit", "width", "wanted"),
    [
        ("uint8", 6, 4, [0b1100_0000, 0b0000_0011, 0]),
        ("uint4", 3, 6, [0b1000, 0b1111, 0b0001]),
        ("uint8", 7, 100, [0b1000_0000, 0xFF, 0xFF]),  # it ends with the tensor
        ("uint16", 15, 2, [0x8000, 0x0001, 0]),
    ],
)
def test_a_burst_goes_on_in_the_next_element(dtype, bit, width, wanted):
    zeros = np.zeros(3, getattr(ml_dtypes, dtype, dtype))
    assert Fault("t", 0, bit, "burst", width).apply(zeros).astype(int).tolist() == wanted


def test_a_burst_over_packed_int4_flips_neighbours_in_the_files_bytes():
    stored = helper.make_tensor("t", onnx.TensorProto.INT4, [4], [1, -2, 3, -4])
    array = numpy_helper.to_array(stored)
    faulty = numpy_helper.from_array(Fault("t", 1, 2, "burst", 5).apply(array), "t")
    before = int.from_bytes(numpy_helper.from_array(array, "t").raw_data, "little")
    assert int.from_bytes(faulty.raw_data, "little") == before ^ (0b11111 << 6)


@pytest.mark.parametrize("kind", ["flip", "stuck_at_1"])
def test_only_a_burst_has_a_width(kind):
    assert Fault("t", 0, 1, kind, 5).apply(np.zeros(2, np.uint8)).tolist() == [2, 0]


@pytest.mark.parametrize(("element", "bit"), [(3, 0), (-1, 0), (0, 8), (0, -1)])
def test_places_that_are_not_there_are_refused(element, bit):
    with pytest.raises(InputError, match=r"3 elements"):
        Fault("t", element, bit).apply(np.zeros(3, np.int8))


@given(faults(), st.data())
def test_a_channel_is_what_slicing_the_whole_faulty_tensor_gives(case, data):
    array, fault = case
    if array.ndim == 0:
        return
    axis = data.draw(st.integers(0, array.ndim - 1))
    touched = {int(np.unravel_index(element, array.shape)[axis]) for element in fault.places(array)[0]}
    found = in_channel(fault, array, axis)
    if found is None:
        assert len(set(fault.places(array)[0])) > 1
        return
    channel, value = found
    assert touched == {channel}
    wanted = np.take(fault.apply(array), channel, axis=axis)
    assert (value.dtype, value.shape, value.tobytes()) == (wanted.dtype, wanted.shape, wanted.tobytes())


def test_a_burst_over_two_channels_is_in_none():
    array = np.zeros((2, 2), np.uint8)
    assert in_channel(Fault("t", 1, 7, "burst", 2), array, axis=0) is None
    assert in_channel(Fault("t", 1, 7, "burst", 1), array, axis=0) is not None


@given(faults(), st.integers(1, 4))
def test_in_rows_a_fault_is_in_every_row_as_if_that_were_alone(made, n):
    array, fault = made
    rows = np.stack([array, *(random_bits(array.dtype.name, array.shape, 200 + at) for at in range(n - 1))])
    before = rows.copy()
    changed, faulty = fault.in_rows(rows)
    np.testing.assert_array_equal(bits.patterns(rows), bits.patterns(before))
    for at, row in enumerate(rows):
        wanted = bits.patterns(fault.apply(row))
        if at in changed:
            np.testing.assert_array_equal(bits.patterns(faulty[changed.tolist().index(at)]), wanted)
        assert (at in changed) == bool((wanted != bits.patterns(row)).any())


@pytest.mark.parametrize(("element", "bit"), [(6, 0), (-1, 0), (0, 8), (0, -1)])
def test_a_fault_outside_of_a_row_is_refused(element, bit):
    with pytest.raises(InputError, match="is not among them"):
        Fault("t", element, bit).in_rows(np.zeros((4, 2, 3), np.int8))
