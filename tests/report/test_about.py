from __future__ import annotations

import polars as pl
import pytest

from hwbench.report.about import methods
from hwbench.report.view import View
from hwbench.table import SCHEMA

DEATH = {"profile": "p", "study": "noise", "job": "inputs-round0", "variant": "draw0", "reasons": ["SIGKILL"]}


def about(record: dict[str, object]) -> dict[str, str]:
    return dict(methods(View(record, pl.DataFrame(schema=SCHEMA), [])))


def test_workers_that_died_are_counted_by_job():
    text = about(
        {"worker_deaths": [DEATH, {**DEATH, "variant": "draw1"}, {**DEATH, "study": "accuracy", "job": "golden"}]}
    )
    assert "p: noise, inputs-round0 (2), p: accuracy, golden (1)." in text["Workers that died"]


@pytest.mark.parametrize("damaged", [None, [], "x", 3, ["x"]])
def test_a_record_without_deaths_or_with_a_damaged_list_says_nothing(damaged):
    assert "Workers that died" not in about({"worker_deaths": damaged})
