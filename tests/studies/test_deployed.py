"""Fault studies on builds whose numbers are not in initializers, and on one without numbers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from campaigns import bare_onnxruntime
from models import branches, feeds, numberless, small_cnn, trees

import hwbench
from hwbench.api import Run
from hwbench.studies.deployed import contents

STUDIES = ["bit_flips", "faults", "memory_errors", "worst_case", "noise"]
SETTINGS: dict[str, Any] = {
    "bit_flips": {"rates": [1e-4, 1e-2], "draws": 4},
    "memory_errors": {"voltages": [0.833], "chips": 4},
    "faults": {"trials": 40},
    "worst_case": {"max_flips": 1, "searches": ["greedy", "data_free"]},
    "noise": {"snr_db": [10], "impulse_rates": [], "weight_sigmas": [0.2], "draws": 4},
}


def run(model: onnx.ModelProto, folder: Path, studies: list[str] = STUDIES, **settings: Any) -> Run:
    """Measure a classifier on labels that it gets right."""
    onnx.save(model, folder / "model.onnx")
    inputs = feeds(model, batch=40)
    np.savez(folder / "data.npz", **inputs, y=bare_onnxruntime(model, inputs).argmax(axis=1))
    given = {name: {**SETTINGS.get(name, {}), **settings.get(name, {})} for name in studies}
    data, out = folder / "data.npz", folder / "run"
    return hwbench.run(
        folder / "model.onnx", data=data, profiles=["cpu-fp32"], out=out, studies=studies, settings=given
    )


def rows(made: Run, study: str, metric: str) -> pl.DataFrame:
    return made.table.filter((pl.col("study") == study) & (pl.col("metric") == metric))


def test_without_a_stored_number_every_fault_study_is_unavailable(tmp_path):
    made = run(numberless(), tmp_path)
    flipping = made.table.filter(pl.col("study").is_in(STUDIES[:-1]))
    by_study = flipping.group_by("study").agg("status", "detail")
    assert {study: (status, detail) for study, status, detail in by_study.iter_rows()} == {
        study: (["unavailable"], ["no stored numbers to flip"]) for study in STUDIES[:-1]
    }
    noise = made.table.filter((pl.col("study") == "noise") & (pl.col("status") != "ok"))
    assert noise["detail"].to_list() == ["this build stores no weights, so weight noise has no effect"]
    assert made.table.filter((pl.col("study") == "noise") & (pl.col("status") == "ok")).height
    assert made.record["profiles"]["cpu-fp32"]["status"] == "ok"


def test_a_model_without_numbers_has_faults_in_its_inputs(tmp_path):
    made = run(numberless(), tmp_path, ["faults"], faults={"places": "inputs"})
    assert rows(made, "faults", "sdc_rate")["status"].unique().to_list() == ["ok"]


@pytest.mark.parametrize(("model", "left_out"), [(trees(20), 20 * 7), (branches(), 0)], ids=["forest", "branches"])
def test_numbers_in_attributes_and_branches_are_hit_by_every_study(model, left_out, tmp_path):
    made = run(model, tmp_path)
    assert made.table["status"].unique().to_list() == ["ok"] or rows(made, "worst_case", "flips_needed").height
    draws = pl.read_parquet(tmp_path / "run" / "draws" / "cpu-fp32" / "part-*.parquet")
    assert (draws.filter(pl.col("rate") == 1e-2)["n_faults"] > 0).all()
    assert (draws["n_changed"] + draws["n_due"]).sum() > 0
    (tolerated,) = rows(made, "bit_flips", "tolerated_ber").iter_rows(named=True)
    assert tolerated["value"] < 1e-2
    trials = pl.read_parquet(tmp_path / "run" / "trials" / "cpu-fp32" / "part-*.parquet")
    assert trials.filter(pl.col("tensor").str.starts_with("@")).height > 20
    assert set(trials["outcome"]) > {"masked"}
    assert (
        rows(made, "memory_errors", "due_rate")["value"] + rows(made, "memory_errors", "sdc_rate")["value"]
    ).max() > 0
    assert rows(made, "noise", "accuracy_drop").filter(pl.col("condition").str.contains("weight"))["value"].item() > 0
    lists = pl.read_csv(tmp_path / "run" / "faults" / "cpu-fp32" / "worst_case-greedy.csv")
    assert lists.height == 1
    covered = {study: rows(made, study, "covered_numbers") for study in STUDIES[:-1]}
    assert {study: found.height for study, found in covered.items()} == dict.fromkeys(covered, int(left_out > 0))
    if left_out:
        row = covered["faults"].row(0, named=True)
        total = contents(tmp_path / "run" / "builds" / tolerated["build"] / "model.onnx").elements + left_out
        assert (row["value"], row["n"]) == (pytest.approx(1 - left_out / total), total)
        assert row["detail"].endswith("left out: 140 of text")
        report = (tmp_path / "run" / "report.md").read_text()
        assert "Stored numbers covered" in report
        assert report.count("cpu-fp32: ") == report.count("left out: 140 of text.") == 3  # of the other fault studies


@pytest.mark.parametrize(
    ("given", "chosen"),
    [
        ({"roles": ["threshold"], "sampler": "stratified"}, {"nodes_values"}),
        ({"roles": ["weight"], "bits": (23, 31), "trials": None, "sampler": "exhaustive"}, {"class_weights"}),
        (
            {"tensors": "*/nodes_*nodeids", "bits": (20, 50)},
            {"nodes_nodeids", "nodes_truenodeids", "nodes_falsenodeids"},
        ),
        ({"ops": ["TreeEnsembleClassifier"], "roles": ["constant"]}, {"classlabels_int64s"}),
    ],
)
def test_selections_and_samplers_reach_attributes(given, chosen, tmp_path):
    made = run(trees(1), tmp_path, ["faults"], faults=given)
    trials = pl.read_parquet(tmp_path / "run" / "trials" / "cpu-fp32" / "part-*.parquet")
    assert {name.rpartition("/")[2] for name in trials["tensor"]} == chosen
    if given.get("sampler") == "exhaustive":
        assert trials.height == 12 * 9
    if given.get("tensors"):
        assert "due" in set(trials["outcome"])  # there are no such nodes
    assert rows(made, "faults", "verified_trials").is_empty()  # each was run by a full rebuild


def fitted(name: str) -> tuple[Any, Any, Any]:
    """A model of scikit-learn, inputs and labels."""
    datasets, ensemble = pytest.importorskip("sklearn.datasets"), pytest.importorskip("sklearn.ensemble")
    linear = pytest.importorskip("sklearn.linear_model")
    if name == "boosting":
        x, y = datasets.load_diabetes(return_X_y=True)
        return ensemble.GradientBoostingRegressor(n_estimators=5, random_state=0).fit(x, y), x, y.astype(np.float32)
    x, y = datasets.load_iris(return_X_y=True)
    kinds: dict[str, Callable[[], Any]] = {
        "forest": lambda: ensemble.RandomForestClassifier(5, random_state=0),
        "logistic": lambda: linear.LogisticRegression(max_iter=1000),
    }
    return kinds[name]().fit(x, y), x, y


@pytest.mark.parametrize("name", ["forest", "logistic", "boosting"])
def test_an_exported_classical_model_does_not_tolerate_every_rate(name, tmp_path):
    """Nothing was ever flipped in these, which the report gave as a tolerated rate of 0.01."""
    from hwbench.export import export_model, parse_input

    model, x, y = fitted(name)
    shape = parse_input(f"1x{x.shape[1]}")
    export_model(model, [shape], tmp_path / "model.onnx", framework="sklearn")
    np.savez(tmp_path / "data.npz", x=x[:60].astype(np.float32), y=y[:60].reshape(60, *(1,) * (name == "boosting")))
    made = hwbench.run(
        tmp_path / "model.onnx",
        data=tmp_path / "data.npz",
        profiles=["cpu-fp32"],
        out=tmp_path / "run",
        studies=["bit_flips"],
        settings={"bit_flips": {"rates": [1e-2], "draws": 12}},
    )
    (tolerated,) = rows(made, "bit_flips", "tolerated_ber").iter_rows(named=True)
    assert tolerated["value"] == 0, tolerated
    draws = pl.read_parquet(tmp_path / "run" / "draws" / "cpu-fp32" / "part-*.parquet")
    assert (draws["n_faults"] > 0).all()
    assert (draws["n_due"] + draws["n_changed"].fill_null(0)).sum() > 0


def test_contents_of_a_build_with_initializers_alone(tmp_path):
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    found = contents(tmp_path / "model.onnx")
    assert (found.elements, found.left_out, found.has_weights) == (72 + 8 + 576 + 80, {}, True)
