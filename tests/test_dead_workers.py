"""Runs whose workers are killed: what is measured does not change, and what cannot be measured is an error."""

from __future__ import annotations

from importlib.metadata import EntryPoint

import polars as pl
import pytest
from accidents import Killer
from polars.testing import assert_frame_equal
from shared_run import some_digits

import hwbench
from hwbench import demo
from hwbench.api import Run
from hwbench.backend import backends
from hwbench.table import condition

NOISE = {"snr_db": [10, 0], "impulse_rates": [], "weight_sigmas": [0.02], "draws": 40}
FLIPS = {"rates": [1e-4, 1e-2], "draws": 40, "max_drop": 0.05}
FAULTS = {"trials": 80}


def measure(folder, data, profile="cpu-int8", **settings) -> Run:
    return hwbench.run(
        demo.MODEL,
        data={"source": str(data)},
        profiles=[str(profile)],
        studies=list(settings),
        out=folder,
        seed=5,
        jobs=1,
        settings=settings,
    )


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    path, _, _ = some_digits(tmp_path_factory.mktemp("data") / "digits.npz")
    return path


@pytest.fixture(scope="module")
def undisturbed(data, tmp_path_factory):
    run = measure(tmp_path_factory.mktemp("undisturbed") / "run", data, noise=NOISE, bit_flips=FLIPS, faults=FAULTS)
    assert "worker_deaths" not in run.record
    return run


def parts(run: Run, kind: str) -> pl.DataFrame:
    return pl.read_parquet(run.path / kind / "cpu-int8" / "part-*.parquet")


def accident(task: str, key: str, variant: str | None) -> str:
    """One in each study: while a draw of noise or of bit flips runs, and in a shard of trials."""
    if task == "campaign:run":
        return "trials"
    if variant and variant.startswith("draw"):
        return "flips" if "ber" in variant else "noise"
    return ""


def test_killed_workers_change_no_figure_of_noise_bit_flips_and_campaigns(undisturbed, data, tmp_path):
    with Killer(accident) as killer:
        run = measure(tmp_path / "run", data, noise=NOISE, bit_flips=FLIPS, faults=FAULTS)
    assert sorted(killer.killed) == ["flips", "noise", "trials"]
    assert_frame_equal(run.table.drop("detail"), undisturbed.table.drop("detail"))
    for kind in ("draws", "trials"):
        assert_frame_equal(parts(run, kind), parts(undisturbed, kind))
    assert run.exit_code() == undisturbed.exit_code() == 0
    deaths = run.record["worker_deaths"]
    assert {(death["study"], *death["reasons"], death["counts"]) for death in deaths} == {
        (study, "died of SIGKILL", False) for study in ("noise", "bit_flips", "faults")
    }
    for death in deaths:
        said = f"1 worker died, and its work was repeated ({death['variant']}: died of SIGKILL)"
        (row,) = [row for row in run.rows if said in row.detail]
        assert row.study == death["study"]


PROFILE = """summary = "A runtime with a defect"
backend = "{name}"
[precision]
format = "fp32"
"""


@pytest.fixture
def defective(monkeypatch, tmp_path):
    """Makes a profile of a backend of `worker.crashing_backend`."""

    def make(name):
        point = EntryPoint(name, f"worker.crashing_backend:{name.capitalize()}Backend", "hwbench.backends")
        monkeypatch.setitem(backends._points, name, point)
        path = tmp_path / f"{name}.toml"
        path.write_text(PROFILE.format(name=name))
        return path

    return make


def test_noise_whose_worker_always_dies_is_an_error_and_not_a_figure(defective, data, tmp_path):
    settings = {"snr_db": [40, -60], "impulse_rates": [], "weight_sigmas": [], "draws": 2, "inputs_per_draw": 8}
    run = measure(tmp_path / "run", data, defective("squeamish"), noise=settings)
    rows = {row.condition: row for row in run.rows if row.profile == "squeamish" and row.metric == "accuracy_drop"}
    assert rows[condition(snr_db=40.0)].status == "ok"
    lost = rows[condition(snr_db=-60.0)]
    assert (lost.status, lost.value) == ("crash", None)
    assert lost.detail.startswith(f"draw0-{lost.condition}: died of SIGSEGV (3 times); ")
    assert {row.status for row in run.rows if row.condition == lost.condition} == {"crash"}
    assert run.exit_code() == 1


def test_bit_flips_that_crash_the_runtime_are_due(defective, data, tmp_path):
    settings = {"rates": [1e-9, 0.2], "draws": 2, "inputs_per_draw": 8}
    run = measure(tmp_path / "run", data, defective("brittle"), bit_flips=settings)
    rates = {row.condition: row.value for row in run.rows if row.metric == "due_rate"}
    assert rates == {condition(ber=1e-9): 0.0, condition(ber=0.2): 1.0}
    assert run.exit_code() == 0
    assert {death["counts"] for death in run.record["worker_deaths"]} == {True}
    (row,) = [row for row in run.rows if row.metric == "tolerated_ber"]
    assert "6 workers died" in row.detail
    assert "draw0-ber0.2: died of SIGSEGV each time, while the fault-free build ran: DUE" in row.detail
