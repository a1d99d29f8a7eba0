from __future__ import annotations

import csv

import ml_dtypes
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from polars.testing import assert_frame_equal

from hwbench.errors import InputError
from hwbench.faults.listing import SCHEMA, as_csv, check_lines, open_list, read_faults, write_faults

STORED = {
    "w": np.zeros((2, 3), np.int8),
    "12": np.zeros(4, np.float32),
    "q": np.zeros(5, ml_dtypes.int4),
    "big": np.zeros(2, np.uint64),
}


@pytest.fixture
def listed(tmp_path):
    """Writes lines as a fault list and reads it."""

    def read(*lines: str, header: str = "tensor,element,bit,kind") -> pl.DataFrame:
        (tmp_path / "list.csv").write_text("\n".join([header, *lines, ""]))
        return read_faults(tmp_path / "list.csv", STORED, {"@activation/d": "only its quantized form is kept"})

    return read


def test_a_list_is_read_back_as_it_was_written(tmp_path):
    rows = [
        ("w", 5, 7, "flip", 1, 0),
        ("12", 3, 31, "stuck_at_1", 1, 0),
        ("q", 0, 3, "burst", 6, 0),
        ("big", 1, 0, "random_value", 1, 2**64 - 1),
        ("w", 0, 0, "stuck_at_0", 1, 0),
    ]
    faults = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    write_faults(tmp_path / "list.csv", pl.concat([faults, faults[:2]]), STORED)  # as drawn with replacement
    assert_frame_equal(read_faults(tmp_path / "list.csv", STORED), faults)
    assert pl.read_csv(tmp_path / "list.csv")["format"].to_list() == ["int8", "float32", "int4", "uint64", "int8"]


def test_width_and_value_are_read_where_a_kind_needs_them_only(listed):
    read = listed(
        "w,0,0,flip,,", "w,0,0,burst,3,", "w,0,0,random_value,,9", header="tensor,element,bit,kind,width,value"
    )
    assert read.select("width", "value").rows() == [(1, 0), (3, 0), (1, 9)]
    assert listed("w,1,1,flip").rows() == [("w", 1, 1, "flip", 1, 0)]


def test_columns_come_in_any_order_and_others_are_passed_over(listed):
    read = listed("a note,flip,12,3,1", header="why,kind,tensor,bit,element")
    assert read.rows() == [("12", 1, 3, "flip", 1, 0)]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("v,0,0,flip,1,0,", "the build has no initializer 'v'"),
        (",0,0,flip,1,0,", "the build has no initializer ''"),
        ("@attribute/n/a,0,0,flip,1,0,", "the build has no stored numbers '@attribute/n/a'"),
        ("w,6,0,flip,1,0,", "element 6 is not in 0 … 5 of 'w' (int8)"),
        ("w,-1,0,flip,1,0,", "element -1 is not a whole number of at least 0"),
        ("w,1.5,0,flip,1,0,", "element 1.5 is not a whole number of at least 0"),
        ("w,,0,flip,1,0,", "element None is not a whole number of at least 0"),
        ("w,0,8,flip,1,0,", "bit 8 is not in 0 … 7 of 'w' (int8)"),
        ("q,0,4,flip,1,0,", "bit 4 is not in 0 … 3 of 'q' (int4)"),
        ("w,0,high,flip,1,0,", "bit high is not a whole number of at least 0"),
        ("w,0,0,melt,1,0,", "unknown kind 'melt'; it is one of flip, stuck_at_0, stuck_at_1, burst, random_value"),
        ("w,0,0,flip,1,0,uint8", "'w' is stored as int8 in this build, not as uint8"),
        ("w,0,0,burst,0,0,", "a burst needs a width of at least 1 bit, not 0"),
        ("w,0,0,burst,49,0,", "width 49 is not in 0 … 48"),
        ("w,0,0,burst,,0,", "width None is not a whole number of at least 0"),
        ("w,0,0,random_value,1,256,", "value 256 is not in 0 … 255 of 'w' (int8)"),
        ("q,0,0,random_value,1,16,", "value 16 is not in 0 … 15 of 'q' (int4)"),
        ("w,0,0,random_value,1,,", "value None is not a whole number of at least 0"),
        ("w,1,1,flip,1,0,", "the same fault stands in line 2"),
        ("w,1,1,flip,4,3,int8", "the same fault stands in line 2"),
        ("w,²,0,flip,1,0,", "element ² is not a whole number of at least 0"),
        (f"w,{2**64},0,flip,1,0,", "is not a whole number of at least 0"),
        ("@activation/h,0,0,flip,1,0,", "the build has no tensor 'h' between operators"),
        ("@activation/d,0,0,flip,1,0,", "'@activation/d' has no faults of its own: only its quantized form is kept"),
    ],
)
def test_a_line_that_cannot_be_replayed(listed, tmp_path, line, said):
    with pytest.raises(InputError) as refused:
        listed(
            "w,1,1,flip,1,0,int8", "12,0,0,flip,1,0,float32", line, header="tensor,element,bit,kind,width,value,format"
        )
    assert str(refused.value).startswith(f"{tmp_path / 'list.csv'}, line 4: ")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (None, "cannot be read: No such file or directory"),
        (b"", "not a CSV file: empty CSV"),
        (b"tensor,element,kind\nw,0,flip\n", "the column 'bit' is missing; it needs tensor, element, bit, kind"),
        (b"tensor,element,bit,kind\n", "lists no fault"),
        (b"tensor,element,bit,kind\nw,0,0,flip,too,many\n", "not a CSV file"),
        (b"tensor,element,bit,kind\n\xff\xfe,0,0,flip\n", "not a CSV file"),
    ],
)
def test_a_file_that_is_no_list_is_refused_without_a_build(tmp_path, content, said):
    if content is not None:
        (tmp_path / "list.csv").write_bytes(content)
    with pytest.raises(InputError) as refused:
        open_list(tmp_path / "list.csv")
    assert str(refused.value).startswith(f"{tmp_path / 'list.csv'}: ")
    assert said in str(refused.value)


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("v,0,high,flip", "bit high is not a whole number"),
        ("v,0,0,melt", "unknown kind 'melt'"),
        ("v,0,0,burst", "width None is not a whole number"),
        ("v,1,0,flip", "the same fault stands in line 2"),
    ],
)
def test_what_a_line_says_for_any_build_is_told_without_one(tmp_path, line, said):
    (tmp_path / "list.csv").write_text(f"tensor,element,bit,kind\nv,1,0,flip\n{line}\n")
    with pytest.raises(InputError) as refused:
        check_lines(tmp_path / "list.csv")
    assert str(refused.value).startswith(f"{tmp_path / 'list.csv'}, line 3: {said}")


def test_a_folder_is_no_list(tmp_path):
    with pytest.raises(InputError, match="is a folder, not a regular file"):
        open_list(tmp_path)


NAMES = st.one_of(
    st.text(max_size=8), st.tuples(st.sampled_from("=+-@\t\r'\""), st.text(max_size=8)).map("".join)
).filter(lambda name: name and "\r\n" not in name and name.isprintable() | (name[0] in "\t\r"))


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(NAMES, min_size=1, max_size=4, unique=True))
def test_no_name_is_a_formula_to_a_spreadsheet_and_all_are_read_back(tmp_path, names):
    stored = {name: np.zeros(4, np.float32) for name in names}
    faults = pl.DataFrame([(name, 0, 1, "flip", 1, 0) for name in names], schema=SCHEMA, orient="row")
    write_faults(tmp_path / "list.csv", faults, stored)
    assert_frame_equal(read_faults(tmp_path / "list.csv", stored), faults)
    with (tmp_path / "list.csv").open(encoding="utf-8", newline="") as file:
        cells = [row[0] for row in csv.reader(file)][1:]
    assert len(cells) == len(names)
    assert not [cell for cell in cells if cell[0] in "=+-@\t\r"]


def test_formulas_are_escaped_by_one_quote_and_lists_without_are_read_too(tmp_path):
    table = pl.DataFrame({"tensor": ["=1+1", "@activation/a", "'=x", "'x", "x=", None]})
    assert as_csv(table).decode().splitlines()[1:] == ["'=1+1", "'@activation/a", "''=x", "'x", "x=", ""]
    (tmp_path / "a.csv").write_text(
        "tensor,element,bit,kind\n@activation/a,0,0,flip\n'@activation/b,0,0,flip\n'c,0,0,flip\n"
    )
    assert open_list(tmp_path / "a.csv")["tensor"].to_list() == ["@activation/a", "@activation/b", "'c"]


def test_numbers_of_thousands_of_digits_are_none(listed):
    with pytest.raises(InputError, match="is not a whole number") as refused:
        listed(f"w,{'1' * 5000},0,flip")
    assert len(str(refused.value)) < 200
