import math

import pytest

from hwbench.budget import Budget
from hwbench.worker.protocol import Job


def test_without_a_budget_nothing_ends():
    budget = Budget()
    assert (budget.limited, budget.left, budget.over) == (False, math.inf, False)
    job = Job("task")
    assert budget.within(job) == job
    assert budget.within(job, 3.0).limits.stop_s == 3.0


def test_a_job_ends_with_the_budget_or_its_share_of_it():
    budget = Budget(100.0)
    assert 80 < budget.left < 100  # a part is kept for the reports
    assert budget.within(Job("task")).limits.stop_s == pytest.approx(budget.left, abs=1)
    assert budget.within(Job("task"), 5.0).limits.stop_s == 5.0
    assert budget.within(Job("task")).key == Job("task").key


def test_a_spent_budget_is_over():
    budget = Budget(1e-9)
    assert budget.over
    assert budget.within(Job("task")).limits.stop_s == 0


def test_the_record_holds_what_it_was_spent_on_and_what_was_declined():
    budget = Budget(360)
    for purpose, seconds in (("accuracy", 1.5), ("builds", 2.0), ("accuracy", 1.0)):
        budget.charge(purpose, seconds)
    budget.decline("cpu-fp32", "noise", "weights")
    budget.decline("cpu-fp32", "noise", "inputs")
    record = budget.record()
    assert record["seconds"] == 360
    assert record["job_s"] == {"accuracy": 2.5, "builds": 2.0}
    assert record["declined"] == [{"profile": "cpu-fp32", "study": "noise", "jobs": ["weights", "inputs"]}]
    assert 0 <= record["wall_s"] < 60
