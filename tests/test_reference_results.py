"""The committed reference results still fit the schema, the profiles and the reports that this version has."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import polars as pl
import pytest

from hwbench import Run, demo
from hwbench.model import Model
from hwbench.profile import load_profile, profile_names
from hwbench.table import SCHEMA, from_frame
from hwbench.verdict import RULES, Verdict

FOLDER = Path(__file__).parents[1] / "results" / "reference"
PROFILES = [name for name in profile_names() if load_profile(name).target.kind != "emulated"]


@pytest.fixture(scope="module")
def run() -> Run:
    return Run.open(FOLDER)


def test_the_run_is_complete_and_of_the_embedded_model(run):
    assert run.record["state"] == "complete"
    assert run.record["model"]["sha256"] == Model.open(demo.MODEL).sha256
    assert list(run.record["profiles"]) == PROFILES
    assert {"cpu_model", "cores_logical", "memory_mib", "kernel"} <= run.record["host"].keys()
    assert {"onnxruntime", "openvino"} <= run.record["packages"].keys()


def test_the_table_has_the_schema(run):
    assert dict(run.table.schema) == {name: dtype() for name, dtype in SCHEMA.items()}
    rows = from_frame(run.table)
    assert {row.profile for row in rows} == {*PROFILES, "reference"}
    assert {row.status for row in rows} <= {"ok", "unavailable", "oom"}
    assert all(row.value is not None for row in rows if row.status == "ok" and row.metric in ("top1", "p50_ms"))


def test_the_verdicts_have_the_present_fields(run):
    assert run.record["verdicts"]
    for verdict in run.record["verdicts"]:
        assert verdict.keys() == {field.name for field in fields(Verdict)}
        assert verdict["rule"] in {*RULES, "as_asked", "fits_memory"}


def test_the_reports_can_be_made_again_from_it(run, tmp_path):
    again = run.report(tmp_path / "report.md").read_text()
    assert again == (FOLDER / "report.md").read_text(), "views changed: hwbench report results/reference"
    for profile in PROFILES:
        assert profile in (FOLDER / "report.html").read_text()


def test_the_figures_are_those_of_the_demo(run):
    top1 = run.table.filter(pl.col("metric") == "top1", pl.col("study") == "accuracy", pl.col("condition") == "{}")
    assert dict(zip(top1["profile"], top1["value"], strict=True))["reference"] >= 0.97
    assert set(run.table["study"]) == {
        "accuracy", "bit_flips", "coverage", "fidelity", "latency", "lint", "memory", "noise", "throughput",
    }  # fmt: skip
