"""The measurement table: its schema, and rows written and read back."""

import json
import math
from dataclasses import fields, replace
from typing import get_args

import polars as pl
from hypothesis import given
from hypothesis import strategies as st

from hwbench.table import SCHEMA, Row, Status, condition, from_frame, to_frame

text = st.text(max_size=8)
figure = st.none() | st.floats()
rows = st.builds(
    Row,
    study=text,
    metric=text,
    condition=st.dictionaries(st.sampled_from(["ber", "batch", "tensor"]), st.integers(0, 9)).map(
        lambda setting: condition(**setting)
    ),
    value=figure,
    unit=text,
    ci_low=figure,
    ci_high=figure,
    ci_level=st.none() | st.floats(0, 1),
    n=st.none() | st.integers(0, 2**40),
    status=st.sampled_from(get_args(Status)),
    detail=text,
    model=text,
    profile=text,
    build=text,
)


def stored(row):
    """A row as the table keeps it: what is not a number is no figure."""
    values = {name: getattr(row, name) for name in ("value", "ci_low", "ci_high")}
    return replace(
        row, **{name: None if value is not None and math.isnan(value) else value for name, value in values.items()}
    )


@given(st.lists(rows, max_size=5))
def test_rows_survive_the_table(written):
    frame = to_frame(written)
    assert frame.schema == pl.Schema(SCHEMA)
    assert from_frame(frame) == [stored(row) for row in written]


def test_the_table_survives_its_file(tmp_path):
    frame = to_frame([Row("accuracy", "top1", value=0.97, unit="ratio", ci_low=0.95, ci_high=math.inf, n=1000)])
    frame.write_parquet(tmp_path / "table.parquet")
    assert pl.read_parquet(tmp_path / "table.parquet").equals(frame)


def test_rows_and_columns_are_the_same_set():
    assert {field.name for field in fields(Row)} == set(SCHEMA)


def test_columns_have_their_promised_order():
    assert " ".join(SCHEMA) == (
        "model profile build study condition metric value unit ci_low ci_high ci_level n status detail"
    )


def test_conditions_are_json_with_sorted_keys():
    assert condition(threads=2, batch=8) == '{"batch": 8, "threads": 2}'
    assert condition() == "{}"
    assert json.loads(condition(ber=1e-4)) == {"ber": 0.0001}


def test_columns_of_a_later_version_are_left_alone():
    row = Row("accuracy", "top1", value=1.0)
    wider = to_frame([row]).with_columns(pl.lit("new").alias("added"))
    assert from_frame(wider) == [row]
