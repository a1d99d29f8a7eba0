from __future__ import annotations

import math
from types import SimpleNamespace

import pytest

from hwbench.agenda import Agenda
from hwbench.budget import Budget
from hwbench.costs import Costs
from hwbench.plans import Plan
from hwbench.scheduler import Running
from hwbench.studies import Analysis, Study
from hwbench.worker.protocol import Job, JobResult

SESSION = {"model": "m", "n": 10}


class Sampled(Study):
    """A study that can do with any of its jobs."""

    name = headline = "sampled"

    def plan(self, case, settings):
        return {}

    def analyse(self, case, settings, results):
        return Analysis([])

    def enough(self, case, settings, results):
        return True


class Whole(Sampled):
    name = headline = "whole"

    def enough(self, case, settings, results):
        return False


def job(number, variants=1, *, exclusive=False):
    names = tuple(f"v{place}" for place in range(variants))
    params = {**SESSION, "number": number, "variants": {name: {"kind": "gaussian_input"} for name in names}}
    return Job("hwbench.worker.tasks.evaluate:run", params, variants=names, exclusive=exclusive)


def plan(study=Sampled, profile="p", **jobs):
    made = Plan(SimpleNamespace(profile=SimpleNamespace(name=profile)), study(), None, {})
    made.add(jobs, 0)
    return made


class Setting:
    """An agenda whose passes take 10 s each, with a worker that loads in no time."""

    def __init__(self, *plans, seconds=None, at_once=1, undecided=()):
        self.results, costs = {}, Costs()
        costs.timed(job(0), load_s=0.0, compile_s=0.0, input_s=1.0)
        self.budget = Budget(seconds)
        self.agenda = Agenda(self.budget, costs, self.results, at_once, lambda plan: plan.title in undecided)
        self.agenda.plans += plans

    def done(self, one, **changes):
        self.results[one.key] = JobResult("ok", None, **changes)

    def order(self):
        """The numbers of the jobs in the order in which they are picked, each done at once."""
        picked = []
        while (found := self.agenda.next([])) is not None:
            picked.append(found[0].params["number"])
            self.done(found[0])
        return picked


def test_without_a_budget_jobs_run_as_planned_and_take_their_time():
    setting = Setting(plan(a=job(1, 5), b=job(2)), plan(c=job(3)))
    assert setting.agenda.next([])[2] == math.inf
    assert setting.order() == [1, 2, 3]
    assert setting.agenda.affords(job(4, exclusive=True))


def test_equal_work_is_one_job_and_a_running_one_is_not_begun_again():
    setting = Setting(plan(a=job(1)), plan(b=job(1), c=job(2)))
    assert len(setting.agenda.waiting()) == 2
    picked, _, _ = setting.agenda.next([Running(job(1), 0, 1.0)])
    assert picked.params["number"] == 2


def test_within_a_budget_what_cannot_be_cut_comes_first_and_the_rest_shares_what_is_left():
    setting = Setting(plan(a=job(1, 30)), plan(b=job(2, 10), c=job(3)), seconds=100)
    assert setting.agenda.next([])[0].params["number"] == 3
    setting.done(job(3))
    first, _, share = setting.agenda.next([])
    assert first.params["number"] == 1
    assert share == pytest.approx(setting.budget.left * 30 / 40, rel=0.05)


def test_time_is_kept_for_what_measures_time():
    alone = job(9, exclusive=True)
    setting = Setting(plan(a=job(1, 30)), plan(b=alone), seconds=100)
    _, _, share = setting.agenda.next([])
    assert share == pytest.approx(setting.budget.left - 5, abs=1)
    assert setting.agenda.exclusive() == [alone]


def test_a_job_that_takes_far_more_than_is_left_is_declined_with_its_study():
    hopeless = plan(Whole, a=Job(job(1).task, {**job(1).params, "n": 1000}, variants=("v0",)))
    setting = Setting(hopeless, plan(b=job(2)), seconds=100)
    assert setting.order() == [2]
    assert hopeless.is_over(setting.results)
    assert not hopeless.can_analyse(setting.results)
    assert setting.budget.record()["declined"] == [{"profile": "p", "study": "whole", "jobs": ["a"]}]


def test_further_rounds_wait_for_their_turn_and_undecided_studies_go_first():
    first, second = plan(profile="p", a=job(1)), plan(profile="q", a=job(2))
    setting = Setting(first, second, seconds=1000, undecided={"q: sampled"})
    assert setting.order() == [1, 2]
    first.add({"more": job(3)}, 1)
    second.add({"more": job(4)}, 1)
    assert setting.order() == []
    setting.agenda.round = 1
    assert setting.order() == [4, 3]


def test_once_the_budget_is_spent_nothing_is_begun_and_what_is_done_is_used():
    one, other = plan(a=job(1), b=job(2)), plan(Whole, a=job(1), b=job(2))
    setting = Setting(one, other, seconds=1e-9)
    setting.done(job(1))
    assert setting.order() == []
    assert one.is_over(setting.results)
    assert one.can_analyse(setting.results)
    assert not other.can_analyse(setting.results)
    assert one.progress(setting.results) == (1, 2)


def test_a_job_that_was_cut_cuts_its_study():
    one = plan(a=job(1, 5))
    setting = Setting(one, seconds=100)
    setting.done(job(1, 5), unfinished=["v3", "v4"])
    assert one.is_cut(setting.results)
    assert one.progress(setting.results) == (3, 5)


def test_timings_leave_time_for_further_rounds():
    timed = plan(**{f"launch-{number}": job(number, exclusive=True) for number in range(10)})
    setting = Setting(timed, plan(a=job(99)), seconds=60)
    setting.done(job(99))
    setting.agenda.begin_exclusive()
    setting.done(job(0, exclusive=True))
    setting.done(job(1, exclusive=True))
    assert setting.agenda.affords(job(2, exclusive=True))
    setting.agenda._kept = setting.budget.left
    assert not setting.agenda.affords(job(2, exclusive=True))


def test_remaining_time_is_known_once_something_was_timed():
    setting = Setting(plan(a=job(1, 4), b=job(2, exclusive=True)), at_once=2)
    assert setting.agenda.left_s() == pytest.approx(40 / 2 + 5)
    assert setting.agenda.left_s([Running(job(1, 4), 2, 20.0)]) == pytest.approx(20 / 2 + 5)
    unknown = Agenda(Budget(), Costs(), {}, 1, lambda plan: False)
    unknown.plans.append(plan(a=job(1)))
    assert unknown.left_s() is None
