"""Codes: their guarantees by exhaustion, and their decoder against one that works on real words bit by bit."""

from itertools import combinations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from word_decoder import decode_word

from hwbench.errors import UnknownNameError
from hwbench.faults.ecc import PROTECTIONS, Counts, hsiao_columns, protection_code

SECDED = ("secded_72_64", "secded_39_32")
SIZES = {
    "secded_72_64": (64, 8),
    "secded_39_32": (32, 7),
    "parity_64": (64, 1),
    "parity_32": (32, 1),
    "parity_8": (8, 1),
    "sign_exponent_duplication": (1, 1),
    "sign_exponent_triplication": (1, 2),
}


def decode(code, patterns):
    """Decode one word for each list of wrong places."""
    wrong = [(word, place) for word, places in enumerate(patterns) for place in places]
    data = [word * code.data_bits + place for word, place in wrong if place < code.data_bits]
    checks = [word * code.check_bits + place - code.data_bits for word, place in wrong if place >= code.data_bits]
    return code.decode(np.array(data, np.int64), np.array(checks, np.int64), len(patterns) * code.data_bits)


def test_every_protection_has_its_code():
    assert set(PROTECTIONS) == set(SIZES)
    for name, (data_bits, check_bits) in SIZES.items():
        code = protection_code(name)
        assert (code.data_bits, code.check_bits) == (data_bits, check_bits)
        assert protection_code(name) is code
    with pytest.raises(UnknownNameError, match="secded_72_64"):
        protection_code("secded_72_46")


@pytest.mark.parametrize("name", SECDED)
def test_every_single_error_is_corrected(name):
    code = protection_code(name)
    size = code.data_bits + code.check_bits
    decoded = decode(code, [[place] for place in range(size)])
    assert decoded.wrong.size == decoded.suspect.size == 0
    assert decoded.counts == Counts(corrected=size)


@pytest.mark.parametrize("name", SECDED)
def test_every_double_error_is_detected(name):
    code = protection_code(name)
    pairs = list(combinations(range(code.data_bits + code.check_bits), 2))
    decoded = decode(code, pairs)
    assert decoded.counts == Counts(detected=len(pairs))
    assert np.array_equal(decoded.suspect, np.arange(len(pairs)))


@pytest.mark.parametrize("name", SECDED)
def test_triple_errors_are_seen_or_miscorrected_but_never_silent(name):
    code = protection_code(name)
    triples = list(combinations(range(0, code.data_bits + code.check_bits, 2), 3))
    counts = decode(code, triples).counts
    assert counts.undetected == 0
    assert counts.miscorrected > 0
    assert counts.corrected + counts.detected + counts.miscorrected == len(triples)


@pytest.mark.parametrize(("data_bits", "check_bits"), [(64, 8), (32, 7), (16, 6), (4, 4)])
def test_hsiao_columns_are_odd_distinct_light_and_balanced(data_bits, check_bits):
    columns = hsiao_columns(data_bits, check_bits)
    weights = [column.bit_count() for column in columns]
    assert len(set(columns)) == data_bits
    assert all(weight % 2 and weight >= 3 for weight in weights)
    assert weights == sorted(weights)
    loads = [sum(column >> row & 1 for column in columns) for row in range(check_bits)]
    assert max(loads) - min(loads) <= 1


def test_too_few_check_bits_are_refused():
    with pytest.raises(ValueError, match="6 check bits do not protect 64"):
        hsiao_columns(64, 6)


@pytest.mark.parametrize("name", ["parity_64", "parity_32", "parity_8"])
def test_parity_detects_odd_numbers_of_errors_only(name):
    code = protection_code(name)
    decoded = decode(code, [[0], [0, 3], [0, code.data_bits], [code.data_bits], [1, 2, 5], []])
    assert decoded.suspect.tolist() == [0, 3, 4]
    assert decoded.counts == Counts(detected=3, undetected=2)


def test_copies():
    decoded = decode(protection_code("sign_exponent_duplication"), [[0], [1], [0, 1]])
    assert decoded.counts == Counts(detected=2, undetected=1)
    decoded = decode(
        protection_code("sign_exponent_triplication"), [[0], [1], [2], [0, 1], [0, 2], [1, 2], [0, 1, 2], []]
    )
    assert decoded.counts == Counts(corrected=3, miscorrected=3, undetected=1)
    assert decoded.wrong.tolist() == [3, 4, 5, 6]


@pytest.mark.parametrize("name", PROTECTIONS)
@given(data=st.data())
def test_the_decoder_does_what_decoding_real_words_does(name, data):
    code = protection_code(name)
    size = code.data_bits + code.check_bits
    patterns = data.draw(
        st.lists(st.sets(st.integers(0, size - 1), max_size=min(size, 6)), min_size=1, max_size=6), "wrong places"
    )
    words = np.random.default_rng(len(patterns)).integers(0, 2, (len(patterns), code.data_bits), dtype=np.uint8)
    checks, seen, wrong, suspect = code.encode(words), [], [], []
    for index, places in enumerate(patterns):
        read = np.concatenate([words[index], checks[index]])
        read[list(places)] ^= 1
        got, how = decode_word(code, read[: code.data_bits], read[code.data_bits :])
        spoilt = np.flatnonzero(got != words[index])
        wrong += (index * code.data_bits + spoilt).tolist()
        suspect += [index] if how == "detected" else []
        seen += ["detected"] if how == "detected" else []
        seen += [("miscorrected" if spoilt.size else "corrected")] if how == "corrected" else []
        seen += ["undetected"] if how == "ok" and spoilt.size else []
    decoded = decode(code, patterns)
    assert decoded.wrong.tolist() == wrong
    assert decoded.suspect.tolist() == suspect
    assert decoded.counts == Counts(**{how: seen.count(how) for how in set(seen)})


def test_a_correction_behind_the_data_is_a_detected_error():
    code = protection_code("secded_72_64")
    # Three errors whose syndrome is that of one data bit, once with that bit in the word and once cut off.
    triple = next(
        three for three in combinations(range(10), 3) if decode(code, [three]).counts == Counts(miscorrected=1)
    )
    (target,) = set(decode(code, [triple]).wrong.tolist()) - set(triple)
    data, none = np.array(triple), np.empty(0, np.int64)
    assert code.decode(data, none, target + 1).counts == Counts(miscorrected=1)
    cut = code.decode(data, none, target)
    assert cut.counts == Counts(detected=1)
    assert cut.wrong.tolist() == list(triple)


def test_counts_add_up():
    assert Counts(1, 2, 3, 4) + Counts(10, 20, 30, 40) == Counts(11, 22, 33, 44)
