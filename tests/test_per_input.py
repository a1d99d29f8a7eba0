"""Per-input results: what is stored is read again, and what equal bits show."""

import numpy as np
import polars as pl
import pytest

from hwbench.errors import RunDirectoryError
from hwbench.per_input import FOLDER, PerInput, digests, telling
from hwbench.store import RunDirectory

SCORES = np.random.default_rng(0).normal(size=(9, 4)).astype(np.float32)


def test_a_table_holds_all_of_it_in_small_types():
    found = PerInput(
        9,
        {"top1": np.array([1.0, 0] * 4 + [1]), "rmse": np.linspace(0, 2, 9)},
        digests(SCORES),
        SCORES.argmax(axis=1).astype(np.int32),
        np.ones(9),
    )
    table = found.to_frame()
    assert dict(table.schema) == {
        "input": pl.UInt32,
        "output": pl.UInt64,
        "predicted": pl.Int32,
        "value_top1": pl.Boolean,
        "value_rmse": pl.Float64,
        "label_spread": pl.Float64,
    }
    again = PerInput.from_frame(table)
    assert again.n == 9
    assert again.computes_as(found)
    for name, values in found.values.items():
        np.testing.assert_array_equal(again.values[name], values)
    np.testing.assert_array_equal(again.predicted, found.predicted)


def test_one_bit_of_one_output_is_another_computation():
    other = SCORES.copy()
    other.view(np.uint32)[3, 2] ^= 1
    first, second = (PerInput(9, {}, telling(digests(scores), scores.dtype)) for scores in (SCORES, other))
    assert first.computes_as(first)
    assert not first.computes_as(second)


@pytest.mark.parametrize("outputs", [np.arange(9), np.array([0.0, 1, 2] * 3, np.float32)])
def test_classes_and_few_values_show_nothing_about_the_computation(outputs):
    hashes = telling(digests(outputs), outputs.dtype)
    assert hashes is None
    found = PerInput.from_frame(PerInput(9, {}, hashes).to_frame())
    assert not found.computes_as(found)


def test_parts_are_read_together_and_damage_is_named(tmp_path):
    record = {"fingerprint": {}, "state": "running"}
    with RunDirectory.create(tmp_path / "run", record) as run:
        assert run.read_parts(FOLDER, "p") is None
        for part in range(2):
            run.write_part(FOLDER, "p", PerInput(9, {"top1": np.ones(9)}).to_frame(), part)
        assert run.read_parts(FOLDER, "p").height == 18
        assert run.read_parts(FOLDER, "../inputs/p") is None
        (run.path / FOLDER / "p" / "part-00001.parquet").write_bytes(b"no parquet")
        with pytest.raises(RunDirectoryError, match="damaged"):
            run.read_parts(FOLDER, "p")
