import hashlib
import json

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper
from scipy import stats

from hwbench.errors import InputError, UnknownNameError
from hwbench.faults import bits
from hwbench.worker import perturb
from hwbench.worker.inputs import InputPerturber, chosen_inputs, perturb_inputs
from hwbench.worker.perturb import WeightPerturber, initializer_changes


def variant(kind, seed=0, draw=0, **settings):
    return {"kind": kind, "seed": seed, "draw": draw, **settings}


def digest(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(array).tobytes() for array in arrays)).hexdigest()[:16]


@pytest.fixture
def tensors():
    rng = np.random.default_rng(0)
    return {
        "float": rng.standard_normal((40, 50)).astype(np.float32),
        "half": rng.standard_normal((40, 50)).astype(np.float16),
        "bfloat": rng.standard_normal((40, 50)).astype(ml_dtypes.bfloat16),
        "int8": rng.integers(-128, 128, (40, 50)).astype(np.int8),
        "uint8": rng.integers(0, 256, (40, 50)).astype(np.uint8),
        "int4": rng.integers(-8, 8, (40, 50)).astype(ml_dtypes.int4),
        "uint4": rng.integers(0, 16, (40, 50)).astype(ml_dtypes.uint4),
        "bias": rng.integers(-1000, 1000, 40).astype(np.int32),
        "scale": rng.random(40).astype(np.float32),
        "zero_point": np.zeros(40, np.int8),
        "shape": np.array([1, -1], np.int64),
    }


WEIGHTS = {"float", "half", "bfloat", "int8", "uint8", "int4", "uint4"}


def test_golden_and_input_kinds_leave_initializers_alone(tensors):
    for kind in ({"kind": "golden"}, variant("gaussian_input", snr_db=0), variant("impulse_input", rate=1)):
        assert initializer_changes(kind, tensors) == perturb.Changes({}, 0)


def test_bit_errors_flip_the_drawn_bits_of_every_tensor(tensors):
    changes = initializer_changes(variant("bit_errors", draw=4, rate=0.1), tensors)
    n_faults = 0
    for name, tensor in tensors.items():
        positions, _ = bits.error_bits(0, 4, name, bits.stored_bits(tensor), 0.1)
        expected = bits.flip(tensor, *np.divmod(positions, bits.width(tensor.dtype)))
        assert np.array_equal(bits.patterns(changes.tensors[name]), bits.patterns(expected))
        n_faults += positions.size
    assert changes.n_faults == n_faults
    json.dumps(changes.n_faults)


def test_a_rate_of_one_inverts_every_stored_bit(tensors):
    changes = initializer_changes(variant("bit_errors", rate=1), tensors)
    assert changes.n_faults == sum(bits.stored_bits(tensor) for tensor in tensors.values())
    assert np.array_equal(changes.tensors["int8"], ~tensors["int8"])
    assert np.array_equal(changes.tensors["int4"].astype(int), ~tensors["int4"].astype(int))


def test_only_changed_tensors_are_returned(tensors):
    assert initializer_changes(variant("bit_errors", rate=0), tensors) == perturb.Changes({}, 0)
    changes = initializer_changes(variant("bit_errors", rate=1e-4), tensors)
    assert 0 < len(changes.tensors) < len(tensors)
    for name, tensor in changes.tensors.items():
        assert (bits.patterns(tensor) != bits.patterns(tensors[name])).any()


@given(
    st.lists(
        st.tuples(st.integers(0, 2), st.sampled_from([0.0, 0.01, 0.2, 1.0]), st.sampled_from([0.0, 0.2])), max_size=6
    )
)
def test_a_perturbers_cache_never_shows(steps):
    weights = {"w": np.arange(60, dtype=np.float32).reshape(6, 10)}
    perturber = WeightPerturber(weights)
    for draw, rate, max_rate in steps:
        asked = variant("bit_errors", draw=draw, rate=rate)
        got, expected = perturber.changes(asked, max_rate), initializer_changes(asked, weights)
        assert got.n_faults == expected.n_faults
        assert got.tensors.keys() == expected.tensors.keys()
        for name, tensor in expected.tensors.items():
            assert tensor.tobytes() == got.tensors[name].tobytes()
    assert np.array_equal(weights["w"], np.arange(60).reshape(6, 10))


def test_a_draw_is_made_once_for_all_its_rates(tensors, monkeypatch):
    drawn = []
    error_bits = bits.error_bits
    monkeypatch.setattr(bits, "error_bits", lambda *arguments: drawn.append(arguments) or error_bits(*arguments))
    perturber = WeightPerturber(tensors)
    for rate in (1e-4, 1e-3, 1e-2):
        perturber.changes(variant("bit_errors", rate=rate), max_rate=1e-2)
    assert len(drawn) == len(tensors)


def test_weight_noise_goes_to_weights_only(tensors):
    changes = initializer_changes(variant("weight_noise", sigma=0.1), tensors)
    assert changes.tensors.keys() == WEIGHTS
    n_changed = sum(np.count_nonzero(changes.tensors[name] != tensors[name]) for name in WEIGHTS)
    assert changes.n_faults == n_changed
    assert all(changes.tensors[name].dtype == tensors[name].dtype for name in WEIGHTS)
    assert initializer_changes(variant("weight_noise", sigma=0), tensors) == perturb.Changes({}, 0)


def test_float_weight_noise_is_relative_to_the_tensors_range():
    weights = np.random.default_rng(1).uniform(-3, 5, (300, 400))
    noisy = initializer_changes(variant("weight_noise", sigma=0.05), {"w": weights}).tensors["w"]
    noise = (noisy - weights) / np.ptp(weights)
    assert noise.std() == pytest.approx(0.05, rel=0.02)
    assert stats.kstest(noise.ravel() / 0.05, "norm").pvalue > 1e-4


def test_integer_weight_noise_is_in_whole_steps_of_the_formats_range():
    noisy = initializer_changes(variant("weight_noise", sigma=0.02), {"w": np.zeros((300, 400), np.int8)}).tensors["w"]
    # Rounding to whole steps adds the variance of a uniform number, 1/12.
    assert noisy.astype(float).std() == pytest.approx(np.sqrt((0.02 * 255) ** 2 + 1 / 12), rel=0.02)


@pytest.mark.parametrize(
    ("dtype", "low", "high"),
    [(np.int8, -128, 127), (np.uint8, 0, 255), (ml_dtypes.int4, -8, 7), (ml_dtypes.uint4, 0, 15)],
)
def test_integer_weight_noise_saturates(dtype, low, high):
    weights = np.array([[low] * 500, [high] * 500]).astype(dtype)
    noisy = initializer_changes(variant("weight_noise", sigma=10), {"w": weights}).tensors["w"].astype(int)
    assert set(np.unique(noisy)) >= {low, high}
    assert noisy.min() == low
    assert noisy.max() == high
    # Away from the limit half of the noise goes; at the limit the other half saturates, and none wraps around.
    assert np.mean(noisy[0] == low) == pytest.approx(0.5, abs=0.1)
    assert np.mean(noisy[1] == high) == pytest.approx(0.5, abs=0.1)


def test_small_integer_weight_noise_rounds_to_nothing():
    assert initializer_changes(variant("weight_noise", sigma=1e-4), {"w": np.ones((9, 9), np.int8)}).tensors == {}


def test_the_weight_noise_field_is_shared_by_sigmas_and_formats():
    weights = np.random.default_rng(2).standard_normal((20, 30))
    fields = [
        (initializer_changes(variant("weight_noise", sigma=sigma), {"w": w}).tensors["w"] - w) / (sigma * np.ptp(w))
        for sigma, w in [(0.01, weights), (0.1, weights), (0.01, weights.astype(np.float32).astype(np.float64))]
    ]
    np.testing.assert_allclose(fields[0], fields[1], atol=1e-9)
    np.testing.assert_allclose(fields[0], fields[2], atol=1e-5)
    other = (
        initializer_changes(variant("weight_noise", draw=1, sigma=0.1), {"w": weights}).tensors["w"] - weights
    ) / 0.1
    assert abs(np.corrcoef(fields[0].ravel(), other.ravel())[0, 1]) < 5 / np.sqrt(weights.size)


def test_weight_noise_does_not_depend_on_the_chunk_size(monkeypatch, tensors):
    expected = initializer_changes(variant("weight_noise", sigma=0.1), tensors).tensors
    monkeypatch.setattr(bits, "CHUNK", 128)
    got = initializer_changes(variant("weight_noise", sigma=0.1), tensors).tensors
    assert all(np.array_equal(bits.patterns(got[name]), bits.patterns(expected[name])) for name in WEIGHTS)


def test_weights_beyond_a_formats_range_become_infinite_and_infinite_ones_stay():
    weights = np.array([[6e4, -6e4, np.inf]], np.float16).repeat(50, axis=0)
    noisy = initializer_changes(variant("weight_noise", sigma=1), {"w": weights}).tensors["w"]
    assert np.isinf(noisy[:, :2]).any()
    assert np.isposinf(noisy[:, 2]).all()


@pytest.fixture
def quantized_model():
    """A MatMulNBits next to a blockwise DequantizeLinear: scales and zero points of both have two dimensions."""
    rng = np.random.default_rng(3)
    initializers = {
        "packed": rng.integers(0, 256, (16, 2, 16)).astype(np.uint8),
        "packed_scale": rng.random((16, 2)).astype(np.float32),
        "packed_zero": rng.integers(0, 256, (16, 1)).astype(np.uint8),
        "blocks": rng.integers(-8, 8, (32, 4)).astype(ml_dtypes.int4),
        "blocks_scale": rng.random((2, 4)).astype(np.float32),
        "blocks_zero": np.zeros((2, 4), ml_dtypes.int4),
        "empty": np.zeros((0, 3), np.float32),
        "names": np.array([["a", "b"]], dtype=object),
    }
    nodes = [
        helper.make_node(
            "MatMulNBits", ["x", "packed", "packed_scale", "packed_zero"], ["y"], "dense",
            domain="com.microsoft", K=64, N=16, bits=4, block_size=32,
        ),
        helper.make_node("DequantizeLinear", ["blocks", "blocks_scale", "blocks_zero"], ["w"], axis=0, block_size=16),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 64])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 16])],
        [numpy_helper.from_array(value, name) for name, value in initializers.items()],
    )  # fmt: skip
    return helper.make_model(graph)


def test_stored_initializers_hold_the_deployed_numbers(quantized_model):
    stored = perturb.stored_initializers(quantized_model)
    assert "names" not in stored
    assert "empty" not in stored
    assert stored["blocks"].dtype == ml_dtypes.int4
    assert len(stored) == 6


def test_blockwise_scales_and_zero_points_are_no_weights(quantized_model):
    changes = WeightPerturber.from_model(quantized_model).changes(variant("weight_noise", sigma=0.3))
    assert changes.tensors.keys() == {"packed", "blocks"}
    flips = WeightPerturber.from_model(quantized_model).changes(variant("bit_errors", rate=0.5))
    assert flips.tensors.keys() == perturb.stored_initializers(quantized_model).keys()


def test_weights_packed_two_to_a_byte_get_noise_as_four_bit_numbers(quantized_model):
    perturber = WeightPerturber.from_model(quantized_model)
    packed = perturber.tensors["packed"]
    noisy = perturber.changes(variant("weight_noise", sigma=0.1)).tensors["packed"]
    unpacked = np.stack([packed & 15, packed >> 4], axis=-1)
    as_uint4 = initializer_changes(variant("weight_noise", sigma=0.1), {"packed": unpacked.astype(ml_dtypes.uint4)})
    expected = as_uint4.tensors["packed"].astype(np.uint8)
    assert np.array_equal(noisy, expected[..., 0] | expected[..., 1] << 4)


def test_packed_weights_that_do_not_fill_bytes_are_refused(quantized_model):
    next(a for a in quantized_model.graph.node[0].attribute if a.name == "bits").i = 3
    with pytest.raises(InputError, match="3 bits"):
        WeightPerturber.from_model(quantized_model).changes(variant("weight_noise", sigma=0.1))


@pytest.fixture
def images():
    rng = np.random.default_rng(5)
    return (rng.standard_normal((300, 3, 15, 7)) * rng.uniform(0.1, 10, (300, 1, 1, 1)) + 4).astype(np.float32)


INPUT_VARIANTS = [variant("gaussian_input", snr_db=6), variant("impulse_input", rate=0.2)]


@pytest.mark.parametrize("asked", INPUT_VARIANTS, ids=lambda asked: asked["kind"])
@pytest.mark.parametrize("size", [1, 2, 7, 300])
def test_input_noise_does_not_depend_on_the_batch_size(images, asked, size):
    whole = perturb_inputs(asked, "x", images[:30], 0)
    parts = [perturb_inputs(asked, "x", images[start : min(start + size, 30)], start) for start in range(0, 30, size)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert whole.dtype == images.dtype
    assert whole.shape == (30, 3, 15, 7)


@pytest.mark.parametrize("asked", INPUT_VARIANTS, ids=lambda asked: asked["kind"])
def test_each_sample_input_seed_and_draw_has_its_own_noise(asked):
    batch = np.repeat(np.random.default_rng(0).standard_normal((1, 64)), 4, axis=0)
    noisy = perturb_inputs(asked, "x", batch, 0)
    others = [
        perturb_inputs(asked, "mask", batch, 0),
        perturb_inputs({**asked, "draw": 1}, "x", batch, 0),
        perturb_inputs({**asked, "seed": 1}, "x", batch, 0),
    ]
    rows = np.concatenate([noisy, *others])
    assert len(np.unique(rows, axis=0)) == 16


@pytest.mark.parametrize("snr_db", [-5, 0, 10, 40])
def test_the_asked_signal_to_noise_ratio_is_reached(images, snr_db):
    signal = images.astype(np.float64)
    noise = perturb_inputs(variant("gaussian_input", snr_db=snr_db), "x", signal, 0) - signal
    power = noise.reshape(300, -1).var(axis=1) / signal.reshape(300, -1).var(axis=1)
    # 315 elements a sample: the noise's variance scatters by sqrt(2/315) = 8 % per sample.
    assert 10 * np.log10(1 / power.mean()) == pytest.approx(snr_db, abs=0.1)
    assert (np.abs(power * 10 ** (snr_db / 10) - 1) < 0.5).all()


def test_gaussian_input_noise_is_normal_and_the_same_at_every_ratio(images):
    signal = images.astype(np.float64)
    sigma = signal.reshape(300, -1).std(axis=1).reshape(300, 1, 1, 1)
    fields = [
        (perturb_inputs(variant("gaussian_input", snr_db=snr_db), "x", signal, 0) - signal)
        / sigma
        * 10 ** (snr_db / 20)
        for snr_db in (0, 20)
    ]
    np.testing.assert_allclose(fields[0], fields[1], atol=1e-9)
    assert stats.kstest(fields[0].ravel(), "norm").pvalue > 1e-4


def test_a_constant_sample_has_no_signal_and_gets_no_noise():
    batch = np.full((2, 5), 3.0, np.float32)
    assert np.array_equal(perturb_inputs(variant("gaussian_input", snr_db=0), "x", batch, 0), batch)


def test_impulses_are_salt_and_pepper_in_equal_parts(images):
    noisy = perturb_inputs(variant("impulse_input", rate=0.2), "x", images, 0).reshape(300, -1)
    flat = images.reshape(300, -1)
    salt = (noisy == flat.max(axis=1, keepdims=True)) & (noisy != flat)
    pepper = (noisy == flat.min(axis=1, keepdims=True)) & (noisy != flat)
    assert ((noisy == flat) | salt | pepper).all()
    scatter = 5 * np.sqrt(0.1 * 0.9 / flat.size)
    # One element of each sample is the maximum already, and one the minimum.
    assert salt.mean() == pytest.approx(0.1, abs=scatter + 1 / flat.shape[1])
    assert pepper.mean() == pytest.approx(0.1, abs=scatter + 1 / flat.shape[1])


@given(st.floats(0, 1), st.floats(0, 1))
def test_impulses_are_nested_in_the_rate(low, high):
    batch = np.random.default_rng(1).standard_normal((4, 50))
    low, high = sorted((low, high))
    few = perturb_inputs(variant("impulse_input", rate=low), "x", batch, 0)
    many = perturb_inputs(variant("impulse_input", rate=high), "x", batch, 0)
    hit = few != batch
    assert np.array_equal(few[hit], many[hit])
    assert np.array_equal(perturb_inputs(variant("impulse_input", rate=0.0), "x", batch, 0), batch)
    extreme = perturb_inputs(variant("impulse_input", rate=1.0), "x", batch, 0)
    assert all(set(row) <= {sample.min(), sample.max()} for row, sample in zip(extreme, batch, strict=True))


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float64])
@pytest.mark.parametrize("asked", INPUT_VARIANTS, ids=lambda asked: asked["kind"])
def test_inputs_keep_their_type(dtype, asked):
    batch = np.arange(20).reshape(4, 5).astype(dtype)
    noisy = perturb_inputs(asked, "x", batch, 0)
    assert noisy.dtype == dtype
    assert (noisy != batch).any()


@pytest.mark.parametrize("asked", INPUT_VARIANTS, ids=lambda asked: asked["kind"])
def test_integer_inputs_and_other_kinds_leave_the_batch_alone(asked, tensors):
    ids = np.arange(6).reshape(2, 3)
    assert perturb_inputs(asked, "ids", ids, 0) is ids
    batch = np.ones((2, 3), np.float32)
    assert perturb_inputs({"kind": "golden"}, "x", batch, 0) is batch
    assert perturb_inputs(variant("bit_errors", rate=1), "x", batch, 0) is batch
    empty = np.ones((0, 3), np.float32)
    assert perturb_inputs(asked, "x", empty, 0) is empty


def test_one_dimensional_inputs_are_one_element_a_sample():
    batch = np.arange(4, dtype=np.float32)
    assert np.array_equal(perturb_inputs(variant("gaussian_input", snr_db=0), "x", batch, 0), batch)


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        ({"kind": "bit_error"}, "Did you mean 'bit_errors'"),
        ({}, "unknown perturbation"),
        (variant("bit_errors"), "'rate'"),
        (variant("bit_errors", rate=2), "'rate'"),
        (variant("bit_errors", rate="0.1"), "'rate'"),
        (variant("weight_noise", sigma=-1), "'sigma'"),
        (variant("weight_noise", sigma=float("nan")), "'sigma'"),
        ({"kind": "weight_noise", "seed": 1, "sigma": 1}, "'draw'"),
        ({"kind": "bit_errors", "seed": 0.5, "draw": 0, "rate": 0.1}, "'seed'"),
    ],
)
def test_a_malformed_weight_variant_is_refused(asked, message, tensors):
    with pytest.raises(InputError, match=message):
        initializer_changes(asked, tensors)


@pytest.mark.parametrize(
    ("asked", "error", "message"),
    [
        (variant("gaussian"), UnknownNameError, "unknown perturbation"),
        (variant("gaussian_input"), InputError, "'snr_db'"),
        (variant("impulse_input", rate=-0.1), InputError, "'rate'"),
    ],
)
def test_a_malformed_input_variant_is_refused(asked, error, message):
    with pytest.raises(error, match=message):
        perturb_inputs(asked, "x", np.ones((2, 3), np.float32), 0)


def test_a_seed_gives_the_same_perturbation_in_every_version():
    weights = {"w": np.arange(-60, 60, dtype=np.int8).reshape(10, 12)}
    batch = np.linspace(0, 1, 60, dtype=np.float32).reshape(3, 20)
    flipped = initializer_changes(variant("bit_errors", 2026, 1, rate=0.05), weights).tensors["w"]
    noisy = initializer_changes(variant("weight_noise", 2026, 1, sigma=0.05), weights).tensors["w"]
    impulses = perturb_inputs(variant("impulse_input", 2026, 1, rate=0.3), "x", batch, 7)
    digests = [digest(flipped), digest(noisy), digest(impulses)]
    assert digests == ["2d158fd7be120999", "0ebe330a0e8ac639", "ee1712769e2c3d77"]
    gaussian = perturb_inputs(variant("gaussian_input", 2026, 1, snr_db=10), "x", batch, 7)
    np.testing.assert_allclose(
        gaussian[0, :3], [-0.015350437723100185, 0.005386183504015207, 0.054352156817913055], rtol=1e-6
    )


@pytest.mark.parametrize("kind", ["gaussian_input", "impulse_input"])
def test_noise_belongs_to_the_input_whichever_others_are_chosen(kind):
    asked = variant(kind, snr_db=10, rate=0.3)
    batch = np.random.default_rng(0).random((20, 2, 3)).astype(np.float32)
    whole = perturb_inputs(asked, "x", batch, 0)
    chosen = np.array([1, 2, 3, 9, 15, 16])
    some = InputPerturber().perturbed(asked, "x", batch[chosen], chosen)
    assert np.array_equal(some, whole[chosen])


def test_every_input_is_as_likely_to_be_chosen():
    counts = np.zeros(12)
    for draw in range(3000):
        chosen = chosen_inputs(1, draw, 12, 5)
        assert len(set(chosen.tolist())) == 5
        assert (np.diff(chosen) > 0).all()
        counts[chosen] += 1
    assert stats.chisquare(counts).pvalue > 1e-4
    assert chosen_inputs(1, 0, 12, None).tolist() == chosen_inputs(1, 0, 12, 12).tolist() == list(range(12))
    assert chosen_inputs(1, 0, 12, 5).tolist() != chosen_inputs(2, 0, 12, 5).tolist()


def test_the_model_is_read_without_changing_it(quantized_model):
    before = quantized_model.SerializeToString(deterministic=True)
    WeightPerturber.from_model(quantized_model).changes(variant("bit_errors", rate=0.5))
    assert quantized_model.SerializeToString(deterministic=True) == before


def test_memory_errors_are_bit_errors_behind_a_protection(tensors):
    plain = initializer_changes(variant("bit_errors", draw=2, rate=1e-3), tensors)
    bare = initializer_changes(variant("memory_errors", draw=2, rate=1e-3), tensors)
    assert bare.n_faults == plain.n_faults == bare.memory["errors"]
    for name in tensors:
        same = (one.tensors.get(name, tensors[name]) for one in (plain, bare))
        assert len({array.tobytes() for array in same}) == 1
    mended = initializer_changes(
        variant("memory_errors", draw=2, rate=1e-3, protections=["secded_39_32"], uncorrectable="halt"), tensors
    )
    assert mended.memory["corrected"] > 0
    assert mended.n_faults < plain.n_faults
    json.dumps(mended.memory)
    halting = variant("memory_errors", draw=2, rate=0.1, protections=["secded_39_32"], uncorrectable="halt")
    assert initializer_changes(halting, tensors).halted


def test_a_chip_has_its_traits(tensors):
    columns = {"row_bits": 64, "weak": 4, "share": 0.9, "chips": 1.0}
    found = [
        initializer_changes(variant("memory_errors", rate=0.01, **traits), tensors).tensors["float"].tobytes()
        for traits in ({}, {"asymmetry": 0.9}, {"columns": columns}, {"columns": None})
    ]
    assert len(set(found)) == 3
    assert found[0] == found[3]


def test_a_memory_that_reads_at_random_is_the_worst(tensors):
    with pytest.raises(InputError, match=r"number in \[0\.0, 0\.5\] as 'rate'"):
        initializer_changes(variant("memory_errors", rate=0.6), tensors)


# Listed faults


def test_listed_faults_come_one_after_the_other_and_all_stay():
    tensors = {"w": np.zeros(3, np.int8), "v": np.ones(2, np.float32)}
    faults = [["w", 0, 7, "flip", 1, 0], ["v", 1, 31, "flip", 1, 0], ["w", 0, 0, "stuck_at_1", 1, 0]]
    changes = initializer_changes({"kind": "faults", "faults": faults}, tensors)
    assert (changes.n_faults, changes.tensors["w"].tolist(), changes.tensors["v"].tolist()) == (
        3,
        [-127, 0, 0],
        [1, -1],
    )
    assert initializer_changes({"kind": "faults", "faults": []}, tensors).tensors == {}
    with pytest.raises(InputError, match="no initializer 'u'"):
        initializer_changes({"kind": "faults", "faults": [["u", 0, 0, "flip", 1, 0]]}, tensors)
