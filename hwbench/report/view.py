"""Looking figures up: the run, its table and its verdicts, indexed for the views."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property, lru_cache
from typing import Any, Literal

import polars as pl

from hwbench.report.format import plain
from hwbench.table import Row, from_frame
from hwbench.verdict import Outcome, Verdict

REFERENCE = "reference"
ProfileOutcome = Literal["pass", "fail", "inconclusive", "unavailable", "error", "no rules"]
BROKEN = frozenset({"error", "timeout", "oom", "crash"})
_ACCURACY_METRICS = ("top1", "rmse", "r2", "mae", "cosine")
_LOWER_IS_BETTER = frozenset({"rmse", "mae"})
_WORST_FIRST: tuple[Outcome, ...] = ("fail", "inconclusive", "unavailable", "pass")


class View:
    """What every report reads.

    Args:
        run: The content of ``run.json``; keys that are missing are done without.
        table: The measurement table.
        verdicts: The acceptance rules' verdicts.
    """

    def __init__(self, run: Mapping[str, Any], table: pl.DataFrame, verdicts: Sequence[Verdict]) -> None:
        self.run = run
        self.rows = from_frame(table)
        self.verdicts = tuple(verdicts)
        self._index: dict[tuple[str, str, str, str], Row] = {}
        self._groups: dict[tuple[str, str], list[Row]] = {}
        for row in self.rows:
            self._groups.setdefault((row.profile, row.study), []).append(row)
            self._index.setdefault((row.profile, row.study, row.metric, row.condition), row)

    @cached_property
    def profiles(self) -> tuple[str, ...]:
        """The profiles, in the order the run names them; the reference is not one of them."""
        named = dict.fromkeys(
            [*_mapping(self.run, "profiles"), *(row.profile for row in self.rows), *(v.profile for v in self.verdicts)]
        )
        return tuple(name for name in named if name not in {REFERENCE, ""})

    @cached_property
    def studies(self) -> tuple[str, ...]:
        """The studies in the table, in its order."""
        return tuple(dict.fromkeys(row.study for row in self.rows))

    @cached_property
    def primary(self) -> str:
        """The accuracy metric that counts."""
        if self.run.get("primary"):
            return str(self.run["primary"])
        measured = {row.metric for row in self.rows if row.study == "accuracy"}
        return next((metric for metric in _ACCURACY_METRICS if metric in measured), "top1")

    @property
    def primary_falls(self) -> bool:
        """Whether a lower value of the primary metric is the better one."""
        stated = self.run.get("higher_is_better")
        return self.primary in _LOWER_IS_BETTER if stated is None else not stated

    @property
    def model_name(self) -> str:
        """The model's name."""
        return plain(
            self.section("model").get("name") or next((row.model for row in self.rows if row.model), "") or "model"
        )

    def section(self, key: str) -> Mapping[str, Any]:
        """One object of ``run.json``; empty if it is missing."""
        return _mapping(self.run, key)

    def about(self, profile: str) -> Mapping[str, Any]:
        """What ``run.json`` says about a profile."""
        return _mapping(self.section("profiles"), profile)

    def row(self, profile: str, study: str, metric: str, condition: str = "{}") -> Row | None:
        """The row of a figure; None if it was not measured."""
        return self._index.get((profile, study, metric, condition))

    def of(self, profile: str, study: str) -> list[Row]:
        """A profile's rows of one study."""
        return self._groups.get((profile, study), [])

    def uncovered(self, study: str) -> tuple[str, ...]:
        """A remark for every profile of whose build a fault study could not reach all stored numbers."""
        found = [(profile, self.row(profile, study, "covered_numbers")) for profile in self.profiles]
        return tuple(f"{profile}: {row.detail}." for profile, row in found if row is not None)

    def headline(self, profile: str, study: str, metric: str) -> Row | None:
        """A metric's headline: its row without a condition, else its first one.

        A study that could not be carried out has a single row, of whatever metric: that row then says why.
        """
        mine = self.of(profile, study)
        named = [row for row in mine if row.metric == metric]
        whole = [row for row in named if row.condition == "{}"]
        failed = [row for row in mine if row.status != "ok"] if not named else []
        return next(iter([*whole, *named, *failed]), None)

    def sweep(self, study: str, metric: str, key: str, **fixed: Any) -> list[tuple[float, Row]]:
        """A metric's figures over one numeric setting, by profile and setting; rows with others than ``fixed`` are left out."""
        found = []
        for row in self.rows:
            if row.study == study and row.metric == metric and row.status == "ok" and row.value is not None:
                setting = settings(row.condition)
                if (
                    setting.keys() == {key, *fixed}
                    and isinstance(setting[key], int | float)
                    and fixed.items() <= setting.items()
                ):
                    found.append((float(setting[key]), row))
        order = {name: place for place, name in enumerate((REFERENCE, *self.profiles))}
        return sorted(found, key=lambda pair: (order.get(pair[1].profile, -1), pair[0]))

    def where(self, study: str, metric: str, *keys: str) -> list[tuple[Mapping[str, Any], Row]]:
        """A metric's finite figures whose condition has exactly these keys, with that condition, in the table's order."""
        wanted = frozenset(keys)
        return [
            (setting, row)
            for row in self.rows
            if row.study == study and row.metric == metric and row.status == "ok" and row.value is not None
            and math.isfinite(row.value) and row.profile in self.profiles
            and (setting := settings(row.condition)).keys() == wanted
        ]  # fmt: skip

    def rules(self, profile: str) -> list[Verdict]:
        """The verdicts of a profile."""
        return [verdict for verdict in self.verdicts if verdict.profile == profile]

    def outcome(self, profile: str) -> ProfileOutcome:
        """The worst of a profile's verdicts and jobs. A profile that ran is inconclusive where a rule lacks its figure."""
        status = str(self.about(profile).get("status", "ok"))
        outcomes = {verdict.outcome for verdict in self.rules(profile)}
        if "fail" in outcomes:
            return "fail"
        if status in BROKEN or self.broken(profile):
            return "error"
        if status == "unavailable":
            return "unavailable"
        worst: ProfileOutcome = next((outcome for outcome in _WORST_FIRST if outcome in outcomes), "no rules")
        ran = any(row.status == "ok" for row in self.rows if row.profile == profile)
        return "inconclusive" if worst == "unavailable" and ran else worst

    def reason(self, profile: str) -> str:
        """Why a profile lacks figures, and what would help; empty if it lacks none."""
        about = self.about(profile)
        if about.get("status", "ok") != "ok":
            return "; ".join(str(about[key]).rstrip(".") for key in ("detail", "hint") if about.get(key)) or str(
                about["status"]
            )
        broken = [f"{row.study}: {row.status}, {row.detail}" for row in self.broken(profile)]
        lacking = [
            f"{verdict.rule}: {verdict.detail}" for verdict in self.rules(profile) if verdict.outcome == "unavailable"
        ]
        return "; ".join(dict.fromkeys(broken or lacking))

    @property
    def is_unlabeled(self) -> bool:
        """True if the run's data have no labels."""
        return self.section("data").get("labels") is False

    def broken(self, profile: str) -> list[Row]:
        """The rows of jobs that ended in an error; dying under a memory cap is a finding, not an error."""
        return [
            row
            for row in self.rows
            if row.profile == profile and row.status in BROKEN and "cap_mib" not in settings(row.condition)
        ]


@lru_cache(maxsize=1 << 16)
def settings(condition: str) -> Mapping[str, Any]:
    """A condition read back; one that is not a JSON object is kept as text."""
    try:
        content = json.loads(condition)
    except json.JSONDecodeError:
        content = None
    return content if isinstance(content, dict) else {"condition": condition}


def drawn(rows: Iterable[Row], view: View) -> tuple[str, ...]:
    """The profiles among rows, in the run's order."""
    present = {row.profile for row in rows}
    return tuple(name for name in view.profiles if name in present)


def _mapping(content: Mapping[str, Any], key: str) -> Mapping[str, Any]:
    value = content.get(key)
    return value if isinstance(value, Mapping) else {}
