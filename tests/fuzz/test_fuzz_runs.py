"""Run directories whose files are damaged, exchanged or missing."""

from __future__ import annotations

import io
import json
from pathlib import Path

import polars as pl
import pytest
from fuzz_client import Fuzzer, check, examples
from hypothesis import given
from hypothesis import strategies as st
from mutations import changed_tree, damaged, odd_values, texts
from run_files import parquet, run_files, write_run

NAMES = ("run", "--fail-on")  # every file is below the folder of that name


def prepare_root(root: Path) -> None:
    """Write the sound run that damaged ones are compared with."""
    write_run(root / "sound")


@pytest.fixture(scope="module", autouse=True)
def _sound_run(fuzzer: Fuzzer) -> None:
    prepare_root(fuzzer.root)


def case(**changed: bytes) -> dict[str, bytes]:
    files = run_files() | {name: content for name, content in changed.items() if content is not None}
    return {f"run/{name}": content for name, content in files.items() if changed.get(name, b"") is not None}


def test_the_sound_run_is_reported_and_compared(fuzzer):
    assert fuzzer.run("run", case()).code == 0


@examples(30)
@given(st.sampled_from(sorted(run_files())).flatmap(lambda name: st.tuples(st.just(name), damaged(run_files()[name]))))
def test_damaged_files(fuzzer, changed):
    name, content = changed
    check(fuzzer.run("run", case(**{name: content})), NAMES)


@examples(45)
@given(changed_tree(json.loads(run_files()["run.json"])))
def test_records_with_odd_values(fuzzer, tree):
    content = json.dumps(tree).encode("utf-8", "surrogatepass")
    check(fuzzer.run("run", case(**{"run.json": content})), NAMES)


@examples(35)
@given(st.data())
def test_tables_with_odd_columns(fuzzer, data):
    name = data.draw(st.sampled_from(sorted(set(run_files()) - {"run.json"})))
    table = pl.read_parquet(io.BytesIO(run_files()[name]))
    column = data.draw(st.sampled_from(table.columns))
    kind = data.draw(st.sampled_from(("drop", "rename", "text", "number", "null", "odd", "empty", "repeat")))
    if kind == "drop":
        table = table.drop(column)
    elif kind == "rename":
        table = table.rename({column: data.draw(texts())}, strict=False)
    elif kind == "empty":
        table = table.clear()
    elif kind == "repeat":
        table = pl.concat([table, table])
    elif kind == "odd" and table[column].dtype == pl.String:
        odd = data.draw(st.one_of(texts(), odd_values().map(lambda value: json.dumps(value))))
        row = data.draw(st.integers(0, len(table) - 1))
        values = [odd if index == row else value for index, value in enumerate(table[column])]
        table = table.with_columns(pl.Series(column, values, pl.String))
    else:
        value = {"text": "a", "number": data.draw(st.floats()), "null": None}.get(kind, [1])
        table = table.with_columns(pl.lit(value).alias(column))
    check(fuzzer.run("run", case(**{name: parquet(table)})), NAMES)
