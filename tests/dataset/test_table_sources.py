"""Tables that are damaged, or too wide or long to be held."""

import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hwbench.dataset import DataSpec, materialise, open_source, tables
from hwbench.errors import DataError


class Input:
    name, dtype = "x", "float32"

    def __init__(self, columns=2):
        self.shape = (None, columns)


def csv(folder, content):
    path = folder / "t.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


def read(path, columns=2, **spec):
    return materialise(
        open_source(DataSpec(source=str(path), **spec)), [Input(columns)], path.parent / "out", task=None
    )


def refuses(path, match, **arguments):
    with pytest.raises(DataError, match=match) as refused:
        read(path, **arguments)
    assert str(path) in str(refused.value)
    assert len(str(refused.value)) < 600


def test_an_open_quote(tmp_path):
    refuses(csv(tmp_path, 'a,b\n1,2\n3,"4\n5,6\n'), "before byte 17: a quote is not closed; correct it")


def test_what_follows_an_open_quote_is_not_read_whole(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK_BYTES", 100)
    monkeypatch.setattr(tables, "RECORD_BYTES", 1000)
    path = csv(tmp_path, 'a,b\n1,"2\n' + "3,4\n" * 100_000)
    with pytest.raises(DataError, match=r"before byte 1[01]..: a quote is not closed"):
        read(path)


def test_a_line_without_an_end(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "RECORD_BYTES", 1000)
    monkeypatch.setattr(tables, "BLOCK_BYTES", 100)
    refuses(csv(tmp_path, "a,b\n1," + "2" * 50_000 + "\n"), "before byte 11..: a line is longer than 0 MiB")
    refuses(csv(tmp_path, "a" * 50_000), "its header is longer than")


def test_long_records_within_the_limit_are_read(tmp_path, monkeypatch):
    monkeypatch.setattr(tables, "BLOCK_BYTES", 10)
    lines = [f'{at}{" " * 40},"{at}.5"' if at % 3 else f"{at},{at}.5" for at in range(50)]
    data = read(csv(tmp_path, "a,b\n" + "\n".join(lines)))
    assert data.rows("x", 0, 50).tolist() == [[at, at + 0.5] for at in range(50)]


@pytest.mark.parametrize("columns", [20_000, 200_000])
def test_wide_tables_are_refused_by_their_header(tmp_path, columns):
    header = ",".join(f"c{at}" for at in range(columns))
    refuses(csv(tmp_path, f"{header}\n" + "1," * columns), f"{columns} columns, more than the limit of 16384.* as .npz")


def test_a_thousand_columns_are_read(tmp_path):
    values = np.arange(3000.0).reshape(3, 1000)
    text = "\n".join(",".join(map(str, row)) for row in (range(1000), *values))
    np.testing.assert_array_equal(read(csv(tmp_path, text), columns=1000).rows("x", 0, 3), values)


def test_the_width_is_compared_before_a_row_is_read(tmp_path):
    path = csv(tmp_path, "a,b,c\n\xff\xfe not a table".encode("latin-1"))
    refuses(path, r"row 0 .*a sample has shape \[3\], the model takes \[2\]")


@pytest.mark.parametrize(
    ("content", "match"),
    [
        (b"a,b\n1,2\n\xff,4\n", "from row 0 .* on: not a CSV table .*utf-8"),
        (b"\xff\xfea\x00,\x00b\x00\n\x001\x00", "not a number"),
        (b"\x00" * 500, "empty|not a CSV table|a sample has shape"),
        (b"a,b\n1,2,3\n", "from row 0 .*more fields"),
        (b"a,b\n1,1e999\n", "row 0 .*holds inf"),
        (b"a,b\n1,x" + b"y" * 5000 + b"\n", "row 0 .*column 'b' is 'xy+…', not a number"),
        (b"PAR1" + b"\x00" * 50, "."),
        (b"a,b,y\n1,2,nan\n", "labels: row 0 .*holds nan"),
    ],
)
def test_files_that_are_not_tables_of_numbers(tmp_path, content, match):
    refuses(csv(tmp_path, content), match)


@given(st.binary(max_size=300) | st.text('a,"\n\r1.5 \x00é', max_size=60).map(str.encode))
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_csv_is_read_or_refused(tmp_path, content):
    for path in (csv(tmp_path, content), csv(tmp_path, b"a,b\n" + content)):
        try:
            read(path)
        except DataError as error:
            assert str(path) in str(error)  # noqa: PT017  either end is right


def test_damaged_parquet(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": np.arange(5000.0), "b": np.arange(5000.0)}).write_parquet(path)
    whole = path.read_bytes()
    np.testing.assert_array_equal(read(path).rows("x", 4999, 5000), [[4999, 4999]])
    damaged = whole[:2000] + bytes(3000) + whole[5000:]
    for content in (b"", b"PAR1", whole[:-9], whole[4:], b"a,b\n1,2\n", damaged, whole[:-8] + b"\xff\xff\xff\x7fPAR1"):
        path.write_bytes(content)
        refuses(path, "not a Parquet file, or truncated|damaged")


def test_columns_are_refused_by_the_schema(tmp_path, monkeypatch):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": [1.0], "b": ["text"]}).write_parquet(path)
    monkeypatch.setattr(tables.ParquetSource, "_blocks", lambda *_: pytest.fail("a row was read"))
    refuses(path, "column 'b' holds String, not numbers")
    pl.DataFrame({"a": [1.0], "b": [2.0]}).write_parquet(path)
    refuses(path, r"a sample has shape \[2\], the model takes \[3\]", columns=3)


def test_labels_that_are_words(tmp_path):
    path = tmp_path / "t.parquet"
    pl.DataFrame({"a": [1.0, 2.0], "b": [1.0, 2.0], "y": ["cat", "dog"]}).write_parquet(path)
    refuses(path, "column 'y' holds String, not numbers; number it, or leave it out")


@pytest.mark.parametrize("step", [1, 7, 1000])
def test_parquet_is_read_in_blocks_and_groups_of_columns(tmp_path, monkeypatch, step):
    monkeypatch.setattr(tables, "NUMBER_BYTES", step * 8 * 4)
    monkeypatch.setattr(tables, "PAGE_BYTES", 1)
    values = np.random.default_rng(0).normal(size=(60, 3))
    path = tmp_path / "t.parquet"
    frame = pl.DataFrame(values, schema=["a", "b", "c"]).with_columns(y=pl.Series(range(60)))
    frame.write_parquet(path, row_group_size=13)
    data = read(path, columns=3)
    np.testing.assert_array_equal(data.rows("x", 0, 60), values.astype(np.float32))
    assert data.labels_array().tolist() == list(range(60))
