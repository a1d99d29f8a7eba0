"""Chips: nested, deterministic, of the mean rate they are asked for; and what is read from them behind protections."""

import hashlib

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.faults import bits
from hwbench.faults.error_rates import MAX_RATE
from hwbench.faults.memory import Chip, Columns, Memory
from hwbench.faults.storage import Storage

CHIPS = {
    "plain": {},
    "asymmetric": {"asymmetry": 0.9},
    "columns": {"columns": Columns(64, 4, 0.5, 1.0)},
    "both": {"asymmetry": 0.9, "columns": Columns(64, 4, 0.9, 1.0)},
}
N_BITS = 64 * 2000


def alternating(positions):
    """As many ones as zeros in every column."""
    return (positions // 64 % 2).astype(np.uint8)


def failing(chip, rate, n_bits=N_BITS, values=alternating, max_rate=MAX_RATE):
    positions, critical = chip.errors("w", n_bits, max_rate, values)
    return positions[critical < rate]


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {
        "w": rng.standard_normal((40, 50)).astype(np.float32),
        "q": rng.integers(-128, 128, (70, 30)).astype(np.int8),
        "packed": rng.integers(-8, 8, 333).astype(ml_dtypes.int4),
        "scale": rng.random(3).astype(np.float32),
    }


def test_a_plain_chip_fails_where_bit_errors_do():
    positions, critical = Chip(3, 4).errors("w", 100_000, 0.01, alternating)
    expected, uniforms = bits.error_bits(3, 4, "w", 100_000, 0.01)
    assert np.array_equal(positions, expected)
    assert np.array_equal(critical, uniforms)


@pytest.mark.parametrize("traits", CHIPS.values(), ids=CHIPS)
@given(rates=st.tuples(st.floats(0, MAX_RATE), st.floats(0, MAX_RATE)))
def test_error_sets_are_nested(traits, rates):
    chip = Chip(1, 2, **traits)
    fewer, more = (set(failing(chip, rate, 6400).tolist()) for rate in sorted(rates))
    assert fewer <= more


@pytest.mark.parametrize("traits", CHIPS.values(), ids=CHIPS)
@pytest.mark.parametrize("rate", [1e-3, 0.05, 0.206, 0.45])
def test_what_a_chip_is_drawn_for_does_not_change_its_errors(traits, rate):
    chip = Chip(1, 3, **traits)
    assert np.array_equal(failing(chip, rate), failing(chip, rate, max_rate=rate))


@pytest.mark.parametrize("traits", CHIPS.values(), ids=CHIPS)
@pytest.mark.parametrize("rate", [1e-3, 0.03, 0.206, 0.45, MAX_RATE])
def test_the_mean_over_a_chips_cells_is_the_bit_error_rate(traits, rate):
    for number in range(3):
        n_errors = failing(Chip(5, number, **traits), rate).size
        assert abs(n_errors - rate * N_BITS) < 5 * np.sqrt(N_BITS * rate * (1 - rate))


@pytest.mark.parametrize("traits", CHIPS.values(), ids=CHIPS)
def test_the_mean_over_chips_is_the_bit_error_rate_whatever_is_stored(traits):
    rate, n_chips = 0.02, 400

    def zeros(positions):
        return np.zeros(positions.size, np.uint8)

    counts = np.array([failing(Chip(6, number, **traits), rate, 6400, zeros).size for number in range(n_chips)])
    assert abs(counts.mean() - rate * 6400) < 5 * counts.std() / np.sqrt(n_chips)


@pytest.mark.parametrize("number", range(4))
def test_a_chip_favours_one_direction(number):
    rate, chip = 0.1, Chip(0, number, asymmetry=0.9)
    ones = alternating(failing(chip, rate))
    per_value = N_BITS / 2
    for count, factor in ((np.count_nonzero(ones == 0), 1 + chip.balance), (ones.sum(), 1 - chip.balance)):
        p = rate * factor
        assert abs(count - p * per_value) < 5 * np.sqrt(per_value * p * (1 - p))
    assert abs(chip.balance) < 0.9


def test_chips_differ_in_their_balance():
    balances = np.array([Chip(0, number, asymmetry=0.5).balance for number in range(300)])
    assert -0.5 <= balances.min() < -0.4
    assert 0.4 < balances.max() <= 0.5
    assert abs(balances.mean()) < 5 * 0.5 / np.sqrt(3 * 300)
    assert Chip(0, 1).balance == 0


def test_errors_crowd_on_weak_columns_until_these_are_full():
    chip = Chip(0, 1, columns=Columns(64, 4, 0.5, 1.0))
    assert chip.weak.sum() == 4
    # Share 0.5 on a sixteenth of the columns: 8.5 times the rate there, half of it elsewhere.
    for rate, in_weak, elsewhere in ((0.01, 0.085, 0.005), (0.2, 0.5, (0.2 - 0.5 / 16) * 16 / 15)):
        where = chip.weak[failing(chip, rate) % 64]
        for count, cells, p in ((where.sum(), N_BITS / 16, in_weak), ((~where).sum(), N_BITS * 15 / 16, elsewhere)):
            assert abs(count - p * cells) < 5 * np.sqrt(cells * p * (1 - p))


def test_some_chips_have_weak_columns_and_not_the_same():
    columns = Columns(64, 4, 0.5, 0.5)
    weak = [Chip(0, number, columns=columns).weak for number in range(200)]
    aligned = [one for one in weak if one is not None]
    assert abs(len(aligned) - 100) < 5 * np.sqrt(50)
    assert len({one.tobytes() for one in aligned}) > len(aligned) / 2
    assert Chip(0, 0, columns=Columns(chips=0.0)).weak is None


def test_columns_are_those_of_the_memory_wherever_a_segment_begins():
    chip = Chip(0, 1, columns=Columns(64, 4, 0.9, 1.0))
    positions, critical = chip.errors("w", N_BITS, 0.001, alternating, first=13)
    weak = chip.weak[positions[critical < 0.001] % 64]
    assert positions.min() >= 13
    assert weak.mean() == pytest.approx(0.9 + 0.1 / 16, abs=0.15)


def test_without_protection_reading_flips_the_failing_cells(tensors):
    readout = Memory(tensors).read(Chip(0, 1), 0.01)
    assert readout.n_faults == readout.report["errors"] > 0
    assert readout.report["data_bits"] == readout.report["stored_bits"] == sum(map(bits.stored_bits, tensors.values()))
    for name, tensor in tensors.items():
        positions, _ = bits.error_bits(0, 1, name, bits.stored_bits(tensor), 0.01)
        expected = bits.flip(tensor, *np.divmod(positions, bits.width(tensor.dtype)))
        assert np.array_equal(bits.patterns(readout.tensors.get(name, tensor)), bits.patterns(expected))


@pytest.mark.parametrize("stack", [(), ("secded_39_32",), ("sign_exponent_triplication", "parity_8")], ids="+".join)
@pytest.mark.parametrize("traits", CHIPS.values(), ids=CHIPS)
def test_reading_is_decoding_the_cells_that_fail(tensors, traits, stack):
    chip, rate = Chip(2, 1, **traits), 0.02
    readout = Memory(tensors).read(chip, rate, stack)
    n_errors = n_faults = 0
    for name, tensor in tensors.items():
        storage = Storage(tensor, stack)
        content = storage.values(np.arange(storage.stored_bits))
        errors = []
        for names, first, count in storage.segments():
            positions, critical = chip.errors("@".join((name, *names)), count, rate, lambda at: content[at], first)  # noqa: B023
            errors.append(positions[critical < rate])
        errors = np.concatenate(errors)
        wrong = storage.read(errors).wrong
        expected = bits.flip(tensor, *np.divmod(wrong, bits.width(tensor.dtype)))
        assert np.array_equal(bits.patterns(readout.tensors.get(name, tensor)), bits.patterns(expected))
        n_errors, n_faults = n_errors + errors.size, n_faults + wrong.size
    assert (readout.report["errors"], readout.n_faults) == (n_errors, n_faults)


def test_protected_and_unprotected_tensors_meet_the_same_failing_cells(tensors):
    memory, chip = Memory(tensors), Chip(0, 1)
    bare, mended = memory.read(chip, 3e-4), memory.read(chip, 3e-4, ("secded_39_32",))
    assert bare.n_faults > 0
    assert mended.n_faults == 0
    assert mended.report["corrected"] == mended.report["errors"] >= bare.report["errors"]
    assert memory.read(chip, 0.0, ("secded_39_32",)).tensors == {}


def test_one_uncorrectable_word_halts_the_device(tensors):
    memory = Memory(tensors)
    halted = memory.read(Chip(0, 0), 0.02, ("secded_72_64",), "halt")
    assert halted.halted
    assert halted.report["detected"] > 0
    assert not memory.read(Chip(0, 0), 1e-6, ("secded_72_64",), "halt").halted
    assert not memory.read(Chip(0, 0), 0.02, ("secded_72_64",)).halted


steps = st.lists(
    st.tuples(
        st.integers(0, 1),
        st.sampled_from([0.0, 1e-3, 0.1]),
        st.sampled_from([(), ("secded_72_64",), ("secded_72_64", "parity_8")]),
        st.sampled_from([0.0, 0.1]),
    ),
    max_size=6,
)


@given(steps, st.sampled_from([0, 1 << 10, 1 << 20]))
def test_what_a_memory_keeps_never_shows(steps, budget):
    weights = {"w": np.arange(60, dtype=np.float32), "v": np.arange(60, dtype=np.int8)}
    memory = Memory(weights, budget)
    for number, rate, stack, max_rate in steps:
        chip = Chip(0, number, 0.5)
        got, expected = memory.read(chip, rate, stack, max_rate=max_rate), Memory(weights).read(chip, rate, stack)
        assert (got.n_faults, got.report) == (expected.n_faults, expected.report)
        for name, tensor in expected.tensors.items():
            assert got.tensors[name].tobytes() == tensor.tobytes()


DIGESTS = {
    "plain": "5d198c8cf3d372f0",
    "asymmetric": "2e75b17d3b79d16e",
    "columns": "08b370ece1fd0347",
    "both": "2e355d89a987a93c",
}


@pytest.mark.parametrize("name", CHIPS)
def test_draws_stay_what_they_are(name):
    weights = {"w": np.arange(2000, dtype=np.float32), "v": np.arange(5000).astype(np.int8)}
    readout = Memory(weights).read(Chip(7, 8, **CHIPS[name]), 0.02, ("sign_exponent_triplication", "secded_39_32"))
    content = b"".join(readout.tensors[key].tobytes() for key in weights)
    assert hashlib.sha256(content).hexdigest()[:16] == DIGESTS[name]
