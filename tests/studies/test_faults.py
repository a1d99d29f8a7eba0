from __future__ import annotations

import json
from collections.abc import Callable
from importlib.metadata import EntryPoint
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import polars as pl
import pytest
from campaigns import Array, bare_onnxruntime, patched
from models import feeds, make_model, mlp, small_cnn, static_int8
from onnx import helper, numpy_helper
from polars.testing import assert_frame_equal
from pydantic import ValidationError

from hwbench.backend import TensorSpec, backends
from hwbench.build import Build
from hwbench.dataset import Dataset, DataSpec, materialise, open_source
from hwbench.errors import DataError, InputError
from hwbench.faults.listing import SCHEMA, write_faults
from hwbench.metrics import TASKS
from hwbench.model import Model
from hwbench.profile import load_profile
from hwbench.studies import Analysis, Case, Interim, Subject
from hwbench.studies.deployed import deployed
from hwbench.studies.faults import FaultsSettings, FaultsStudy
from hwbench.table import Row
from hwbench.targets import open_target
from hwbench.worker.perturb import stored_initializers
from hwbench.worker.protocol import JobResult

TRIALS = {"trial": pl.Int64, **SCHEMA, "n_inputs": pl.Int64, "n_changed": pl.Int64, "n_due": pl.Int64}
TRIALS |= {"outcome": pl.String, "max_abs_error": pl.Float64}
DEADLY = int(np.float32(1e30).view(np.uint32))


class Measured:
    """A campaign that was carried out on real workers, a job after the other."""

    def __init__(self, case: Case, folder: Path, **settings: Any) -> None:
        study, given = FaultsStudy(), FaultsSettings(**settings)
        study.check(given, case.data, classifies=case.classifies)
        target, jobs = open_target("local"), study.plan(case, given)
        self.case, self.results, self.stages = case, dict[str, JobResult](), list[list[str]]()
        while jobs:
            self.stages.append(list(jobs))
            self.results |= {label: target.run(job, folder / job.key) for label, job in jobs.items()}
            jobs = study.extend(case, given, self.results)
        self.analysis: Analysis = study.measure(case, given, self.results)

    @property
    def trials(self) -> pl.DataFrame:
        return self.analysis.parts["trials"]

    def row(self, metric: str, **setting: Any) -> Row:
        found = [row for row in self.analysis.rows if row.metric == metric and json.loads(row.condition) == setting]
        assert len(found) == 1, (metric, setting, found)
        return found[0]

    def metrics(self) -> set[str]:
        return {row.metric for row in self.analysis.rows}


@pytest.fixture
def make_study_case(tmp_path: Path) -> Callable[..., Case]:
    """A case of a model as it stands, on some of its random inputs."""

    def make(model: onnx.ModelProto, n: int = 12, labels: Any = None, **changes: Any) -> Case:
        folder = tmp_path / f"build{len(list(tmp_path.glob('build*')))}"
        folder.mkdir()
        onnx.save(model, folder / "model.onnx")
        inputs = feeds(model, batch=n)
        arrays = {**inputs, **({} if labels is None else {"y": np.asarray(labels)})}
        np.savez(folder / "data.npz", **arrays)
        specs = tuple(TensorSpec(name, value.dtype.name, (None, *value.shape[1:])) for name, value in inputs.items())
        task = changes.pop("task", "classification")
        source = open_source(DataSpec(source=str(folder / "data.npz")))
        data = materialise(source, list(specs), folder, task=task)
        output = TensorSpec("y", "float32", (None, model.graph.output[0].type.tensor_type.shape.dim[1].dim_value))
        compute = {"int8": 1} if any("quantized" in tensor.name for tensor in model.graph.initializer) else {"fp32": 1}
        manifest = {"sha256": folder.name, "contents": {"compute": compute, "bytes": 1}, "asked": {}}
        subject = Subject(Build(folder.name, folder, manifest), changes.pop("backend", "onnxruntime"), {})
        fields: dict[str, Any] = {
            "profile": load_profile("cpu-fp32"),
            "subject": subject,
            "reference": subject,
            "model": Model(folder / "model.onnx", "0", specs, (output,), 1, 1, 1),
            "data": data,
            "metrics": TASKS[task],
            "output": "y",
            "classifies": task == "classification",
            "batch": 64,
            "seed": 3,
            "timeout_s": 60.0,
            "work": folder,
        }
        return Case(**{**fields, **changes})

    return make


def oracle(case: Case, model: onnx.ModelProto, trials: pl.DataFrame) -> list[Array]:
    """The output of every trial, by a plain session on a patched file; NaN where there is none."""
    inputs = {name: file.rows(0, case.data.n) for name, file in case.data.inputs.items()}
    golden = bare_onnxruntime(model, inputs)
    assert golden is not None
    made = [bare_onnxruntime(patched(model, row), inputs) for row in trials.select(list(SCHEMA)).iter_rows()]
    return [golden, *(np.full_like(golden, np.nan) if one is None else one for one in made)]


def agreeing(model: onnx.ModelProto, n: int = 12) -> Array:
    """Labels of which the model gets most right, not all."""
    made = bare_onnxruntime(model, feeds(model, batch=n))
    assert made is not None
    labels = made.argmax(axis=1)
    labels[::4] = (labels[::4] + 1) % made.shape[1]
    return labels


# What a campaign says


@pytest.fixture(scope="module")
def cnn() -> onnx.ModelProto:
    return static_int8(small_cnn())


def test_the_trials_table_and_the_figures_are_those_of_sessions_on_patched_files(make_study_case, cnn, tmp_path):
    labels = agreeing(cnn)
    case = make_study_case(cnn, labels=labels)
    made = Measured(case, tmp_path / "jobs", trials=80, shard=30)
    assert [len(stage) for stage in made.stages] == [3, 1]
    trials = made.trials
    assert dict(trials.schema) == TRIALS
    assert trials["trial"].to_list() == list(range(80))
    assert trials.select("tensor", "element", "bit").is_unique().all()
    golden, *outputs = oracle(case, cnn, trials)
    answer = golden.argmax(axis=1)
    due = np.array([~np.isfinite(out).all(axis=1) for out in outputs])
    best = np.array([np.where(row, -1, out.argmax(axis=1)) for row, out in zip(due, outputs, strict=True)])
    changed = ~due & (best != answer)
    assert changed.any()
    assert trials["n_inputs"].to_list() == [12] * 80
    assert trials["n_changed"].to_list() == changed.sum(axis=1).tolist()
    assert trials["n_due"].to_list() == due.sum(axis=1).tolist()
    expected = np.where(due.any(axis=1), "due", np.where(changed.any(axis=1), "sdc", "masked"))
    assert trials["outcome"].to_list() == expected.tolist()
    errors = [np.abs(out - golden).max() if np.isfinite(out).all() else np.inf for out in outputs]
    np.testing.assert_allclose(trials["max_abs_error"], errors, atol=1e-6)

    assert made.row("sdc_rate").value == pytest.approx(changed.mean())
    assert made.row("due_rate").value == pytest.approx(due.mean())
    assert made.row("accuracy_drop").value == pytest.approx((answer == labels).mean() - (best == labels).mean())
    top5 = np.array([np.argsort(-out, axis=1, kind="stable")[:, :5] for out in outputs])
    missing = ~due & ~(top5 == answer[:, None]).any(axis=2)
    assert made.row("sdc_rate", margin="top5").value == pytest.approx(missing.mean())
    lost = confidence(golden)[range(12), answer] - np.array([confidence(out)[range(12), answer] for out in outputs])
    for points in (10, 20):
        share = (~due & (lost > points / 100)).mean()
        assert made.row("sdc_rate", margin=f"confidence_{points}").value == pytest.approx(share)
    for row in made.analysis.rows:
        if row.metric in ("sdc_rate", "due_rate", "accuracy_drop"):
            assert row.ci_low <= row.value <= row.ci_high
            assert row.ci_level == 0.95
    assert made.row("verified_trials").value == 5
    assert made.row("golden_max_abs_diff").value == 0


def confidence(outputs: Array) -> Array:
    with np.errstate(all="ignore"):
        powers = np.exp(outputs.astype(np.float64) - outputs.max(axis=1, keepdims=True))
        return powers / powers.sum(axis=1, keepdims=True)


def test_groups_of_an_exhaustive_campaign_are_the_means_over_their_faults(make_study_case, cnn, tmp_path):
    made = Measured(make_study_case(cnn), tmp_path / "jobs", sampler="exhaustive", tensors="w1_*", bits=(6, 7))
    trials = made.trials.with_columns(share=pl.col("n_changed") / pl.col("n_inputs"))
    assert trials.height == 2 * (72 + 8 + 8)
    for tensor in ("w1_quantized", "w1_scale", "w1_zero_point"):
        of_tensor = trials.filter(pl.col("tensor") == tensor)
        assert made.row("sdc_rate", tensor=tensor).value == pytest.approx(of_tensor["share"].mean())
        assert made.row("sdc_rate", tensor=tensor, bit=7).value == pytest.approx(
            of_tensor.filter(pl.col("bit") == 7)["share"].mean()
        )
    bytes_ = trials.filter(pl.col("tensor") != "w1_scale", pl.col("bit") == 6)
    assert made.row("sdc_rate", bit=6, format="int8").value == pytest.approx(bytes_["share"].mean())
    weights = trials.filter(pl.col("tensor") == "w1_quantized")
    assert made.row("sdc_rate", role="weight").value == pytest.approx(weights["share"].mean())
    assert made.row("sdc_rate").value == pytest.approx(trials["share"].mean())
    assert made.row("sdc_rate").ci_low == pytest.approx(made.row("sdc_rate").ci_high)  # nothing is left to sample


def test_without_labels_there_is_no_accuracy_to_lose(make_study_case, cnn, tmp_path):
    made = Measured(make_study_case(cnn), tmp_path / "jobs", trials=10)
    assert "accuracy_drop" not in made.metrics()
    assert made.row("sdc_rate", margin="top5").n == 10


@pytest.mark.parametrize("kind", ["stuck_at_0", "stuck_at_1", "burst", "random_value"])
def test_faults_of_every_kind_are_drawn(make_study_case, cnn, tmp_path, kind):
    case = make_study_case(cnn)
    made = Measured(case, tmp_path / "jobs", trials=30, kind=kind, width=3, segmented=kind != "stuck_at_0")
    assert set(made.trials["kind"]) == {kind}
    assert set(made.trials["width"]) == {3 if kind == "burst" else 1}
    assert (made.trials["value"].max() > 0) == (kind == "random_value")
    golden, *outputs = oracle(case, cnn, made.trials)
    changed = [int((out.argmax(axis=1) != golden.argmax(axis=1)).sum()) for out in outputs]
    due = [0 if np.isfinite(out).all() else 12 for out in outputs]
    assert made.trials["n_due"].to_list() == due
    assert [0 if lost else count for lost, count in zip(due, changed, strict=True)] == made.trials[
        "n_changed"
    ].to_list()


def test_what_a_draw_selects(make_study_case, cnn, tmp_path):
    made = Measured(make_study_case(cnn), tmp_path / "jobs", trials=40, roles=("weight",), depth=(1, 2), bits=(7, 7))
    assert set(made.trials["tensor"]) == {"w2_quantized", "w3_quantized"}
    assert set(made.trials["bit"]) == {7}
    with pytest.raises(InputError, match="no stored bit is selected"):
        Measured(made.case, tmp_path / "none", tensors="nothing*")


# Campaigns to a half-width


def test_a_campaign_to_a_half_width_chooses_its_inputs_and_ends_there(make_study_case, cnn, tmp_path):
    case = make_study_case(cnn, n=90)
    made = Measured(case, tmp_path / "jobs", ci_half_width=0.05)
    assert "(Leveugle et al., p = 0.5)" in made.row("sdc_rate").detail
    row = made.row("sdc_rate")
    assert (row.ci_high - row.ci_low) / 2 <= 0.05
    assert row.ci_level == 0.95
    assert made.trials.columns == list(TRIALS)
    pilot = made.trials.filter(pl.col("n_inputs") > 8)
    assert set(pilot["n_inputs"]) == {16}
    others = made.trials.filter(pl.col("n_inputs") <= 8)
    assert 0 < others.height == row.n
    assert not [row for row in made.analysis.rows if row.n == 0]
    uniform = Measured(case, tmp_path / "uniform", ci_half_width=0.05, sampler="uniform")
    assert uniform.trials.height != made.trials.height
    verified = made.row("verified_trials")
    assert verified.value >= 5


def test_inputs_of_a_trial_can_be_given_and_how_they_are_cut_makes_no_difference(make_study_case, cnn, tmp_path):
    case = make_study_case(cnn, n=20)
    whole = Measured(case, tmp_path / "whole", trials=60, inputs_per_fault=3)
    parts = Measured(case, tmp_path / "parts", trials=60, inputs_per_fault=3, shard=13, chunk=7)
    assert set(whole.trials["n_inputs"]) == {2, 3}
    assert [len(stage) for stage in parts.stages] == [5, 1]
    assert_frame_equal(parts.trials, whole.trials)
    assert whole.row("sdc_rate").n == 60


def test_faults_between_operators_run_over_some_inputs_too(make_study_case, tmp_path):
    """By the engine and by the model cut in two: the same outcomes."""
    case = make_study_case(small_cnn(), n=20)
    given = {"places": "activations", "trials": 100, "inputs_per_fault": 3, "chunk": 5, "bits": (29, 30)}
    made = Measured(case, tmp_path / "jobs", **given)
    assert set(made.trials["n_inputs"]) == {2, 3}
    assert made.trials["n_changed"].sum() + made.trials["n_due"].sum() > 10
    whole = Measured(case, tmp_path / "whole", segmented=False, **given)
    assert_frame_equal(made.trials.drop("max_abs_error"), whole.trials.drop("max_abs_error"))


def some_without_a_number(n: int) -> onnx.ModelProto:
    """A model whose golden output is not finite for the inputs with a number below -1."""
    weights = {"shift": np.float32([1]), "w": np.random.default_rng(4).standard_normal((3, 4)).astype(np.float32)}
    nodes = [
        helper.make_node("Add", ["x", "shift"], ["a"], "shifted"),
        helper.make_node("Sqrt", ["a"], ["s"], "root"),
        helper.make_node("MatMul", ["s", "w"], ["y"], "classifier"),
    ]
    return make_model(nodes, {"x": (1, ["N", 3])}, {"y": (1, ["N", 4])}, weights)


def test_blocks_are_drawn_from_the_inputs_that_count(make_study_case, tmp_path):
    """Where trials meet inputs that do not count, the campaign starts again over the others."""
    model = some_without_a_number(80)
    case = make_study_case(model, n=80)
    golden = bare_onnxruntime(model, {"x": case.data.inputs["x"].rows(0, 80)})
    finite = np.isfinite(golden).all(axis=1)
    assert 20 < finite.sum() < 70
    made = Measured(case, tmp_path / "jobs", trials=40, inputs_per_fault=4)
    assert [next(iter(stage)) for stage in made.stages] == [
        "stage-0-shard-00000",
        "golden",
        "counted-stage-0-shard-00000",
        "verify",
    ]
    assert set(made.trials["n_inputs"]) <= {4, int(finite.sum()) % 4}
    labels = np.where(np.arange(80) % 2, golden.argmax(axis=1), (golden.argmax(axis=1) + 1) % 4)
    right = Measured(
        make_study_case(model, n=80, labels=labels),
        tmp_path / "right",
        trials=40,
        inputs_per_fault=4,
        only_correct=True,
    )
    assert next(iter(right.stages[0])) == "golden"
    assert set(right.trials["n_inputs"]) <= {4, int((finite & (np.arange(80) % 2 == 1)).sum()) % 4}
    none = make_study_case(model, n=80, labels=(golden.argmax(axis=1) + 1) % 4)
    (row,) = Measured(none, tmp_path / "none", ci_half_width=0.1, only_correct=True).analysis.rows
    assert row.status == "unavailable"


# What must not matter


def test_how_trials_are_cut_into_shards_and_chunks_makes_no_difference(make_study_case, cnn, tmp_path):
    case = make_study_case(cnn, n=10)
    whole = Measured(case, tmp_path / "whole", trials=60, shard=500, chunk=64)
    parts = Measured(case, tmp_path / "parts", trials=60, shard=13, chunk=7)
    assert [len(stage) for stage in parts.stages] == [5, 1]
    assert_frame_equal(parts.trials, whole.trials)
    rows = [[row for row in made.analysis.rows if row.metric != "golden_max_abs_diff"] for made in (whole, parts)]
    assert rows[0] == rows[1]


def test_the_seed_decides_on_the_faults(make_study_case, cnn):
    draws = []
    for seed in (1, 1, 2):
        jobs = FaultsStudy().plan(make_study_case(cnn, seed=seed), FaultsSettings(trials=20))
        draws.append(next(iter(jobs.values())).params["faults"])
    assert draws[0] == draws[1] != draws[2]


def test_a_list_is_replayed_in_its_order(make_study_case, cnn, tmp_path):
    case = make_study_case(cnn)
    drawn = Measured(case, tmp_path / "drawn", trials=40)
    faults = drawn.trials.select(list(SCHEMA)).reverse()
    write_faults(tmp_path / "list.csv", faults, stored_initializers(cnn))
    again = Measured(case, tmp_path / "again", faults=str(tmp_path / "list.csv"))
    assert_frame_equal(again.trials.drop("trial"), drawn.trials.drop("trial").reverse())
    assert again.row("sdc_rate").value == pytest.approx(drawn.row("sdc_rate").value)


# Faults in what is made of inputs, and in the file


@pytest.mark.parametrize("places", ["activations", "inputs"])
@pytest.mark.parametrize("quantized", [True, False], ids=["int8", "fp32"])
def test_faults_in_what_a_build_makes_of_each_input(make_study_case, cnn, tmp_path, places, quantized):
    case = make_study_case(cnn if quantized else small_cnn())
    made = Measured(case, tmp_path / "jobs", trials=60, places=places)
    assert [len(stage) for stage in made.stages] == [1, 1]
    trials, role = made.trials, places.removesuffix("s")
    assert dict(trials.schema) == TRIALS
    assert trials["tensor"].str.starts_with("@activation/").all()
    assert trials.select("tensor", "element", "bit").is_unique().all()
    assert set(trials["n_inputs"]) == {12}
    assert made.row("sdc_rate").value == pytest.approx(trials["n_changed"].mean() / 12)
    assert made.row("sdc_rate", role=role).value == pytest.approx(trials["n_changed"].mean() / 12)
    assert made.row("verified_trials").value == 5
    assert (trials["max_abs_error"] > 0).any()
    if places == "activations":
        assert ("between operators only its quantized form is kept" in made.row("left_out_tensors").detail) == quantized
    whole = Measured(case, tmp_path / "whole", trials=60, places=places, segmented=False)
    assert_frame_equal(whole.trials.drop("max_abs_error"), trials.drop("max_abs_error"))
    assert "verified_trials" not in whole.metrics()


def test_what_a_draw_of_activations_selects(make_study_case, tmp_path):
    case = make_study_case(small_cnn())
    given = {"places": "activations", "trials": 30, "shard": 7}
    made = Measured(case, tmp_path / "jobs", **given, ops=("Relu", "Add"), depth=(1, 2), bits=(30, 31))
    assert set(made.trials["tensor"]) == {"@activation/sum", "@activation/r2"}
    assert set(made.trials["bit"]) == {30, 31}
    again = Measured(
        case, tmp_path / "again", **given | {"shard": 500}, ops=("Relu", "Add"), depth=(1, 2), bits=(30, 31)
    )
    assert_frame_equal(again.trials, made.trials)
    with pytest.raises(InputError, match="no stored bit is selected"):
        Measured(case, tmp_path / "none", places="activations", roles=("weight",))


def test_faults_in_the_file_are_processes_of_their_own(make_study_case, tmp_path):
    case = make_study_case(small_cnn())
    made = Measured(case, tmp_path / "jobs", trials=25, places="artefact", kind="random_value")
    assert [len(stage) for stage in made.stages] == [1]  # every trial is a full rebuild already
    trials = made.trials
    assert set(trials["tensor"]) == {"@artefact"}
    assert trials["element"].max() < case.subject.build.model.stat().st_size
    ends = {end: made.row("processes", end=end).value for end in ("ok", "refused", "crash", "timeout")}
    assert sum(ends.values()) == 25
    assert ends["refused"] > 0
    assert made.row("due_rate").value == pytest.approx(trials["n_due"].mean() / 12)
    assert made.row("due_rate").value >= (25 - ends["ok"]) / 25
    assert {row.condition for row in made.analysis.rows if "role" in row.condition} == {'{"role": "artefact"}'}


def test_a_build_of_several_files_is_no_artefact(make_study_case, tmp_path):
    case = make_study_case(small_cnn())
    (case.subject.build.folder / "model.onnx.data").write_bytes(b"numbers")
    with pytest.raises(InputError, match=r"2 files \(model.onnx, model.onnx.data\)"):
        Measured(case, tmp_path / "jobs", places="artefact")


def test_a_list_may_name_every_kind_of_place(make_study_case, tmp_path):
    model = small_cnn()
    case = make_study_case(model)
    rows = [
        ("@activation/r1", 100, 30, "flip", 1, 0),
        ("w2", 5, 30, "flip", 1, 0),
        ("@artefact", 0, 0, "random_value", 1, 255),
        ("@activation/x", 63, 31, "stuck_at_1", 1, 0),
        ("b1", 0, 30, "burst", 4, 0),
    ]
    listed = pl.DataFrame(rows, schema=SCHEMA, orient="row")
    numbers = deployed(case.subject.build.model).numbers(set(listed["tensor"]))
    write_faults(tmp_path / "list.csv", listed, numbers)
    assert pl.read_csv(tmp_path / "list.csv")["format"].to_list() == [
        "float32",
        "float32",
        "uint8",
        "float32",
        "float32",
    ]
    made = Measured(case, tmp_path / "jobs", faults=str(tmp_path / "list.csv"))
    assert [len(stage) for stage in made.stages] == [3, 1]
    assert made.trials.select(list(SCHEMA)).rows() == rows
    assert made.trials["n_due"][2] == 12
    assert made.row("verified_trials").value == 4
    for row, trial in zip(rows, made.trials.iter_rows(named=True), strict=True):
        if not row[0].startswith("@"):
            golden, out = oracle(case, model, made.trials.filter(pl.col("trial") == trial["trial"]))
            finite = np.isfinite(out).all(axis=1)
            assert trial["n_due"] == (~finite).sum()
            assert trial["n_changed"] == (finite & (out.argmax(axis=1) != golden.argmax(axis=1))).sum()


def test_a_runtime_that_changes_no_number_gives_no_rates(make_study_case, broken, tmp_path):
    made = Measured(make_study_case(small_cnn(), backend="rigid"), tmp_path / "jobs", trials=3)
    (row,) = made.analysis.rows
    assert (row.metric, row.status) == ("sdc_rate", "unavailable")
    assert "this runtime cannot change a number once it is compiled" in row.detail
    between = Measured(made.case, tmp_path / "between", trials=3, places="activations")  # which changes none
    assert between.row("verified_trials").value == 3


# Faults that end the worker


def test_progress_counts_trials_and_tells_the_rate_of_those_that_are_done(make_study_case, cnn, tmp_path):
    settings = {"trials": 24, "shard": 8, "roles": ("weight",)}
    made = Measured(make_study_case(cnn), tmp_path / "jobs", **settings)
    study, given = FaultsStudy(), FaultsSettings(**settings)
    assert study.progress(made.case, given, {}) == Interim(0, 24, "trials", "")
    first = made.stages[0][0]
    part = study.progress(made.case, given, {first: made.results[first]})
    assert (part.done, part.total) == (8, 24)
    counts = made.results[first].array("counts")
    assert part.said.startswith(f"SDC {(counts[:, 1] / counts[:, 0]).mean():.3%} [")
    whole, row = study.progress(made.case, given, made.results), made.row("sdc_rate")
    assert (whole.done, whole.total) == (24, 24)
    assert whole.said.startswith(f"SDC {row.value:.3%} [")


def test_progress_of_a_stratified_campaign_tells_its_last_complete_stage(make_study_case, cnn, tmp_path):
    settings = {"trials": 40, "sampler": "stratified", "segmented": False}
    made = Measured(make_study_case(cnn), tmp_path / "jobs", **settings)
    study, given = FaultsStudy(), FaultsSettings(**settings)
    assert len(made.stages) == 2
    pilot = {label: made.results[label] for label in made.stages[0]}
    assert study.progress(made.case, given, {}).said == ""
    told = study.progress(made.case, given, pilot)
    assert (told.done, told.total) == (10, 40)
    assert told.said.startswith("SDC ")
    row = made.row("sdc_rate")
    last = f"SDC {row.value:.3%} [{row.ci_low:.3%}, {row.ci_high:.3%}]"
    assert study.progress(made.case, given, made.results).said == last != told.said


@pytest.fixture
def broken(monkeypatch):
    """Makes the backends of a module of the tests known by their names."""
    for name in ("crashing", "forgetful", "stained", "dying", "rigid", "fragile"):
        point = EntryPoint(name, f"worker.crashing_backend:{name.capitalize()}Backend", "hwbench.backends")
        monkeypatch.setitem(backends._points, name, point)


def fault_list(folder: Path, model: onnx.ModelProto, rows: list[tuple]) -> str:
    write_faults(folder / "list.csv", pl.DataFrame(rows, schema=SCHEMA, orient="row"), stored_initializers(model))
    return str(folder / "list.csv")


def test_a_fault_that_kills_its_worker_is_due_and_the_others_are_as_without_it(make_study_case, broken, tmp_path):
    model = small_cnn()
    labels = agreeing(model)
    rows = [(name, at, bit, "flip", 1, 0) for name in ("w1", "w2", "w3") for at in (3, 40) for bit in (24, 30)]
    deadly = [("w2", 7, 0, "random_value", 1, DEADLY), ("w3", 1, 0, "random_value", 1, DEADLY)]
    listed = fault_list(tmp_path, model, [*rows[:5], deadly[0], *rows[5:], deadly[1]])
    case = make_study_case(model, labels=labels, backend="crashing")
    made = Measured(case, tmp_path / "jobs", faults=listed, shard=5, only_correct=True)
    assert [len(stage) for stage in made.stages] == [3, 2, 1]  # the shards, those that died, the sample
    assert sorted(result.status for result in made.results.values()) == ["crash"] * 2 + ["ok"] * 4
    sane = make_study_case(model, labels=labels)
    others = Measured(sane, tmp_path / "sane", faults=fault_list(tmp_path, model, rows), only_correct=True)
    is_deadly = pl.col("value") == DEADLY
    assert_frame_equal(made.trials.filter(~is_deadly).drop("trial"), others.trials.drop("trial"))
    dead = made.trials.filter(is_deadly)
    (right,) = set(others.trials["n_inputs"])
    assert 0 < right < 12
    assert dead.select("n_inputs", "n_changed", "n_due", "outcome").rows() == [(right, 0, right, "due")] * 2
    assert dead["max_abs_error"].to_list() == [np.inf] * 2
    assert made.row("due_rate").value == pytest.approx((others.trials["n_due"].sum() / right + 2) / 14)
    drop = others.row("accuracy_drop").value
    assert made.row("accuracy_drop").value == pytest.approx((12 * drop + 2) / 14)


def test_a_death_that_the_build_with_its_own_numbers_dies_too_is_an_error(make_study_case, broken, tmp_path):
    model = small_cnn()
    listed = fault_list(tmp_path, model, [("w2", 1, 24, "flip", 1, 0), ("w3", 1, 24, "flip", 1, 0)])
    made = Measured(make_study_case(model, backend="fragile"), tmp_path / "jobs", faults=listed)
    (row,) = made.analysis.rows
    assert (row.metric, row.status, row.value) == ("sdc_rate", "crash", None)
    assert "trial 0: died of SIGSEGV (3 times); the fault-free build failed too: died of SIGSEGV" in row.detail


def test_a_campaign_of_nothing_but_deadly_faults_ends_well(make_study_case, broken, tmp_path):
    model = small_cnn()
    listed = fault_list(tmp_path, model, [("w2", at, 0, "random_value", 1, DEADLY) for at in (1, 2)])
    made = Measured(make_study_case(model, backend="crashing"), tmp_path / "jobs", faults=listed)
    assert made.trials.select("n_inputs", "n_due", "outcome").rows() == [(12, 12, "due")] * 2
    assert (made.row("due_rate").value, made.row("sdc_rate").value) == (1.0, 0.0)
    assert "verified_trials" not in made.metrics()  # every trial was a full rebuild


def test_a_build_that_dies_without_a_fault_has_no_trials(make_study_case, broken, tmp_path):
    made = Measured(make_study_case(small_cnn(), backend="dying"), tmp_path / "jobs", trials=3)
    (row,) = made.analysis.rows
    assert (row.metric, row.status) == ("sdc_rate", "crash")
    assert "SIGSEGV" in row.detail


# An engine that is wrong is found out


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("forgetful", "of 20 trials run again by a full rebuild had another outcome, the first in"),
        ("stained", "the golden output after the campaign was not the same, bit for bit, as before"),
    ],
)
def test_a_runtime_that_cannot_be_trusted_gives_no_figures(make_study_case, broken, tmp_path, backend, said):
    model = small_cnn()
    rows = [("w2", at, 30, "flip", 1, 0) for at in range(20)]
    case = make_study_case(model, backend=backend)
    # twenty faults of the highest bit: the sample of five has one that changes an answer
    made = Measured(case, tmp_path / "jobs", faults=fault_list(tmp_path, model, rows))
    first = made.analysis.rows[0]
    assert (first.metric, first.status) == ("sdc_rate", "error")
    assert said.replace("of 20", "of 5") in first.detail
    assert "due_rate" not in made.metrics()


# What cannot be asked


def dataset(folder: Path, labels: bool, task: str = "classification") -> Dataset:
    arrays = {"x": np.zeros((3, 1), np.float32), **({"y": np.zeros(3, np.int64)} if labels else {})}
    np.savez(folder / "data.npz", **arrays)
    spec = TensorSpec("x", "float32", (None, 1))
    return materialise(open_source(DataSpec(source=str(folder / "data.npz"))), [spec], folder, task=task)


@pytest.mark.parametrize(
    ("settings", "labels", "classifies", "error", "said"),
    [
        ({"only_correct": True}, False, True, DataError, "data.npz: there are no labels, and only_correct counts only"),
        ({"only_correct": True, "tolerance": 0.1}, True, False, InputError, "leave only_correct out"),
        ({}, True, False, InputError, "say which error counts as a changed answer, with --tolerance"),
        ({"tolerance": 0.1}, True, True, InputError, "to which --tolerance means nothing; leave it out"),
        ({"faults": "no/such.csv"}, True, True, InputError, "no/such.csv: cannot be read: No such file"),
    ],
)
def test_what_data_or_task_cannot_give_is_refused_before_anything_runs(
    tmp_path, settings, labels, classifies, error, said
):
    with pytest.raises(error, match=said):
        FaultsStudy().check(FaultsSettings(**settings), dataset(tmp_path, labels), classifies=classifies)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (
            {"sampler": "exhaustive"},
            r"sampler = 'exhaustive': [\d,]+ trials are needed, more than the limit of 100 per camp",
        ),
        (
            {"ci_half_width": 1e-4},
            r"ci_half_width = 0.0001: [\d,]+ trials are needed, .*; give a wider one, or a number of",
        ),
    ],
)
def test_campaigns_that_no_memory_holds_are_refused_before_anything_runs(
    make_study_case, cnn, monkeypatch, settings, said
):
    for module in ("sampling", "sampler", "two_stage"):
        monkeypatch.setattr(f"hwbench.faults.{module}.TRIALS", 100)
    with pytest.raises(InputError, match=said):
        FaultsStudy().check_build(make_study_case(cnn), FaultsSettings(**settings))


def test_a_campaign_whose_pilot_foresees_too_many_trials_is_unavailable(make_study_case, cnn, tmp_path, monkeypatch):
    monkeypatch.setattr("hwbench.faults.two_stage.TRIALS", 150)
    made = Measured(make_study_case(cnn), tmp_path / "jobs", ci_half_width=0.02)
    (row,) = made.analysis.rows
    assert (row.status, row.value) == ("unavailable", None)
    assert "ci_half_width = 0.02: " in row.detail


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"trials": 0}, "greater than 0"),
        ({"trials": 5, "faults": "list.csv"}, "give one of them"),
        ({"inputs_per_fault": 5, "faults": "list.csv"}, "leave inputs_per_fault out, or the list"),
        ({"inputs_per_fault": 5, "sampler": "exhaustive"}, "run over all inputs"),
        ({"inputs_per_fault": 5, "places": "artefact"}, "run over all inputs"),
        ({"inputs_per_fault": 0}, "greater than 0"),
        ({"faults": "list.csv", "places": "inputs"}, "a list names its faults itself; leave places out, or the list"),
        ({"faults": "list.csv", "bits": (0, 3)}, "leave bits out"),
        ({"places": "elsewhere"}, "'stored'"),
        ({"kind": "melt"}, "'flip'"),
        ({"width": 0}, "greater than or equal to 1"),
        ({"roles": ("weights",)}, "'weight'"),
        ({"confidence": 1.0}, "less than 1"),
        ({"bits": (-1, 3)}, "greater than or equal to 0"),
        ({"tolerance": 0}, "greater than 0"),
    ],
)
def test_settings_that_say_nothing_sensible(settings, said):
    with pytest.raises(ValidationError, match=said):
        FaultsSettings(**settings)


def test_where_no_input_counts_that_is_said(make_study_case, cnn, tmp_path):
    labels = (bare_onnxruntime(cnn, feeds(cnn, batch=12)).argmax(axis=1) + 1) % 10
    made = Measured(make_study_case(cnn, labels=labels), tmp_path / "jobs", trials=5, only_correct=True)
    (row,) = made.analysis.rows
    assert (row.metric, row.status) == ("sdc_rate", "unavailable")
    assert "no input counts" in row.detail
    assert made.trials["n_inputs"].to_list() == [0] * 5


def test_a_regression_is_told_by_a_tolerance(make_study_case, tmp_path):
    nodes = [helper.make_node("MatMul", ["x", "w1"], ["a"], "first"), helper.make_node("Relu", ["a"], ["b"])]
    nodes.append(helper.make_node("MatMul", ["b", "w2"], ["y"], "second"))
    weights = {tensor.name: numpy_helper.to_array(tensor) for tensor in mlp().graph.initializer}
    model = make_model(
        nodes, {"x": (1, ["N", 64])}, {"y": (1, ["N", 1])}, {"w1": weights["w1"].T.copy(), "w2": weights["w2"][:, :1]}
    )
    case = make_study_case(model, labels=np.linspace(-1, 1, 12).astype(np.float32), task="regression")
    made = Measured(case, tmp_path / "jobs", trials=60, tolerance=0.05, bits=(20, 31))
    golden, *outputs = oracle(case, model, made.trials)
    changed = [
        0 if not np.isfinite(out).all() else int((np.abs(out - golden).max(axis=1) > 0.05).sum()) for out in outputs
    ]
    assert made.trials["n_changed"].to_list() == changed
    assert any(changed)
    assert "accuracy_drop" not in made.metrics()
    assert not [row for row in made.analysis.rows if "margin" in row.condition]


def test_a_network_that_cannot_be_cut_is_rebuilt_for_every_trial_and_the_run_says_so(make_study_case, tmp_path):
    nodes = [
        helper.make_node("Transpose", ["x"], ["t"], perm=[1, 0, 2]),
        helper.make_node("MatMul", ["t", "w1"], ["a"], "first"),
        helper.make_node("ReduceMean", ["a", "front"], ["y"], keepdims=0),
    ]
    w1 = np.random.default_rng(0).standard_normal((16, 4)).astype(np.float32)
    model = make_model(
        nodes, {"x": (1, ["N", "S", 16])}, {"y": (1, ["N", 4])}, {"w1": w1, "front": np.array([0])}
    )  # fmt: skip
    made = Measured(make_study_case(model), tmp_path / "jobs", trials=20, tensors="w1")
    rebuilt = made.row("rebuilt_trials")
    assert rebuilt.value == 20
    assert "does not give the same for some inputs alone" in rebuilt.detail
