from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from pydantic import ValidationError

from hwbench.studies import studies
from hwbench.studies.base import GOLDEN
from hwbench.table import condition
from hwbench.topk import best_classes
from hwbench.worker.protocol import JobResult

SHIPPED = ["accuracy", "bit_flips", "coverage", "fidelity", "latency", "memory", "noise", "throughput"]


def test_the_shipped_studies_are_registered_under_their_names():
    assert set(SHIPPED) <= set(studies.names())
    assert [studies.get(name).name for name in SHIPPED] == SHIPPED


def test_only_those_that_measure_time_or_memory_say_so():
    assert [name for name in SHIPPED if studies.get(name).timing] == ["latency", "memory", "throughput"]


@pytest.mark.parametrize("name", SHIPPED)
def test_settings_refuse_unknown_keys(name):
    with pytest.raises(ValidationError, match="Extra inputs are not permitted"):
        studies.get(name).settings_type.model_validate({"nonsense": 1})


@pytest.mark.parametrize("name", SHIPPED)
def test_a_job_that_ended_badly_gives_one_row_with_how_and_why(make_case, name):
    study, case = studies.get(name)(), make_case()
    results = {"golden": JobResult("crash", Path("nowhere"), detail="died of SIGSEGV")}
    (row,) = study.measure(case, study.settings_type(), results).rows
    assert (row.study, row.metric, row.status, row.value) == (name, study.headline, "crash", None)
    assert row.detail == "golden: died of SIGSEGV"


def test_a_worker_that_died_in_the_golden_run_leaves_nothing_to_compare_with(make_case, make_result):
    study = studies.get("bit_flips")()
    settings = study.settings_type(rates=(0.1,), draws=2)
    done = {"draw0-ber0.1": np.zeros((5, 3), np.int32), "draw1-ber0.1": np.zeros((5, 3), np.int32)}
    golden = make_result({}, failed={"golden": ("timeout", "took longer than 60 s")})
    (row,) = study.measure(
        make_case(), settings, {"golden": golden, "flips-round0-000000-000002": make_result(done)}
    ).rows
    assert (row.status, row.detail) == ("timeout", "golden: took longer than 60 s")


def test_a_worker_that_died_of_the_last_fault_leaves_every_other_figure(make_case, make_result):
    study, best = studies.get("bit_flips")(), best_classes(np.eye(3)[[0, 1, 2, 0, 1]])
    settings = study.settings_type(rates=(0.1,), draws=2)
    golden = make_result({"golden": np.eye(3)[best[:, 0]]})
    flips = make_result({"draw0-ber0.1": best}, failed={"draw1-ber0.1": ("crash", "SIGSEGV")}, caused=["draw1-ber0.1"])
    analysis = study.measure(make_case(), settings, {"golden": golden, "flips-round0-000000-000002": flips})
    rows = {row.metric: row for row in analysis.rows if row.condition in ('{"ber": 0.1}', "{}")}
    assert rows["due_rate"].value == 0.5
    assert rows["top1"].value == 0.5
    assert rows["tolerated_ber"].value == 0
    assert analysis.parts["draws"]["n_faults"].to_list() == [0, None]


@pytest.mark.parametrize("status", ["crash", "timeout", "oom", "error"])
def test_a_worker_that_something_else_ended_costs_the_figures_of_its_rate_alone(make_case, make_result, status):
    study, best = studies.get("bit_flips")(), best_classes(np.eye(3)[[0, 1, 2, 0, 1]])
    settings = study.settings_type(rates=(0.1, 0.2), draws=2)
    golden = make_result({"golden": np.eye(3)[best[:, 0]]})
    done = dict.fromkeys(("draw0-ber0.1", "draw0-ber0.2", "draw1-ber0.2"), best)
    flips = make_result(done, failed={"draw1-ber0.1": (status, "died of SIGKILL (3 times)")})
    results = {"golden": golden, "flips-round0-000000-000002": flips}
    rows = study.measure(make_case(), settings, results).rows
    (lost,) = (row for row in rows if row.condition == condition(ber=0.1))
    assert (lost.metric, lost.status, lost.value) == ("accuracy_drop", status, None)
    assert lost.detail == "draw1-ber0.1: died of SIGKILL (3 times)"
    assert next(row for row in rows if row.metric == "tolerated_ber").status == status
    assert {row.status for row in rows if row.condition == condition(ber=0.2)} == {"ok"}
    assert study.enough(make_case(), settings, results)


def test_a_golden_output_that_did_not_come_back_voids_the_study(make_case, make_result):
    study, best = studies.get("bit_flips")(), np.zeros((5, 1), np.int32)
    settings = study.settings_type(rates=(0.1,), draws=2)
    flips = make_result(dict.fromkeys(("draw0-ber0.1", "draw1-ber0.1"), best), data={"restored": False})
    golden = make_result({"golden": np.eye(5, 3)})
    (row,) = study.measure(make_case(), settings, {"golden": golden, "flips-round0-000000-000002": flips}).rows
    assert row.status == "error"
    assert "not the same, bit for bit" in row.detail


def test_jobs_on_the_same_inputs_are_the_same_work_whatever_the_labels(make_case):
    one, other = make_case(labels=[0, 1, 2, 0, 1]), make_case(labels=[2, 2, 2, 2, 2])
    assert one.data.key != other.data.key
    assert one.evaluation(GOLDEN).key == other.evaluation(GOLDEN).key


def test_only_jobs_that_measure_time_run_with_the_options_as_they_are(make_case):
    case = make_case()
    assert case.subject.job("latency", case, exclusive=True).options == {}
    assert case.subject.job("evaluate", case).options == {"allow_spinning": False}
