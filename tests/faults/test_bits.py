import hashlib
from itertools import pairwise

import ml_dtypes
import numpy as np
import onnx
import pytest
from error_bits import uniform_numbers
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from onnx import numpy_helper
from scipy import stats

from hwbench.errors import InputError
from hwbench.faults import bits

WIDTHS = {
    np.dtype(name): width
    for name, width in {
        "float16": 16, "float32": 32, "float64": 64, "int8": 8, "uint8": 8, "int16": 16, "int32": 32, "int64": 64,
        "bool": 1, ml_dtypes.bfloat16: 16, ml_dtypes.int4: 4, ml_dtypes.uint4: 4,
        ml_dtypes.float8_e4m3fn: 8, ml_dtypes.float4_e2m1fn: 4,
    }.items()
}  # fmt: skip


@st.composite
def tensors(draw, dtypes=tuple(WIDTHS)):
    """Arrays of any bit pattern, NaNs included."""
    dtype = draw(st.sampled_from(dtypes))
    shape = draw(hnp.array_shapes(min_dims=0, max_dims=3, max_side=5))
    raw = draw(hnp.arrays(f"u{dtype.itemsize}", shape))
    if 8 * dtype.itemsize == WIDTHS[dtype]:
        return raw.view(dtype)
    return (raw % 2 ** WIDTHS[dtype]).astype(np.uint8).view(dtype)


@st.composite
def tensors_and_faults(draw, dtypes=tuple(WIDTHS)):
    array = draw(tensors(dtypes))
    fault = st.tuples(st.integers(0, array.size - 1), st.integers(0, WIDTHS[array.dtype] - 1))
    faults = draw(st.lists(fault, max_size=20))
    return array, [element for element, _ in faults], [bit for _, bit in faults]


def stored_integer(array):
    """The array's storage as ONNX writes it (little-endian, sub-byte elements packed), as one large integer."""
    return int.from_bytes(numpy_helper.from_array(array).raw_data, "little")


def same_bits(a, b):
    return a.dtype == b.dtype and a.shape == b.shape and np.array_equal(bits.patterns(a), bits.patterns(b))


@pytest.mark.parametrize(("dtype", "width"), WIDTHS.items(), ids=str)
def test_width(dtype, width):
    assert bits.width(dtype) == width
    assert bits.stored_bits(np.zeros((2, 3), dtype)) == 6 * width


@pytest.mark.parametrize("dtype", ["complex64", "O", "U3"])
def test_width_of_what_holds_no_number_is_refused(dtype):
    with pytest.raises(InputError, match="no bits to change"):
        bits.width(np.dtype(dtype))


@given(tensors_and_faults())
def test_flipping_twice_is_identity(case):
    array, elements, which = case
    assert same_bits(bits.flip(bits.flip(array, elements, which), elements, which), array)
    assert same_bits(bits.flip(array, elements * 2, which * 2), array)


@given(st.data(), tensors())
def test_a_flip_changes_exactly_that_bit_of_the_onnx_storage(data, array):
    width = WIDTHS[array.dtype]
    element = data.draw(st.integers(0, array.size - 1))
    bit = data.draw(st.integers(0, width - 1))
    before = array.copy()
    flipped = bits.flip(array, [element], [bit])
    stride = 8 if width == 1 else width  # ONNX stores a bool in a whole byte
    assert stored_integer(flipped) == stored_integer(array) ^ (1 << (element * stride + bit))
    assert same_bits(array, before)
    assert same_bits(numpy_helper.to_array(numpy_helper.from_array(flipped)), flipped)


@given(tensors_and_faults(), st.sampled_from([0, 1]))
def test_stuck_bits_have_the_value_and_others_keep_theirs(case, value):
    array, elements, which = case
    stuck = bits.stuck_at(array, elements, which, value)
    expected = [int(pattern) for pattern in bits.patterns(array)]
    for element, bit in zip(elements, which, strict=True):
        expected[element] = expected[element] | 1 << bit if value else expected[element] & ~(1 << bit)
    assert [int(pattern) for pattern in bits.patterns(stuck)] == expected
    assert same_bits(bits.stuck_at(stuck, elements, which, value), stuck)


def test_sign_bits():
    assert bits.flip(np.float32([1.5, -2]), [0, 1], [31, 31]).tolist() == [-1.5, 2]
    assert bits.flip(np.int8([5]), [0], [7]).tolist() == [5 - 128]
    assert bits.flip(np.array([7, -8, 0], ml_dtypes.int4), [0, 1, 2], [3, 3, 3]).tolist() == [-1, 0, -8]
    assert bits.flip(np.array([7], ml_dtypes.uint4), [0], [3]).tolist() == [15]


def test_a_flipped_int4_is_represented_as_ml_dtypes_represents_it():
    for value in range(-8, 8):
        for bit in range(4):
            flipped = bits.flip(np.array([value], ml_dtypes.int4), [0], [bit])
            assert flipped.tobytes() == np.array(flipped.tolist(), ml_dtypes.int4).tobytes()


def test_elements_count_in_c_order_and_bits_by_significance_whatever_the_memory_layout():
    array = np.arange(6, dtype=">i4").reshape(2, 3).T
    assert bits.flip(array, [1], [4]).tolist() == [[0, 3 + 16], [1, 4], [2, 5]]


@pytest.mark.parametrize(
    ("elements", "which", "message"),
    [([3], [0], "element 3"), ([-1], [0], "element -1"), ([0], [4], "bit 4"), ([0], [-1], "bit -1")],
)
def test_a_fault_outside_the_tensor_is_refused(elements, which, message):
    with pytest.raises(InputError, match=message):
        bits.flip(np.zeros(3, ml_dtypes.int4), elements, which)


N = 3 * bits.CHUNK + 1001


def test_error_bits_are_ascending_and_below_the_rate():
    positions, uniforms = bits.error_bits(1, 2, "w", N, 0.01)
    assert positions.dtype == np.int64
    assert uniforms.dtype == np.float64
    assert (np.diff(positions) > 0).all()
    assert positions[0] >= 0
    assert positions[-1] < N
    assert (uniforms < 0.01).all()


def test_a_rate_of_zero_has_no_errors_and_one_has_all():
    assert bits.error_bits(0, 0, "w", N, 0.0)[0].size == 0
    assert np.array_equal(bits.error_bits(0, 0, "w", N, 1.0)[0], np.arange(N))
    assert bits.error_bits(0, 0, "w", 0, 1.0)[0].size == 0


@pytest.mark.parametrize("rate", [-0.1, 1.1, float("nan")])
def test_an_impossible_rate_is_refused(rate):
    with pytest.raises(InputError, match="lies in"):
        bits.error_bits(0, 0, "w", 8, rate)


@given(st.integers(0, 2**63), st.integers(0, 100), st.text(max_size=5), st.floats(0, 1), st.floats(0, 1))
def test_error_sets_are_nested_in_the_rate(seed, draw, name, low, high):
    low, high = sorted((low, high))
    few, uniforms_few = bits.error_bits(seed, draw, name, 2000, low)
    many, uniforms_many = bits.error_bits(seed, draw, name, 2000, high)
    below = uniforms_many < low
    assert np.array_equal(few, many[below])
    assert np.array_equal(uniforms_few, uniforms_many[below])


@pytest.mark.parametrize("chunk", [1, 7, 1000, 1 << 20])
def test_errors_do_not_depend_on_the_chunk_size(monkeypatch, chunk):
    expected = bits.error_bits(3, 1, "w", 5000, 0.3)
    monkeypatch.setattr(bits, "CHUNK", chunk)
    for got, want in zip(bits.error_bits(3, 1, "w", 5000, 0.3), expected, strict=True):
        assert np.array_equal(got, want)


def test_a_bits_number_does_not_depend_on_the_tensors_size():
    positions, _ = bits.error_bits(0, 0, "w", N, 0.2)
    shorter, _ = bits.error_bits(0, 0, "w", N // 2, 0.2)
    assert np.array_equal(shorter, positions[positions < N // 2])


@pytest.mark.parametrize("rate", [1e-5, 1e-3, 0.1, 0.5])
def test_the_number_of_errors_is_binomial(rate):
    n = 1_000_000
    n_errors = bits.error_bits(7, 0, "w", n, rate)[0].size
    assert abs(n_errors - n * rate) < 5 * np.sqrt(n * rate * (1 - rate))


def test_uniforms_are_uniform():
    _, uniforms = bits.error_bits(11, 0, "w", 200_000, 1.0)
    assert stats.kstest(uniforms, "uniform").pvalue > 1e-4


def test_seeds_draws_and_tensors_are_independent():
    streams = [(0, 0, "a"), (0, 0, "b"), (0, 1, "a"), (1, 0, "a"), (1, 1, "a")]
    uniforms = np.array([bits.error_bits(*stream, 100_000, 1.0)[1] for stream in streams])
    correlations = np.corrcoef(uniforms)[np.triu_indices(len(streams), 1)]
    assert (np.abs(correlations) < 5 / np.sqrt(100_000)).all()


def test_words_of_a_later_block_continue_the_stream():
    whole = bits.random_words("test", 0, 0, "w").random_raw(40)
    starts = [bits.random_words("test", 0, 0, "w", block=block).random_raw(4) for block in range(10)]
    assert np.array_equal(whole, np.concatenate(starts))
    assert all(not np.array_equal(a, b) for a, b in pairwise(starts))


@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.3])
def test_every_bits_number_is_that_of_the_lowest_layer_that_hits_it(rate):
    positions, uniforms = bits.error_bits(5, 6, "w", 3000, rate)
    assert dict(zip(positions.tolist(), uniforms.tolist(), strict=True)) == uniform_numbers(5, 6, "w", 3000, rate)


@pytest.mark.parametrize("rate", [1e-8, 1e-6, 2e-4, 0.02])
def test_bits_fail_independently_at_the_rate(rate):
    """Over many draws the number of errors has the mean and the variance of a binomial one, and gaps are geometric."""
    n, draws = round(3 / rate), 1500
    found = [bits.error_bits(1, draw, "w", n, rate)[0] for draw in range(draws)]
    counts = np.array([positions.size for positions in found])
    assert abs(counts.mean() - 3) < 5 * np.sqrt(3 / draws)
    assert counts.var() == pytest.approx(3, rel=0.2)
    positions = np.concatenate(found)
    assert stats.kstest(positions / n, "uniform").pvalue > 1e-4


def test_a_seed_gives_the_same_errors_in_every_version():
    positions, uniforms = bits.error_bits(2026, 3, "conv1.weight", 100_000, 0.01)
    digest = hashlib.sha256(positions.astype("<i8").tobytes() + uniforms.astype("<f8").tobytes()).hexdigest()
    assert (positions[:3].tolist(), digest[:16]) == ([81, 136, 149], "139db5669ac70d7f")


def test_raw_data_of_an_onnx_file_gives_the_same_array():
    array = np.random.default_rng(0).standard_normal((3, 4)).astype(np.float32)
    proto = numpy_helper.from_array(array, "w")
    raw = bytearray(proto.raw_data)
    raw[4 * 7 + 30 // 8] ^= 1 << 30 % 8
    changed = onnx.TensorProto()
    changed.CopyFrom(proto)
    changed.raw_data = bytes(raw)
    assert same_bits(numpy_helper.to_array(changed), bits.flip(array, [7], [30]))
