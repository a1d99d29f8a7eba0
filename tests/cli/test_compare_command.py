from __future__ import annotations

import json
import shutil

import numpy as np
import onnx
import polars as pl
import pytest
from models import make_model
from shared_run import LAUNCHES, save_model, without_hashes

import hwbench
from hwbench import demo
from hwbench.api import Run


@pytest.fixture(scope="module")
def steady(shared, tmp_path_factory):
    """The shared run with launches that agree and that nothing disturbed."""
    folder = tmp_path_factory.mktemp("compare") / "steady"
    without_hashes(shutil.copytree(shared.run.path, folder))
    for part in (folder / "latency").glob("*/part-*.parquet"):
        figures = (0.05 * (1 + 0.01 * pl.col("block"))).alias("p50_ms")
        pl.read_parquet(part).with_columns(figures, pl.lit(False).alias("disturbed")).write_parquet(part)
    return folder


@pytest.fixture(scope="module")
def worse(steady, tmp_path_factory):
    """The same with its int8 accuracy a half lower and its latency doubled."""
    folder = tmp_path_factory.mktemp("compare") / "worse"
    shutil.copytree(steady, folder)
    launches = folder / "latency" / "cpu-int8" / "part-00000.parquet"
    pl.read_parquet(launches).with_columns(pl.col("p50_ms") * 2).write_parquet(launches)
    table = pl.read_parquet(folder / "measurements.parquet")
    int8 = pl.col("profile") == "cpu-int8"
    accuracy = int8 & (pl.col("study") == "accuracy") & (pl.col("metric") == "top1") & (pl.col("condition") == "{}")
    latency = int8 & (pl.col("metric") == "p50_ms")
    for column in ("value", "ci_low", "ci_high"):
        changed = pl.when(accuracy).then(pl.col(column) - 0.5).when(latency).then(pl.col(column) * 2)
        table = table.with_columns(changed.otherwise(pl.col(column)).alias(column))
    table.write_parquet(folder / "measurements.parquet")
    part = folder / "inputs" / "cpu-int8" / "part-00000.parquet"
    inputs = pl.read_parquet(part)
    wrong = pl.col("value_top1") & (pl.col("value_top1").cum_sum() <= inputs.height // 2)
    inputs.with_columns(pl.col("value_top1") & ~wrong, pl.col("output") + wrong.cast(pl.UInt64)).write_parquet(part)
    return folder


@pytest.fixture(scope="module")
def old(shared, tmp_path_factory):
    """The shared run as an earlier version left it: nothing kept per input."""
    folder = tmp_path_factory.mktemp("compare") / "old"
    without_hashes(shutil.copytree(shared.run.path, folder))
    shutil.rmtree(folder / "inputs")
    return folder


def linear(path, weights):
    """A classifier of three classes by a linear map of four features."""
    nodes = [onnx.helper.make_node("MatMul", ["x", "w"], ["scores"])]
    inputs, outputs = ({name: (onnx.TensorProto.FLOAT, ["n", size])} for name, size in (("x", 4), ("scores", 3)))
    return save_model(make_model(nodes, inputs, outputs, {"w": weights}), path)


@pytest.fixture(scope="module")
def planted(tmp_path_factory):
    """Runs on 300 inputs: a model twice, and one that is wrong on 18 inputs more."""
    folder, rng = tmp_path_factory.mktemp("planted"), np.random.default_rng(3)
    labels = rng.integers(0, 3, 300)
    x = np.zeros((300, 4), np.float32)
    x[:, :3] = np.eye(3)[labels] + rng.normal(0, 0.05, (300, 3))
    x[rng.choice(np.flatnonzero(labels != 0), 18, replace=False), 3] = 1
    np.savez(folder / "data.npz", x=x, y=labels)
    weights = np.vstack([np.eye(3), np.zeros((1, 3))]).astype(np.float32)
    other = weights.copy()
    other[3, 0] = 10
    runs = {}
    for name, stored in (("a", weights), ("again", weights), ("b", other)):
        model = linear(folder / f"{name}.onnx", stored)
        runs[name] = hwbench.run(
            model, data=folder / "data.npz", profiles=["cpu-fp32"], studies=["accuracy"], out=folder / name
        ).path
    return runs


def test_two_runs_of_the_same_thing_pass_because_they_are_paired(hw, planted):
    ended = hw("compare", planted["a"], planted["again"], "--fail-on", "accuracy.top1:0.01", "--strict")
    assert ended.code == 0, ended.out
    (line,) = (line for line in ended.out.splitlines() if "cpu-fp32 accuracy.top1" in line)
    assert line.startswith("pass")
    assert "unchanged [0, 0]" in line
    assert "all outputs bit-identical" in line
    assert "-0" not in line


def test_a_planted_loss_of_six_points_of_300_inputs_is_found(hw, planted):
    ended = hw("compare", planted["a"], planted["b"], "--fail-on", "accuracy.top1:0.01", "--json")
    assert ended.code == 1
    gate = next(gate for gate in ended.json["gates"] if gate["profile"] == "cpu-fp32")
    assert gate["outcome"] == "fail"
    assert gate["worsening"] == pytest.approx(0.06)
    assert 0.01 < gate["low"] < 0.06 < gate["high"]
    rows = {(row["profile"], row["metric"], row["condition"]): row for row in ended.json["comparison"]}
    row = rows["cpu-fp32", "top1", "{}"]
    assert (row["paired"], row["n"], row["only_a"], row["only_b"], row["verdict"]) == (True, 300, 18, 0, "worse")
    back = hw("compare", planted["b"], planted["a"], "--fail-on", "accuracy.top1:0.01")
    assert back.code == 0
    assert "better by 0.06" in back.out


def test_the_python_api_pairs_runs_and_their_folders_alike(planted):
    by_path = hwbench.compare(planted["a"], planted["b"])
    assert by_path.equals(hwbench.compare(Run.open(planted["a"]), Run.open(planted["b"])))
    assert by_path.filter(pl.col("paired"))["metric"].unique().to_list() == ["top1"]
    assert not hwbench.compare(Run.open(planted["a"]).table, Run.open(planted["b"]).table)["paired"].any()
    assert callable(hwbench.compare)  # no module of the same name takes its place


def test_a_run_that_kept_nothing_per_input_is_compared_unpaired_and_that_is_printed(hw, shared, old):
    ended = hw("compare", old, shared.run.path, "--fail-on", "accuracy.top1:0.01")
    assert ended.code == 0
    assert "Accuracy is compared unpaired: run A kept no results per input." in ended.out
    assert "unpaired: run A kept no results per input" in ended.out
    gates = [line for line in ended.out.splitlines() if "cpu-int8 accuracy.top1" in line]
    assert [line.split()[0] for line in gates] == ["inconclusive"]


def test_a_run_against_itself_passes_every_gate(hw, shared):
    ended = hw(
        "compare", shared.run.path, shared.run.path, "--fail-on", "accuracy.top1:0.01", "--fail-on", "p50_ms:10%"
    )
    assert ended.code == 0, ended.out
    assert "B against A" in ended.out
    assert "fail " not in ended.out


def test_a_regression_exits_with_1_and_names_the_gate(hw, shared, steady, worse):
    ended = hw("compare", shared.run.path, worse, "--fail-on", "accuracy.top1:0.01")
    assert ended.code == 1
    assert any(
        line.startswith("fail") and "accuracy.top1:0.01" in line and "cpu-int8" in line
        for line in ended.out.splitlines()
    )
    assert hw("compare", steady, worse, "--fail-on", "p50_ms:50%").code == 1
    assert hw("compare", worse, steady, "--fail-on", "p50_ms:50%").code == 0  # faster is no regression


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


@pytest.fixture
def specification(shared, tmp_path):
    """Writes a run specification of latency alone."""

    def write(name, **changes):
        content = {"model": str(demo.MODEL), "profiles": ["cpu-fp32"], "studies": ["latency"], **changes}
        lines = [f"{key} = {json.dumps(value)}" for key, value in content.items()]
        lines += ["[data]", f'source = "{shared.data}"', "[settings.latency]"]
        lines += [f"{key} = {value}" for key, value in LAUNCHES.items()]
        (tmp_path / f"{name}.toml").write_text("\n".join(lines))
        return tmp_path / f"{name}.toml"

    return write


@pytest.mark.slow
def test_interleaved_specifications_are_measured_alternately_and_paired_by_block(hw, specification, tmp_path):
    specs = specification("a"), specification("b", seed=1)
    ended = hw("compare", *specs, "--interleave", "--out", tmp_path / "ab", "--quiet", "--json")
    assert ended.code == 0, ended.err
    runs = [Run.open(tmp_path / "ab" / name) for name in "ab"]
    assert runs[0].record["interleaved"] == runs[1].record["interleaved"]
    (row,) = [row for row in ended.json["comparison"] if row["metric"] == "p50_ms"]
    assert row["paired"]
    assert row["pairing"].endswith(f"interleaved, paired over {row['n']} blocks")
    again = hw("compare", *specs, "--interleave", "--out", tmp_path / "ab")
    assert again.code == 2
    assert "--overwrite" in again.err


@pytest.mark.parametrize(
    ("names", "message"),
    [(("a.onnx", "b.toml"), "give two .toml files"), (("a.toml", "b.toml"), "a.toml: cannot be read")],
)
def test_interleaving_takes_specifications(hw, tmp_path, names, message):
    ended = hw("compare", *(tmp_path / name for name in names), "--interleave", "--out", tmp_path / "ab")
    assert ended.code == 2
    assert message in ended.err
    assert not (tmp_path / "ab").exists()


def test_reading_two_runs_writes_none(hw, tmp_path):
    ended = hw("compare", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "ab")
    assert ended.code == 2
    assert "belong to --interleave" in ended.err
