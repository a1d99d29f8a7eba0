from __future__ import annotations

import json

import numpy as np
import onnx
import polars as pl
import pytest
from models import small_cnn
from shared_run import PROFILES, STUDIES, make_shared_run

import hwbench
from hwbench.api import Run, as_data
from hwbench.errors import InputError, RunDirectoryError, SpecError, UnavailableError
from hwbench.table import SCHEMA, Row
from hwbench.verdict import Verdict


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return make_shared_run(tmp_path_factory.getbasetemp())


def test_a_run_reads_back_what_was_written(shared):
    again = Run.open(str(shared.run.path))
    assert again.table.equals(shared.run.table)
    assert again.verdicts == shared.run.verdicts
    assert again.record == shared.run.record
    assert again.record["state"] == "complete"


def test_the_table_has_the_schema_and_every_profile_and_study(shared):
    table = shared.run.table
    assert dict(table.schema) == SCHEMA
    assert set(table["profile"]) == {"reference", *PROFILES}
    for profile in PROFILES:
        assert set(table.filter(pl.col("profile") == profile)["study"]) == set(STUDIES)
    assert all(isinstance(row, Row) for row in shared.run.rows)
    assert table.filter(pl.col("status") == "ok", pl.col("value").is_null()).is_empty()


def test_rows_stand_in_the_order_of_profiles_and_studies(shared):
    order = [row.profile for row in shared.run.rows]
    assert list(dict.fromkeys(order)) == ["reference", *PROFILES]
    of_one = [row.study for row in shared.run.rows if row.profile == "cpu-int8"]
    assert next(iter(dict.fromkeys(of_one))) == "coverage"
    together = [study for at, study in enumerate(of_one) if at == 0 or of_one[at - 1] != study]
    assert len(together) == len(set(of_one))


def test_every_row_names_its_model_and_build(shared):
    for row in shared.run.rows:
        assert row.model == "digits"
        assert bool(row.build) == (row.profile != "gpu-cuda-fp32")
        assert json.loads(row.condition) == dict(sorted(json.loads(row.condition).items()))


def test_an_unavailable_profile_has_one_row_a_study_and_the_hint(shared):
    rows = [row for row in shared.run.rows if row.profile == "gpu-cuda-fp32"]
    assert len(rows) == len({row.study for row in rows})
    assert {row.status for row in rows} == {"unavailable"}
    entry = shared.run.record["profiles"]["gpu-cuda-fp32"]
    assert entry["status"] == "unavailable"
    assert "pip install onnxruntime-gpu" in entry["hint"]


def test_verdicts_and_exit_codes(shared):
    assert all(isinstance(verdict, Verdict) for verdict in shared.run.verdicts)
    assert {verdict.profile for verdict in shared.run.verdicts} == set(PROFILES)
    assert shared.run.exit_code() == 0
    assert shared.run.exit_code(["gpu-cuda-fp32"]) == 3
    assert shared.run.exit_code(strict=True) == 3


def test_a_finished_run_holds_its_views_and_nothing_a_resumed_one_would_need(shared):
    names = {path.name for path in shared.run.path.iterdir()}
    assert {"run.json", "measurements.parquet", "report.html", "report.md", "junit.xml", "benchmark.json"} <= names
    assert {"builds", "draws"} <= names
    assert not {"jobs", "data"} & names
    assert not list(shared.run.path.rglob(".*partial*"))


def test_timings_are_written_as_pytest_benchmark_reads_them(shared):
    stored = json.loads((shared.run.path / "benchmark.json").read_text())["benchmarks"]
    names = [entry["name"] for entry in stored]
    assert "latency[cpu-int8]" in names
    assert any(name.startswith("throughput[cpu-int8-batch8") for name in names)
    assert all(entry["stats"]["min"] > 0 for entry in stored)


@pytest.mark.parametrize("name", ["own.html", "own.md", "own.xml"])
def test_a_report_is_written_by_its_ending(shared, tmp_path, name):
    assert shared.run.report(tmp_path / name) == tmp_path / name
    assert "cpu-int8" in (tmp_path / name).read_text()


def test_another_ending_is_refused(shared, tmp_path):
    with pytest.raises(ValueError, match=r"own\.pdf: a report ends in \.html, \.md, \.xml"):
        shared.run.report(tmp_path / "own.pdf")


def test_no_run_is_no_run(tmp_path):
    with pytest.raises(RunDirectoryError, match="no run here"):
        Run.open(tmp_path)


def test_arguments_are_validated_like_a_specification(tmp_path):
    with pytest.raises(SpecError, match=r"unknown key 'sed'. Did you mean 'seed'"):
        hwbench.run("model.onnx", data="x.npz", profiles=["cpu-fp32"], out=tmp_path / "run", sed=1)
    with pytest.raises(SpecError, match="profiles"):
        hwbench.run("model.onnx", data="x.npz", profiles=[], out=tmp_path / "run")
    assert list(tmp_path.iterdir()) == []


def test_data_are_a_path_or_a_mapping(tmp_path):
    assert as_data("a.npz") == as_data({"source": "a.npz"}) == {"source": "a.npz"}
    assert as_data(tmp_path / "a.npz") == {"source": str(tmp_path / "a.npz")}


def test_the_run_lies_in_results_by_default(tmp_path, monkeypatch):
    onnx.save(small_cnn(), tmp_path / "net.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((4, 1, 8, 8), np.float32), y=np.zeros(4, np.int64))
    monkeypatch.chdir(tmp_path)
    run = hwbench.run("net.onnx", data="data.npz", profiles=["gpu-cuda-fp32"], studies=["accuracy"])
    assert run.path.resolve() == tmp_path / "results" / "net"


def test_a_model_is_built_without_a_run(tmp_path):
    from hwbench.api import build_model

    onnx.save(small_cnn(), tmp_path / "net.onnx")
    made = build_model(tmp_path / "net.onnx", "cpu-int8-dynamic", tmp_path / "build")
    assert made.model == tmp_path / "build" / "model.onnx"
    assert made.manifest["asked"]["dynamic"]
    with pytest.raises(InputError, match="holds a build; name another folder"):
        build_model(tmp_path / "net.onnx", "cpu-fp32", tmp_path / "build")
    with pytest.raises(UnavailableError, match="nothing to quantize"):
        build_model(relu(tmp_path / "relu.onnx"), "cpu-int4", tmp_path / "other")


def relu(path):
    from models import make_model
    from onnx import helper

    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    onnx.save(make_model(nodes, {"x": (1, ["N", 4])}, {"y": (1, ["N", 4])}), path)
    return path
