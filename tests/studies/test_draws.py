"""Sequential sampling on a real runtime: what a study asks for next, and what it says at every point of the way."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import polars as pl
import pytest
from models import mlp

from hwbench.backend import TensorSpec
from hwbench.build import Build
from hwbench.dataset import DataSpec, materialise, open_source
from hwbench.metrics import TASKS
from hwbench.model import Model
from hwbench.studies import Case, Subject, draws, studies
from hwbench.table import Row
from hwbench.worker.progress import Progress
from hwbench.worker.protocol import Job, JobContext, JobResult
from hwbench.worker.tasks import evaluate

N, LIMIT = 400, 0.05
RATES = (1e-9, 3e-5, 1e-2)
SETTINGS = {"rates": RATES, "max_drop": LIMIT}


def run_here(job: Job, folder: Path) -> JobResult:
    """A job's result, run in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    returned = evaluate.run(JobContext(folder, job.params, job.backend, job.options, job.variants))
    return JobResult("ok", folder, {**returned, "variants": Progress.read(folder).finished})


class Sampled:
    """A study carried out job by job, with the results as they were after each."""

    def __init__(self, case: Case, name: str, folder: Path, **settings: Any) -> None:
        self.case, self.study = case, studies.get(name)()
        self.settings = self.study.settings_type(**settings)
        self.results: dict[str, JobResult] = {}
        self.stages: list[Mapping[str, Job]] = []
        self.states: list[dict[str, JobResult]] = []
        jobs = self.study.plan(case, self.settings)
        while jobs:
            self.stages.append(jobs)
            for label, job in jobs.items():
                self.results[label] = run_here(job, folder / label)
                self.states.append(dict(self.results))
            jobs = self.study.extend(case, self.settings, self.results)
        self.rows = self.rows_of(self.results)
        self.draws = self.study.measure(case, self.settings, self.results).parts.get("draws")

    def rows_of(self, results: Mapping[str, JobResult]) -> dict[tuple[str, str], Row]:
        rows = self.study.measure(self.case, self.settings, results).rows
        return {(row.metric, row.condition): row for row in rows}


@pytest.fixture
def case(make_case: Callable[..., Case], tmp_path: Path) -> Case:
    """A network on random inputs, whose own answers are the labels."""
    onnx.save(mlp(), tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((N, 64)).astype(np.float32)
    y = ort.InferenceSession(str(tmp_path / "model.onnx")).run(None, {"x": x})[0].argmax(axis=1)
    np.savez(tmp_path / "given.npz", x=x, y=y)
    specs = [TensorSpec("x", "float32", (None, 64))]
    data = materialise(
        open_source(DataSpec(source=str(tmp_path / "given.npz"))), specs, tmp_path, task="classification"
    )
    build = Build("made", tmp_path, {"sha256": "0", "contents": {"compute": {"fp32": 1}, "bytes": 1}, "asked": {}})
    return make_case(
        data=data,
        subject=Subject(build, "onnxruntime", {"intra_op_threads": 1}),
        model=Model(tmp_path / "model.onnx", "0", tuple(specs), (TensorSpec("y", "float32", (None, 10)),), 1, 1, 1),
        metrics=TASKS["classification"],
        batch=64,
    )


def ber(rate: float, **more: Any) -> str:
    return json.dumps({"ber": rate, **more}, sort_keys=True)


def test_only_rates_that_are_not_decided_get_more_draws(case, tmp_path):
    found = Sampled(case, "bit_flips", tmp_path, **SETTINGS)
    counts = dict(found.draws.group_by("rate").agg(pl.len()).iter_rows())
    assert counts[1e-2] == 16  # a collapse shows in the pilot
    assert counts[1e-9] >= 80  # no loss needs as many draws as make one unlikely
    loss = {rate: found.rows["accuracy_drop", ber(rate)] for rate in RATES}
    assert loss[1e-9].value == 0
    assert loss[1e-9].ci_high <= LIMIT
    assert loss[1e-2].ci_low > LIMIT
    tolerated = found.rows["tolerated_ber", "{}"]
    assert tolerated.value == tolerated.ci_low >= 1e-9
    assert tolerated.ci_low <= tolerated.ci_high < 1e-2
    assert all(stage.keys().isdisjoint(other) for stage, other in itertools.combinations(found.stages, 2))


def test_draws_are_chips_on_inputs_of_their_own(case, tmp_path):
    found = Sampled(case, "bit_flips", tmp_path, **SETTINGS)
    for _, draw in found.draws.sort("rate").group_by("draw"):
        counts = draw["n_faults"].to_list()
        assert counts == sorted(counts)
        assert draw["n_inputs"].n_unique() == 1
    for rate in RATES:
        shown = found.draws.filter(pl.col("rate") == rate)
        row = found.rows["accuracy_drop", ber(rate)]
        assert row.n == shown["n_inputs"].sum()
        assert row.value == pytest.approx(1 - shown["top1"].mean())
        assert found.rows["top1", ber(rate)].value == pytest.approx(shown["top1"].mean())


def test_a_run_may_end_after_any_job(case, tmp_path):
    found = Sampled(case, "bit_flips", tmp_path, **SETTINGS)
    lows, highs = [], []
    for results in found.states:
        rows = found.rows_of(results)
        if ("tolerated_ber", "{}") in rows and rows["tolerated_ber", "{}"].status == "ok":
            lows.append(rows["tolerated_ber", "{}"].ci_low)
            highs.append(rows["tolerated_ber", "{}"].ci_high)
            early = rows["accuracy_drop", ber(1e-9)]
            assert early.ci_low <= 0 <= early.ci_high
            assert ("inconclusive" in early.detail) == (early.ci_high > LIMIT)
    (first, *_) = found.states
    assert found.rows_of(first)["tolerated_ber", "{}"].status == "skipped"
    assert len(lows) >= 2
    assert (lows[0], highs[0]) == (0, 3e-5)
    assert "draws would decide" in found.rows_of(found.states[1])["accuracy_drop", ber(1e-9)].detail


def test_the_table_does_not_depend_on_how_draws_are_cut_into_jobs(case, tmp_path, monkeypatch):
    whole = Sampled(case, "bit_flips", tmp_path / "whole", **SETTINGS)
    monkeypatch.setattr(draws, "_BYTES_PER_JOB", 1)
    monkeypatch.setattr(draws, "_LEAST_PASSES", 600)
    cut = Sampled(case, "bit_flips", tmp_path / "cut", **SETTINGS)
    assert len(cut.results) > len(whole.results)
    assert cut.rows == whole.rows
    assert cut.draws.sort("rate", "draw").equals(whole.draws.sort("rate", "draw"))
    # Half a round is a look of its own.
    (*_, last) = [state for state in cut.states if len(state) == 4]
    assert cut.rows_of(last)["accuracy_drop", ber(1e-9)].ci_high > whole.rows["accuracy_drop", ber(1e-9)].ci_high


def test_a_given_number_of_draws_is_one_look_over_all_inputs(case, tmp_path):
    found = Sampled(case, "bit_flips", tmp_path, draws=3, **SETTINGS)
    assert len(found.stages) == 1
    assert found.draws["n_inputs"].unique().to_list() == [N]
    assert found.rows["accuracy_drop", ber(1e-9)].ci_high == pytest.approx(1 - 0.025 ** (1 / 3))


def test_inputs_per_draw_can_be_given(case, tmp_path):
    found = Sampled(case, "bit_flips", tmp_path, inputs_per_draw=24, **SETTINGS)
    assert found.draws["n_inputs"].unique().to_list() == [24]


def test_the_rate_that_a_profile_must_tolerate_is_measured(case, tmp_path):
    accept = case.profile.accept.model_copy(update={"min_tolerated_ber": 2e-9})
    case = replace(case, profile=case.profile.model_copy(update={"accept": accept}))
    found = Sampled(case, "bit_flips", tmp_path, draws=2, **SETTINGS)
    assert found.draws["rate"].unique().sort().to_list() == sorted([2e-9, *RATES])


def test_noise_ends_where_inputs_leave_more_open_than_draws(case, tmp_path):
    settings = {"snr_db": (20.0,), "impulse_rates": (), "weight_sigmas": (0.001,), "half_width": 0.04}
    found = Sampled(case, "noise", tmp_path, **settings)
    usual = 5 * N
    for metric, setting in itertools.product(("top1", "accuracy_drop"), ('{"snr_db": 20}', '{"weight_sigma": 0.001}')):
        row = found.rows[metric, setting]
        assert row.ci_low <= row.value <= row.ci_high
        assert row.n <= usual
    assert found.rows["accuracy_drop", '{"snr_db": 20}'].n < usual


def test_a_job_that_ends_early_counts_with_the_draws_it_had(case, tmp_path):
    found = Sampled(case, "bit_flips", tmp_path, **SETTINGS)
    label, result = next((label, result) for label, result in found.results.items() if "round0" in label)
    left = [name for name in result.data["variants"] if name.startswith(("draw9-", "draw1"))]
    kept = {name: record for name, record in result.data["variants"].items() if name not in left}
    cut = replace(result, data={"variants": kept}, unfinished=[name for name in left if not name.startswith("draw1-")])
    cut.data["variants"] |= {name: result.data["variants"][name] for name in left if name.startswith("draw1-")}
    results = {"golden": found.results["golden"], label: cut}
    assert found.study.enough(case, found.settings, results)
    rows = found.rows_of(results)
    assert rows["accuracy_drop", ber(1e-9)].n == 9 * 16
    assert rows["due_rate", ber(1e-9)].value == 0
    none = replace(result, data={"variants": {}}, unfinished=list(result.data["variants"]))
    assert not found.study.enough(case, found.settings, {**results, label: none})
    assert not found.study.enough(case, found.settings, {"golden": found.results["golden"]})
