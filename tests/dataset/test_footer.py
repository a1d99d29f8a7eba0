import numpy as np
import polars as pl
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.dataset import footer, tables
from hwbench.dataset.footer import largest_column


def written(path, columns=3, rows=40_000, **options):
    values = np.random.default_rng(0).random((rows, columns))
    frame = pl.DataFrame(values, schema=[f"c{at}" for at in range(columns)])
    frame.with_columns(narrow=pl.lit(1, pl.UInt8)).write_parquet(path, **options)
    return path


@pytest.mark.parametrize("compression", ["uncompressed", "zstd"])
@pytest.mark.parametrize("group", [1000, 40_000])
def test_the_size_of_random_numbers_is_found(tmp_path, compression, group):
    path = written(tmp_path / "a.parquet", row_group_size=group, compression=compression)
    assert 0.7 < largest_column(path) / (8 * group) < 1.1


def test_many_columns_and_groups(tmp_path, monkeypatch):
    path = written(tmp_path / "a.parquet", columns=200, rows=500, row_group_size=100)
    assert 700 < largest_column(path) < 1100
    monkeypatch.setattr(footer, "_MAX_FOOTER", 1000)
    assert largest_column(path) == 0


@given(st.binary(max_size=300))
def test_any_footer_is_read_or_refused(tmp_path_factory, content):
    path = tmp_path_factory.mktemp("footer") / "a.parquet"
    path.write_bytes(content + len(content).to_bytes(4, "little") + b"PAR1")
    with pytest.raises(ValueError, match="its footer"):
        largest_column(path)


def test_a_column_too_large_for_a_block_is_refused(tmp_path, monkeypatch):
    from hwbench.dataset import DataSpec, open_source
    from hwbench.errors import DataError

    path = written(tmp_path / "a.parquet")
    monkeypatch.setattr(tables, "COLUMN_BYTES", 100_000)
    with pytest.raises(DataError, match=r"a.parquet: a column of a row group has 0 MiB.*; write it with smaller row"):
        list(open_source(DataSpec(source=str(path))).batches(8))
    written(path, row_group_size=5000)
    assert sum(len(arrays["c0"]) for arrays, _ in open_source(DataSpec(source=str(path))).batches(512)) == 40_000
