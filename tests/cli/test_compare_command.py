from __future__ import annotations

import shutil

import polars as pl
import pytest

from hwbench.api import Run


@pytest.fixture(scope="module")
def worse(shared, tmp_path_factory):
    """The shared run with its int8 accuracy a tenth lower and its latency doubled."""
    folder = tmp_path_factory.mktemp("compare") / "worse"
    shutil.copytree(shared.run.path, folder)
    table = pl.read_parquet(folder / "measurements.parquet")
    int8 = pl.col("profile") == "cpu-int8"
    accuracy = int8 & (pl.col("study") == "accuracy") & (pl.col("metric") == "top1") & (pl.col("condition") == "{}")
    latency = int8 & (pl.col("metric") == "p50_ms")
    for column in ("value", "ci_low", "ci_high"):
        changed = pl.when(accuracy).then(pl.col(column) - 0.5).when(latency).then(pl.col(column) * 2)
        table = table.with_columns(changed.otherwise(pl.col(column)).alias(column))
    table.write_parquet(folder / "measurements.parquet")
    return folder


def test_a_run_against_itself_passes_every_gate(hw, shared):
    ended = hw(
        "compare", shared.run.path, shared.run.path, "--fail-on", "accuracy.top1:0.01", "--fail-on", "p50_ms:10%"
    )
    assert ended.code == 0, ended.out
    assert "B against A" in ended.out
    assert "fail " not in ended.out


def test_a_regression_exits_with_1_and_names_the_gate(hw, shared, worse):
    ended = hw("compare", shared.run.path, worse, "--fail-on", "accuracy.top1:0.01")
    assert ended.code == 1
    assert any(
        line.startswith("fail") and "accuracy.top1:0.01" in line and "cpu-int8" in line
        for line in ended.out.splitlines()
    )
    assert hw("compare", shared.run.path, worse, "--fail-on", "p50_ms:50%").code == 1
    assert hw("compare", worse, shared.run.path, "--fail-on", "p50_ms:50%").code == 0  # faster is no regression


def test_without_a_gate_it_only_shows(hw, shared, worse):
    assert hw("compare", shared.run.path, worse).code == 0


def test_json_has_every_row_and_gate(hw, shared, worse):
    ended = hw("compare", shared.run.path, worse, "--fail-on", "accuracy.top1:0.01", "--json")
    assert ended.code == 1
    rows = {(row["profile"], row["study"], row["metric"], row["condition"]): row for row in ended.json["comparison"]}
    assert rows["cpu-int8", "accuracy", "top1", "{}"]["difference"] == pytest.approx(-0.5)
    outcomes = {gate["profile"]: gate["outcome"] for gate in ended.json["gates"]}
    assert outcomes["cpu-int8"] == "fail"
    assert outcomes["cpu-fp32"] != "fail"
    assert len(rows) >= Run.open(worse).table.height


@pytest.mark.parametrize("gate", ["top1", "top1:", "top1:lots", ":0.1"])
def test_a_malformed_gate_is_refused(hw, shared, gate):
    ended = hw("compare", shared.run.path, shared.run.path, "--fail-on", gate)
    assert ended.code == 2
    assert ended.err.startswith("error: ")


def test_a_folder_without_a_run_is_refused(hw, shared, tmp_path):
    ended = hw("compare", shared.run.path, tmp_path)
    assert ended.code == 2
    assert f"{tmp_path}: no run here" in ended.err
