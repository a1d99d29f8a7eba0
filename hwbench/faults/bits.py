"""Operations on the stored bits of tensors, and random sets of bit errors that are nested in the error rate.

Bits count from 0 = least significant of the stored little-endian element. Elements count in flat C order. A sub-byte
number (int4, uint4, ...) takes one byte in numpy (ml_dtypes), but only its low bits are stored bits. Needs numpy and
ml_dtypes only, because it runs on targets.
"""

from __future__ import annotations

import hashlib
import json
import math
from functools import cache
from typing import Any, Literal

import ml_dtypes
import numpy as np
from numpy.typing import ArrayLike, NDArray

from hwbench.errors import InputError

Array = np.ndarray[Any, np.dtype[Any]]

# Raw words a draw is made of at a time: 512 KiB stay in a core's second-level cache.
CHUNK = 1 << 16
# A uniform number is the top 53 bits of a 64-bit word, which a float64 holds exactly.
UNIFORM_BITS = 53


def is_floating(dtype: np.dtype[Any]) -> bool:
    """Whether elements are floating-point numbers, bfloat16 and the small formats of ml_dtypes included."""
    return dtype.name.startswith(("float", "bfloat"))


def is_integer(dtype: np.dtype[Any]) -> bool:
    """Whether elements are integers, int4 and uint4 included."""
    return dtype.name.startswith(("int", "uint"))


@cache
def width(dtype: np.dtype[Any]) -> int:
    """Stored bits of one element: 32 for float32, 4 for int4, 1 for bool (its other seven bits mean nothing in ONNX).

    Raises:
        InputError: The type is neither a number of at most 64 bits nor bool.
    """
    native = dtype.newbyteorder("=")
    if native == np.bool_:
        return 1
    if is_integer(native):
        return int(ml_dtypes.iinfo(native).bits)
    if is_floating(native) and native.itemsize <= 8:
        return int(ml_dtypes.finfo(native).bits)
    raise InputError(f"a tensor of type {dtype.name} has no bits to change; leave it out")


def stored_bits(array: Array) -> int:
    """How many bits of storage an array's elements take."""
    return array.size * width(array.dtype)


def patterns(array: Array) -> Array:
    """The stored bits of every element as flat unsigned integers.

    Two arrays hold the same bits exactly if their patterns are equal, NaN and signed zeros included.
    """
    unsigned = _unsigned(np.array(array, order="C"))
    low: Array = unsigned & _mask(array.dtype)
    return low


def flip(array: Array, elements: ArrayLike, bits: ArrayLike) -> Array:
    """A copy of ``array`` in which the listed bits are inverted.

    Args:
        array: Any shape.
        elements: Flat C-order index of the element of each fault, shape [k].
        bits: Bit within that element, shape [k]. A pair given twice is inverted twice, so it stays as it was.

    Raises:
        InputError: An element or bit is out of range.
    """
    elements, single = _checked(array, elements, bits)
    changed = np.array(array, order="C")
    np.bitwise_xor.at(_unsigned(changed), elements, single)
    return _canonical(changed)


def stuck_at(array: Array, elements: ArrayLike, bits: ArrayLike, value: Literal[0, 1]) -> Array:
    """A copy of ``array`` in which the listed bits are ``value``; other arguments and errors as in `flip`."""
    elements, single = _checked(array, elements, bits)
    changed = np.array(array, order="C")
    if value:
        np.bitwise_or.at(_unsigned(changed), elements, single)
    else:
        np.bitwise_and.at(_unsigned(changed), elements, ~single)
    return _canonical(changed)


def random_words(purpose: str, seed: int, draw: int, name: str, block: int = 0) -> np.random.Philox:
    """A stream of random 64-bit words (``.random_raw(n)``) that belongs to these arguments alone.

    Philox is counter-based (Salmon et al., SC 2011) and numpy keeps its raw output stable across versions and machines,
    unlike that of its distributions; so draws are built on raw words only.

    Args:
        purpose: What the words are for; streams of different purposes are independent.
        seed: The run's seed.
        draw: Number of the draw.
        name: The tensor's name.
        block: Where to start, in blocks of 4 words.
    """
    return np.random.Philox(key=_key(purpose, seed, draw, name), counter=block)


def _key(purpose: str, seed: int, draw: int, name: str) -> int:
    digest = hashlib.sha256(json.dumps([purpose, int(seed), int(draw), name]).encode()).digest()
    return int.from_bytes(digest[:16], "little")


def uniforms(words: NDArray[np.uint64]) -> NDArray[np.float64]:
    """Random words as uniform numbers in [0, 1), multiples of 2⁻⁵³."""
    return (words >> np.uint64(64 - UNIFORM_BITS)).astype(np.float64) * 2.0**-UNIFORM_BITS


def error_bits(
    seed: int, draw: int, tensor_name: str, n_bits: int, max_rate: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The bits of a tensor that flip at some error rate up to ``max_rate``.

    Every bit has one uniform number, which depends on seed, draw, tensor name and the bit's position alone; at error
    rate p the bits below p flip. So the error sets of one draw are nested in p and shared by all builds that store a
    tensor of that name.

    Time and memory grow with the number of bits that fail, not with the number of bits: the range of uniform numbers is
    cut into layers (`_EDGES`), and the bits of a layer are found by geometric gaps (Devroye 1986, "Non-uniform random
    variate generation", section X.2). A bit's number is that of the lowest layer that hits it.

    Args:
        seed: The run's seed.
        draw: Number of the draw.
        tensor_name: Name of the initializer.
        n_bits: Its stored bits (`stored_bits`).
        max_rate: The largest error rate that will be asked of this draw, 0 to 1.

    Returns:
        positions: Bits whose uniform number is below ``max_rate``, ascending, shape [k]; (element, bit) is
            ``divmod(position, width(dtype))``.
        uniforms: Their uniform numbers, shape [k].

    Raises:
        InputError: The rate is not in [0, 1].
    """
    if not 0 <= max_rate <= 1:
        raise InputError(f"a bit error rate lies in [0, 1], not {max_rate}")
    key = _key("bit_errors", seed, draw, tensor_name)
    positions, values, low = np.empty(0, np.int64), np.empty(0), 0.0
    for layer, high in enumerate(_EDGES):
        if low >= max_rate or not n_bits:
            break
        hits, shares = _layer(key, layer, n_bits, (high - low) / (1 - low))
        numbers = low + shares * (high - low)
        positions = np.concatenate([positions, hits[numbers < max_rate]])
        values = np.concatenate([values, numbers[numbers < max_rate]])
        low = high
    # The first occurrence is that of the lowest layer.
    positions, first = np.unique(positions, return_index=True)
    return positions, values[first]


_EDGES = tuple(16.0**-power for power in range(7, -1, -1))
"""Upper ends of the layers of uniform numbers, 4e-9 to 1."""


def _layer(key: int, layer: int, n_bits: int, probability: float) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The bits that a layer hits, each with ``probability`` independently, ascending; and a uniform number for each."""
    stream = np.random.Philox(key=key, counter=(layer + 1) << 128)
    positions, shares, last = [], [], -1
    while last < n_bits - 1:
        block = min(CHUNK, math.ceil(1.1 * (n_bits - last) * probability) + 4)
        words = stream.random_raw(2 * block).reshape(block, 2)
        # A gap of more than all the bits is as good as any: it must not overflow.
        steps = np.minimum(1 + _gaps(uniforms(words[:, 0]), probability), n_bits + 1)
        hits = last + np.cumsum(steps.astype(np.int64))
        inside = hits < n_bits
        positions.append(hits[inside])
        shares.append(uniforms(words[inside, 1]))
        last = int(hits[-1])
    return np.concatenate(positions), np.concatenate(shares)


def _gaps(numbers: NDArray[np.float64], probability: float) -> NDArray[np.float64]:
    """Bits that are passed over before the next hit: geometric, by inversion of uniform numbers in [0, 1)."""
    if probability == 1:
        return np.zeros(numbers.shape)
    gaps: NDArray[np.float64] = np.floor(np.log1p(-numbers) / math.log1p(-probability))
    return gaps


def _unsigned(array: Array) -> Array:
    """A contiguous array's elements as flat unsigned integers of the same size and byte order, sharing its memory."""
    unsigned = np.dtype(f"u{array.dtype.itemsize}").newbyteorder(array.dtype.byteorder)
    return array.reshape(-1).view(unsigned)


def _mask(dtype: np.dtype[Any]) -> Any:
    return np.dtype(f"u{dtype.itemsize}").type((1 << width(dtype)) - 1)


def _checked(array: Array, elements: ArrayLike, bits: ArrayLike) -> tuple[NDArray[np.int64], Array]:
    """Elements, and for each the unsigned integer in which only its bit is set."""
    where, which = (np.asarray(index, dtype=np.int64).reshape(-1) for index in np.broadcast_arrays(elements, bits))
    n_bits = width(array.dtype)
    for noun, index, end in (("element", where, array.size), ("bit", which, n_bits)):
        outside = index[(index < 0) | (index >= end)]
        if outside.size:
            raise InputError(
                f"{noun} {outside[0]} is not there: the {array.dtype} tensor has {array.size} elements of {n_bits} bits"
            )
    single = np.left_shift(np.uint64(1), which.astype(np.uint64)).astype(f"u{array.dtype.itemsize}")
    return where, single


def _canonical(array: Array) -> Array:
    """Sub-byte elements with the unused bits of their byte as ml_dtypes keeps them; other arrays as they are."""
    if array.dtype == np.bool_ or width(array.dtype) == 8 * array.dtype.itemsize:
        return array
    # Every sub-byte number is a float32 too, and converting back is how ml_dtypes itself fills the byte.
    rewritten: Array = array.astype(np.float32).astype(array.dtype)
    return rewritten
