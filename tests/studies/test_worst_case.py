from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from campaigns import Array, bare_onnxruntime, patched
from models import feeds, int4, make_model, mlp, small_cnn, static_int8
from onnx import helper
from pydantic import ValidationError

import hwbench
from hwbench.backend import TensorSpec
from hwbench.build import Build
from hwbench.dataset import DataSpec, materialise, open_source
from hwbench.errors import DataError, InputError
from hwbench.faults.listing import read_faults
from hwbench.faults.search import most_changing
from hwbench.metrics import TASKS
from hwbench.model import Model
from hwbench.studies import Case, Subject
from hwbench.studies.worst_case import WorstCaseSettings, WorstCaseStudy
from hwbench.table import Row
from hwbench.targets import open_target
from hwbench.worker.perturb import stored_initializers
from hwbench.worker.protocol import JobResult

N = 24


class Searched:
    """A study carried out on real workers, a job after the other."""

    def __init__(self, case: Case, folder: Path, **settings: Any) -> None:
        study, given = WorstCaseStudy(), WorstCaseSettings(**settings)
        study.check(given, case.data, classifies=case.classifies)
        study.check_build(case, given)
        target, jobs = open_target("local"), study.plan(case, given)
        self.results, self.stages = dict[str, JobResult](), list[set[str]]()
        while jobs:
            self.stages.append(set(jobs))
            self.results |= {label: target.run(job, folder / job.key) for label, job in jobs.items()}
            jobs = study.extend(case, given, self.results)
        self.analysis = study.measure(case, given, self.results)
        self.rows = {(row.metric, *sorted(json.loads(row.condition).items())): row for row in self.analysis.rows}
        assert len(self.rows) == len(self.analysis.rows)

    def flips(self, search: str) -> list[tuple[Any, ...]]:
        return self.analysis.lists[f"worst_case-{search}"].drop("format").rows()

    def figures(self, search: str, metric: str = "top1") -> list[float | None]:
        return [
            row.value
            for row in self.analysis.rows
            if row.metric == metric and json.loads(row.condition).get("search") == search
        ]

    def needed(self, search: str | None = None) -> Row:
        return self.rows["flips_needed", *([("search", search)] if search else [])]


@pytest.fixture
def case_of(make_case, tmp_path: Path) -> Callable[..., Case]:
    """A case of a model as it stands, with random inputs and the labels it gives them itself."""

    def make(model: onnx.ModelProto, labels: Any = None, task: str = "classification") -> Case:
        folder = tmp_path / "build"
        folder.mkdir()
        onnx.save(model, folder / "model.onnx")
        inputs = feeds(model, batch=N)
        made = bare_onnxruntime(model, inputs)
        labels = (made.argmax(axis=1) if task == "classification" else made) if labels is None else labels
        np.savez(folder / "data.npz", **inputs, y=labels)
        specs = [TensorSpec(name, value.dtype.name, (None, *value.shape[1:])) for name, value in inputs.items()]
        data = materialise(open_source(DataSpec(source=str(folder / "data.npz"))), specs, folder, task=task)
        names = " ".join(tensor.name for tensor in model.graph.initializer)
        compute = {"int8": 1} if "quantized" in names else {"fp32": 1}
        build = Build("made", folder, {"sha256": "0", "contents": {"compute": compute, "bytes": 1}, "asked": {}})
        output = TensorSpec("y", "float32", (None, made.shape[1]))
        return make_case(
            data=data,
            subject=Subject(build, "onnxruntime", {"intra_op_threads": 1}),
            model=Model(folder / "model.onnx", "0", tuple(specs), (output,), 1, 1, 1),
            metrics=TASKS[task],
            classifies=task == "classification",
            batch=16,
        )

    return make


def entropy(outputs: Array, labels: Array) -> float:
    """Summed cross-entropy in nats, by hand: probabilities below 1e-7 count as that."""
    powers = np.exp(outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True))
    right = (powers / powers.sum(axis=1, keepdims=True))[np.arange(len(labels)), labels]
    return float(-np.log(np.maximum(right, 1e-7)).sum())


def cumulative(model: onnx.ModelProto, flips) -> list[onnx.ModelProto]:
    """The model after 0, 1, 2, ... flips."""
    models = [model]
    for flip in flips:
        models.append(patched(models[-1], flip))
    return models


def accuracies(case: Case, models: list[onnx.ModelProto]) -> list[float]:
    """Plain sessions' share of right answers."""
    inputs = {name: file.rows(0, case.data.n) for name, file in case.data.inputs.items()}
    made = [bare_onnxruntime(model, inputs) for model in models]
    return [float((one.argmax(axis=1) == case.data.labels_array()).mean()) for one in made]


# The greedy search


@pytest.mark.parametrize("make", [small_cnn, lambda: static_int8(small_cnn())], ids=["fp32", "int8"])
def test_the_first_flip_is_the_best_of_all_candidates_by_brute_force(case_of, make, tmp_path):
    model = make()
    case = case_of(model)
    made = Searched(case, tmp_path / "jobs", searches=["greedy_weights"], max_flips=1, candidates=6, level=-1)
    inputs, labels, stored = feeds(model, batch=N), case.data.labels_array(), stored_initializers(model)
    losses = {}
    for name in [name for name in stored if name.startswith("w") and stored[name].ndim > 1]:
        for element, bit in most_changing(name, model.graph.node, stored, 6, case.seed):
            out = bare_onnxruntime(patched(model, (name, element, bit, "flip", 1, 0)), inputs)
            if np.isfinite(out).all():
                losses[name, element, bit] = entropy(out, labels)
    assert len(losses) >= 12
    (flip,) = made.flips("greedy_weights")
    assert losses[flip[:3]] == pytest.approx(max(losses.values()))
    assert sorted(losses.values())[-2] < max(losses.values())
    assert made.figures("greedy_weights") == pytest.approx(accuracies(case, cumulative(model, [flip])))


def test_flips_add_up_and_the_list_replays_to_the_reported_accuracies(case_of, tmp_path):
    model = int4(mlp())
    case = case_of(model)
    given = {"max_flips": 3, "candidates": 4, "inputs": 10, "level": 0.0}
    made = Searched(case, tmp_path / "jobs", searches=["greedy_weights", "data_free"], **given)
    for search in ("greedy_weights", "data_free"):
        table = made.analysis.lists[f"worst_case-{search}"]
        table.write_csv(tmp_path / "list.csv")
        flips = read_faults(tmp_path / "list.csv", stored_initializers(model)).rows()
        assert len(set(flips)) == 3
        assert made.figures(search) == pytest.approx(accuracies(case, cumulative(model, flips)))
        row = made.rows["top1", ("flips", 3), ("search", search)]
        assert row.ci_low < row.ci_high
        assert row.n == N
    assert made.figures("greedy_weights")[-1] < made.figures("data_free")[-1]
    assert "chosen by 10 of 24 inputs" in made.needed("greedy_weights").detail
    assert made.stages == [
        {"golden", "data_free", "greedy_weights-round-0"},
        {"greedy_weights-1", "greedy_weights-round-1"},
        {"greedy_weights-2", "greedy_weights-round-2"},
        {"greedy_weights-3"},
    ]
    replayed = Searched(case, tmp_path / "jobs2", faults=str(tmp_path / "list.csv"), level=0.0)
    assert replayed.flips("list") == made.flips("data_free")
    assert replayed.figures("list") == made.figures("data_free")
    assert "the list ends there" in replayed.needed().detail


def test_it_stops_at_the_level_and_the_headline_is_the_best_search(case_of, tmp_path):
    case = case_of(static_int8(small_cnn()))
    given = {"max_flips": 4, "candidates": 4, "early_layers": 1}
    made = Searched(case, tmp_path / "jobs", searches=["data_free", "greedy"], level=0.5, **given)
    figures = made.figures("greedy")
    assert figures[-1] <= 0.5 < min(figures[:-1])
    needed = made.needed("greedy")
    assert (needed.value, needed.status, needed.n) == (len(figures) - 1, "ok", N)
    assert needed.detail.startswith("greedy: top1 <= 0.5; top1 ")
    assert made.needed().detail == needed.detail
    assert min(made.figures("data_free")) > 0.5
    assert (made.needed("data_free").value, made.needed("data_free").status) == (None, "unavailable")
    assert made.needed("data_free").detail.startswith("data_free: top1 <= 0.5 not reached within 4 flips; top1 ")


def test_a_build_that_is_no_better_than_chance_needs_no_flip(case_of, tmp_path):
    model = mlp()
    wrong = (bare_onnxruntime(model, feeds(model, batch=N)).argmax(axis=1) + 1) % 10
    made = Searched(case_of(model, labels=wrong), tmp_path / "jobs", searches=["greedy"])
    assert (made.needed().value, made.flips("greedy")) == (0.0, [])
    assert "top1 <= 0.1;" in made.needed().detail


def test_flips_that_leave_no_number_are_chosen_only_if_asked(case_of, tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["h"], "a"), helper.make_node("MatMul", ["h", "w2"], ["y"], "b")]
    rng = np.random.default_rng(0)
    weights = {"w1": rng.normal(size=(8, 8)).astype(np.float32), "w2": 1e6 * np.eye(8, dtype=np.float32)}
    model = make_model(nodes, {"x": (1, ["N", 8])}, {"y": (1, ["N", 8])}, weights)
    case = case_of(model)
    given = {"searches": ["greedy"], "max_flips": 1, "level": -1.0, "tensors": "w1"}
    for silent in (True, False):
        (flip,) = Searched(case, tmp_path / f"jobs-{silent}", silent=silent, **given).flips("greedy")
        out = bare_onnxruntime(patched(model, flip), feeds(model, batch=N))
        assert np.isfinite(out).all() == silent
    loud = Searched(case, tmp_path / "none", candidates=1, **given)
    assert loud.flips("greedy") == []
    assert "(each flip tried next made an output NaN or infinite)" in loud.needed().detail


def test_without_classes_the_search_raises_the_error_to_a_given_level(case_of, tmp_path):
    case = case_of(mlp(), task="regression")
    made = Searched(case, tmp_path / "jobs", searches=["greedy"], max_flips=1, candidates=4, level=100.0)
    assert made.figures("greedy", "rmse")[0] == pytest.approx(0, abs=1e-5)
    assert made.figures("greedy", "rmse")[-1] >= 100
    assert made.needed("greedy").value == 1
    assert "rmse >= 100" in made.needed("greedy").detail


# What cannot be searched


def test_labels_and_a_level_are_needed(make_case):
    study = WorstCaseStudy()
    with pytest.raises(DataError, match="there are no labels"):
        study.check(WorstCaseSettings(), make_case(labels=None).data, classifies=True)
    with pytest.raises(InputError, match=r"settings\.worst_case\.level"):
        study.check(WorstCaseSettings(), make_case().data, classifies=False)
    with pytest.raises(InputError, match="cannot be read"):
        study.check(WorstCaseSettings(faults="no.csv"), make_case().data, classifies=True)
    with pytest.raises(ValidationError):
        WorstCaseSettings(searches=["gradient"])


def test_a_pattern_must_select_something_and_a_list_must_fit(case_of, tmp_path):
    study, case = WorstCaseStudy(), case_of(mlp())
    with pytest.raises(InputError, match="is selected"):
        study.check_build(case, WorstCaseSettings(tensors="nothing*"))
    (tmp_path / "list.csv").write_text("tensor,element,bit,kind\nw1,0,31,flip\nw1,0,32,flip\n")
    with pytest.raises(InputError, match="line 3: bit 32"):
        study.check_build(case, WorstCaseSettings(faults=str(tmp_path / "list.csv")))


def test_a_job_that_dies_is_the_studys_end(case_of, tmp_path):
    case, study, given = case_of(mlp()), WorstCaseStudy(), WorstCaseSettings(searches=["data_free"])
    results = {label: JobResult("oom", tmp_path, detail="too large") for label in study.plan(case, given)}
    assert study.extend(case, given, results) == {}
    (row,) = study.measure(case, given, results).rows
    assert (row.metric, row.status, row.detail) == ("flips_needed", "oom", "golden: too large")


# A whole run


def test_a_run_leaves_lists_in_its_directory(tmp_path):
    model = mlp()
    onnx.save(model, tmp_path / "mlp.onnx")
    inputs = feeds(model, batch=40)
    np.savez(tmp_path / "data.npz", **inputs, y=bare_onnxruntime(model, inputs).argmax(axis=1))
    run = hwbench.run(
        tmp_path / "mlp.onnx",
        data=tmp_path / "data.npz",
        profiles=["cpu-fp32"],
        studies=["worst_case"],
        settings={"worst_case": {"max_flips": 2, "searches": ["data_free"]}},
        out=tmp_path / "run",
    )
    folder = tmp_path / "run" / "faults" / "cpu-fp32"
    assert [file.name for file in folder.iterdir()] == ["worst_case-data_free.csv"]
    assert pl.read_csv(folder / "worst_case-data_free.csv")["bit"].to_list() == [31, 31]
    assert run.table.filter(study="worst_case", metric="top1").height == 3
    assert "Worst case: targeted bit flips" in (tmp_path / "run" / "report.md").read_text()
