"""Protected tensors, against a memory simulated bit by bit, word by word."""

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from word_decoder import decode_word

from hwbench.errors import InputError, UnknownNameError
from hwbench.faults import bits
from hwbench.faults.ecc import Counts, protection_code
from hwbench.faults.storage import Storage, check_stack, top_bits

NOTHING = np.empty(0, np.int64)
STACKS = [
    (),
    ("secded_72_64",),
    ("secded_39_32",),
    ("parity_32",),
    ("sign_exponent_duplication",),
    ("sign_exponent_triplication",),
    ("secded_39_32", "parity_8"),
    ("parity_8", "secded_72_64"),
    ("sign_exponent_duplication", "secded_39_32"),
    ("sign_exponent_triplication", "secded_72_64"),
    ("sign_exponent_triplication", "parity_8", "secded_39_32"),
]
TENSORS = {
    "float32": np.random.default_rng(0).standard_normal(5).astype(np.float32),
    "float16": np.random.default_rng(1).standard_normal(7).astype(np.float16),
    "bfloat16": np.random.default_rng(1).standard_normal(7).astype(ml_dtypes.bfloat16),
    "int8": np.random.default_rng(2).integers(-128, 128, (3, 7)).astype(np.int8),
    "uint8": np.random.default_rng(2).integers(0, 256, 8).astype(np.uint8),
    "int4": np.random.default_rng(3).integers(-8, 8, 19).astype(ml_dtypes.int4),
    "bool": np.array([True, False, True]),
}


def stored_bits_of(tensor):
    """A tensor's bits in memory order."""
    width = bits.width(tensor.dtype)
    return np.array(
        [pattern >> bit & 1 for pattern in bits.patterns(tensor).tolist() for bit in range(width)], np.uint8
    )


class PlainMemory:
    """The same memory, written as a person would: real bits in lists, one word at a time."""

    def __init__(self, tensor, stack):
        self.tensor, self.stack = tensor, stack
        self.streams = [stored_bits_of(tensor)]
        for name in stack:
            stream = self.streams[-1]
            checks = [
                self.code(name).encode(self.filled(stream, word, name)[None])[0] for word in self.words(name, stream)
            ]
            planes = np.array(checks).T if name.startswith("sign") else np.array(checks)
            self.streams.append(np.concatenate([stream, planes.reshape(-1)]))

    def code(self, name):
        return protection_code(name)

    def words(self, name, stream):
        """The positions each word covers."""
        if name.startswith("sign"):
            width, top = bits.width(self.tensor.dtype), top_bits(self.tensor.dtype)
            return [[position] for position in range(stream.size) if position % width >= width - top]
        size = self.code(name).data_bits
        return [list(range(start, min(start + size, stream.size))) for start in range(0, stream.size, size)]

    def filled(self, stream, word, name):
        return np.concatenate([stream[word], np.zeros(self.code(name).data_bits - len(word), np.uint8)])

    def read(self, errors, uncorrectable):
        stream, counts = self.streams[-1].copy(), []
        stream[errors] ^= 1
        for depth in range(len(self.stack) - 1, -1, -1):
            name, clean = self.stack[depth], self.streams[depth]
            code, words, zeroed = self.code(name), self.words(name, clean), []
            checks = stream[clean.size :]
            checks = checks.reshape(-1, len(words)).T if name.startswith("sign") else checks.reshape(len(words), -1)
            stream = stream[: clean.size]
            for word, check in zip(words, checks, strict=True):
                before = self.filled(stream, word, name)
                got, how = decode_word(code, before, check)
                if how == "corrected" and got[len(word) :].any():  # a bit that is not there cannot be corrected
                    got, how = before, "detected"
                stream[word] = got[: len(word)]
                spoilt = (stream[word] != clean[word]).any()
                if how == "detected":
                    counts.append("detected")
                    zeroed += word
                elif how == "corrected":
                    counts.append("miscorrected" if spoilt else "corrected")
                elif spoilt:
                    counts.append("undetected")
            if zeroed and uncorrectable == "halt":
                return None, counts
            width = bits.width(self.tensor.dtype) if name.startswith("sign") else 1
            for position in zeroed:
                stream[position // width * width : position // width * width + width] = 0
        return stream, counts


@pytest.mark.parametrize("stack", STACKS, ids="+".join)
@pytest.mark.parametrize("name", TENSORS)
def test_memory_holds_the_data_and_then_the_check_bits_of_each_protection(name, stack):
    storage, plain = Storage(TENSORS[name], stack), PlainMemory(TENSORS[name], stack)
    assert storage.data_bits == plain.streams[0].size
    assert storage.stored_bits == plain.streams[-1].size
    assert np.array_equal(storage.values(np.arange(storage.stored_bits)), plain.streams[-1])
    segments = list(storage.segments())
    assert segments[0] == ((), 0, storage.data_bits)
    for depth, (names, first, count) in enumerate(segments):
        assert names == stack[:depth]
        assert first + count == plain.streams[depth].size


@given(data=st.data())
def test_reading_is_decoding_real_words(data):
    tensor = TENSORS[data.draw(st.sampled_from(sorted(TENSORS)), "tensor")]
    stack = data.draw(st.sampled_from(STACKS), "stack")
    uncorrectable = data.draw(st.sampled_from(["zero", "halt"]), "uncorrectable")
    storage, plain = Storage(tensor, stack), PlainMemory(tensor, stack)
    errors = data.draw(st.sets(st.integers(0, storage.stored_bits - 1), max_size=12), "errors")
    errors = np.array(sorted(errors), np.int64)
    reading = storage.read(errors, uncorrectable)
    stream, seen = plain.read(errors, uncorrectable)
    assert reading.counts == Counts(**{how: seen.count(how) for how in set(seen)})
    assert reading.halted == (stream is None)
    if stream is not None:
        assert reading.wrong.tolist() == np.flatnonzero(stream != plain.streams[0]).tolist()


def test_no_protection_is_identity():
    storage = Storage(TENSORS["int8"])
    errors = np.array([0, 5, 100])
    assert storage.read(errors).wrong.tolist() == [0, 5, 100]
    assert storage.read(errors).counts == Counts()


def test_without_errors_nothing_is_wrong():
    for stack in STACKS:
        reading = Storage(TENSORS["float32"], stack).read(NOTHING)
        assert (reading.wrong.size, reading.counts, reading.halted) == (0, Counts(), False)


def test_a_detected_word_is_read_as_zero_or_stops_the_reader():
    tensor = np.arange(1, 25, dtype=np.int8)
    storage = Storage(tensor, ["secded_72_64"])
    double = np.array([64, 70])  # two bits of the second word: elements 8 to 15
    wrong = storage.read(double).wrong
    read = bits.flip(tensor, *np.divmod(wrong, 8))
    assert read.tolist() == [*range(1, 9), *[0] * 8, *range(17, 25)]
    assert storage.read(double, "halt").halted
    assert not storage.read(double[:1], "halt").halted


def test_a_mismatching_copy_zeroes_its_element_alone():
    tensor = np.array([1.5, -2.5, 3.5], np.float32)
    storage = Storage(tensor, ["sign_exponent_duplication"])
    read = bits.flip(tensor, *np.divmod(storage.read(np.array([32 + 30])).wrong, 32))
    assert read.tolist() == [1.5, 0, 3.5]
    # A mantissa bit has no copy.
    assert storage.read(np.array([32 + 22])).wrong.tolist() == [54]
    assert storage.read(np.array([32 + 22])).counts == Counts()


def test_the_order_of_a_stack_decides_what_is_protected():
    tensor = np.zeros(64, np.int8)
    inner, outer = Storage(tensor, ["parity_8", "secded_72_64"]), Storage(tensor, ["secded_72_64", "parity_8"])
    assert inner.stored_bits == 512 + 64 + 9 * 8
    assert outer.stored_bits == 512 + 64 + 72
    # One wrong bit: SECDED next to the memory mends it; behind parity, the byte is zeroed before SECDED sees it.
    assert inner.read(np.array([3])).counts == Counts(corrected=1)
    assert outer.read(np.array([3])).counts == Counts(detected=1)


@pytest.mark.parametrize(
    ("dtype", "count"),
    [
        (np.float32, 9),
        (np.float64, 12),
        (np.float16, 6),
        (ml_dtypes.bfloat16, 9),
        (ml_dtypes.float8_e4m3fn, 5),
        (np.int8, 1),
        (np.uint8, 1),
        (np.int32, 1),
        (ml_dtypes.int4, 1),
    ],
)
def test_top_bits_are_sign_and_exponent(dtype, count):
    assert top_bits(np.dtype(dtype)) == count


def test_a_stack_that_cannot_be_is_refused():
    check_stack(["sign_exponent_triplication", "secded_72_64", "parity_8"])
    with pytest.raises(UnknownNameError, match=r"Did you mean 'secded_72_64'"):
        check_stack(["secded_72_46"])
    with pytest.raises(InputError, match="has to come first"):
        Storage(TENSORS["int8"], ["secded_72_64", "sign_exponent_triplication"])
