from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
from error_bits import failing_bits
from onnx import numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as onnxruntime_state
from shared_run import DRAWS, RATES, RUN_HERE, SEED, SETTINGS, bare_outputs

COLUMNS = {"draw", "rate", "chip", "seed", "n_faults", "n_inputs", "n_changed", "n_due", "top1"}


def flipped_by_hand(path: Path, draw: int, rate: float) -> tuple[bytes, int]:
    """The file with its faults put into the raw bytes of its initializers, and how many there are."""
    model, count = onnx.load(path), 0
    for tensor in model.graph.initializer:
        content = bytearray(numpy_helper.to_array(tensor).tobytes())
        for bit in failing_bits(SEED, draw, tensor.name, 8 * len(content), rate):
            content[bit // 8] ^= 1 << bit % 8
            count += 1
        faulty = onnx.TensorProto(
            name=tensor.name, data_type=tensor.data_type, dims=tensor.dims, raw_data=bytes(content)
        )
        tensor.CopyFrom(faulty)
    return model.SerializeToString(), count


@pytest.mark.parametrize(("draw", "rate"), [(1, 1e-3), (2, 1e-3), (0, 1e-2)])
def test_a_draw_done_by_hand_on_the_files_bytes_gives_the_same_figures(shared, draw, rate):
    path = shared.deployed("cpu-int8")
    faulty, n_faults = flipped_by_hand(path, draw, rate)
    golden, outputs = bare_outputs(path, shared.x), bare_outputs(faulty, shared.x)
    due = ~np.isfinite(outputs).all(axis=1)
    changed = ~due & (outputs.argmax(axis=1) != golden.argmax(axis=1))
    right = ~due & (outputs.argmax(axis=1) == shared.y)
    (recorded,) = shared.draws("cpu-int8").filter(pl.col("draw") == draw, pl.col("rate") == rate).to_dicts()
    assert recorded == {
        "draw": draw,
        "rate": rate,
        "chip": draw,
        "seed": SEED,
        "n_faults": n_faults,
        "n_inputs": len(shared.x),
        "n_changed": changed.sum(),
        "n_due": due.sum(),
        "top1": right.mean(),
    }
    assert changed.any()


def test_a_faulty_build_that_the_runtime_refuses_is_due_on_every_input(shared):
    faulty, n_faults = flipped_by_hand(shared.deployed("cpu-int8"), 3, 1e-3)
    with pytest.raises(onnxruntime_state.Fail, match="Reshape"):
        bare_outputs(faulty, shared.x)
    (recorded,) = shared.draws("cpu-int8").filter(pl.col("draw") == 3, pl.col("rate") == 1e-3).to_dicts()
    assert (recorded["n_faults"], recorded["n_changed"], recorded["n_due"]) == (n_faults, 0, len(shared.x))
    assert recorded["top1"] == 0


@pytest.mark.parametrize("profile", RUN_HERE)
def test_the_draws_table_has_one_line_a_draw_and_rate_and_faults_grow_with_the_rate(shared, profile):
    table = shared.draws(profile)
    assert set(table.columns) == COLUMNS
    assert table.height == DRAWS * len(RATES)
    for _, draw in table.sort("rate").group_by("draw", maintain_order=True):
        assert draw["rate"].to_list() == list(RATES)
        counts = draw["n_faults"].to_list()
        assert counts == sorted(counts)
        assert counts[-1] > counts[0]


def test_error_sets_are_nested(shared):
    bits = [set(failing_bits(SEED, 0, "any", 20_000, rate)) for rate in RATES]
    assert bits[0] < bits[1] < bits[2]


def test_the_number_of_faults_is_what_the_rate_says(shared):
    model = onnx.load(shared.deployed("cpu-int8"))
    stored = sum(8 * numpy_helper.to_array(tensor).nbytes for tensor in model.graph.initializer)
    counts = shared.draws("cpu-int8").filter(pl.col("rate") == 1e-2)["n_faults"].to_numpy()
    assert abs(counts.mean() - 0.01 * stored) < 4 * np.sqrt(0.01 * stored / DRAWS)


def test_builds_with_the_same_stored_bits_share_their_faults(shared):
    assert shared.deployed("cpu-int8") == shared.deployed("openvino-int8")
    counts = [shared.draws(profile).sort("draw", "rate")["n_faults"] for profile in ("cpu-int8", "openvino-int8")]
    assert counts[0].equals(counts[1])


@pytest.mark.parametrize("profile", RUN_HERE)
def test_rows_are_means_over_the_draws_table(shared, profile):
    for rate in RATES:
        draws = shared.draws(profile).filter(pl.col("rate") == rate)
        means = {
            "top1": draws["top1"].mean(),
            "sdc_rate": draws["n_changed"].sum() / draws["n_inputs"].sum(),
            "due_rate": draws["n_due"].sum() / draws["n_inputs"].sum(),
            "accuracy_drop": shared.row(profile, "accuracy", "top1").value - draws["top1"].mean(),
        }
        for metric, value in means.items():
            row = shared.row(profile, "bit_flips", metric, ber=rate)
            assert row.value == pytest.approx(value), metric
            assert row.ci_low <= row.value <= row.ci_high
            assert row.n == DRAWS * len(shared.x)
        assert shared.row(profile, "bit_flips", "top1", ber=rate, draw="worst").value == draws["top1"].min()


@pytest.mark.parametrize("profile", RUN_HERE)
def test_the_tolerated_rate_reaches_from_what_is_shown_within_the_limit_to_what_is_not_shown_outside(shared, profile):
    limit = SETTINGS["bit_flips"]["max_drop"]
    losses = [shared.row(profile, "bit_flips", "accuracy_drop", ber=rate) for rate in RATES]
    outside = [row.ci_low > limit for row in losses]
    inside = [row.ci_high <= limit for row in losses]
    shown = [rate for place, rate in enumerate(RATES) if all(inside[: place + 1])]
    possible = [rate for place, rate in enumerate(RATES) if not any(outside[: place + 1])]
    row = shared.row(profile, "bit_flips", "tolerated_ber")
    assert row.value == row.ci_low == max(shown, default=0)
    assert row.ci_high == max(possible, default=0)
    assert ("not decided" in row.detail) == (row.ci_low < row.ci_high)
    assert "not decided" in row.detail  # four draws cannot show a loss within 5 %
