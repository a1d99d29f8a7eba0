"""Series of launches: the figures of one timed point over fresh processes, their ratios, and what disturbed them."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import polars as pl

from hwbench import stats
from hwbench.stats import Estimate
from hwbench.studies.base import LEVEL
from hwbench.worker.protocol import JobResult

Array = np.ndarray[Any, np.dtype[Any]]
# Prefixes of the labels of a study's jobs, before the block's number.
OWN, BASELINE = "launch", "baseline"
NS_PER_MS = 1e6

_ACCOUNTS = ("others_s", "steal_s", "waiting_s", "throttled_s", "switches", "wall_s")
PART_SCHEMA = {
    "block": pl.Int64,
    "point": pl.String,
    "batch": pl.Int64,
    "threads": pl.Int64,
    "runs": pl.Int64,
    "windows": pl.Int64,
    "rejected": pl.Int64,
    "disturbed": pl.Boolean,
    "reasons": pl.String,
    **dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "samples_per_s", "load_ms", "first_run_ms"), pl.Float64),
    **dict.fromkeys(_ACCOUNTS, pl.Float64),
}


@dataclass(frozen=True)
class Launch:
    """One point in one launch.

    Attributes:
        block: The launch's number.
        durations: Milliseconds per run of the kept windows, in their order.
        record: The data of the ``launch`` task on this point.
    """

    block: int
    durations: Array
    record: Mapping[str, Any]

    @property
    def rejected(self) -> int:
        """Windows measured and not kept."""
        return len(self.record["windows"]) - len(self.record["kept"])

    @property
    def reasons(self) -> dict[str, int]:
        """The reasons for which windows were disturbed, with how many."""
        named = [reason for window in self.record["windows"] for reason in window["reasons"]]
        return {reason: named.count(reason) for reason in dict.fromkeys(named)}

    def total(self, name: str) -> float:
        """One column of all windows' accounts added up; NaN where the machine does not keep it."""
        values = [window[name] for window in self.record["windows"]]
        return float(sum(values)) if None not in values else math.nan


@dataclass(frozen=True)
class Series:
    """One point of one build over its launches, in the order of blocks.

    Attributes:
        batch: Inputs per run.
        measured: One each; those in which the point failed are left out.
        failure: How it ended in the first launch in which it failed; None if in none.
        pilot: Launches after which their number was chosen.
    """

    batch: int
    measured: tuple[Launch, ...]
    failure: tuple[Any, str] | None
    pilot: int

    @cached_property
    def launches(self) -> tuple[Launch, ...]:
        """The launches that count: the undisturbed ones, or all where fewer than half, or than two, are undisturbed."""
        undisturbed = tuple(one for one in self.measured if not one.record["disturbed"])
        return undisturbed if len(undisturbed) >= max(2, len(self.measured) / 2) else self.measured

    @property
    def left_out(self) -> int:
        """Launches with too few undisturbed windows, in place of which others count."""
        return len(self.measured) - len(self.launches)

    @property
    def disturbed(self) -> bool:
        """True if disturbed launches count, for lack of others."""
        return any(one.record["disturbed"] for one in self.launches)

    @cached_property
    def seconds(self) -> Array:
        """All durations, in seconds."""
        return np.concatenate([launch.durations for launch in self.launches]) / 1e3

    def values(self, statistic: Statistic) -> Array:
        """A figure of each launch."""
        return np.array([statistic.of(launch.durations) for launch in self.launches])

    @property
    def runs(self) -> int:
        """Runs of all launches."""
        return sum(len(one.durations) for one in self.launches)

    @property
    def blocks(self) -> set[int]:
        """The blocks in which the point was measured."""
        return {one.block for one in self.launches}

    def figure(self, statistic: Statistic) -> Estimate:
        """The figure over launches; unbounded where disturbed launches count, and above where too few runs reach it."""
        figure = stats.over_launches(self.values(statistic), self.pilot, LEVEL)
        if self.disturbed:
            return replace(figure, low=0.0, high=math.inf)
        return figure if self.runs >= statistic.least_runs else replace(figure, high=math.inf)

    def paired(self, other: Series, statistic: Statistic, base: Statistic | None = None) -> tuple[Array, Array]:
        """This series' figure and the other's, for each block in which both were launched.

        Args:
            other: The baseline's.
            statistic: The figure.
            base: The other's figure, where it is computed otherwise.
        """
        mine, theirs = ({one.block: one.durations for one in side.launches} for side in (self, other))
        blocks = sorted(self.blocks & other.blocks)
        return (
            np.array([statistic.of(mine[block]) for block in blocks]),
            np.array([(base or statistic).of(theirs[block]) for block in blocks]),
        )

    def ratio(self, other: Series, statistic: Statistic, base: Statistic | None = None) -> Estimate:
        """The ratio over blocks; unbounded where a side was disturbed. Arguments as in `paired`."""
        ratio = stats.ratio_over_launches(*self.paired(other, statistic, base), self.pilot, LEVEL)
        return replace(ratio, low=0.0, high=math.inf) if self.disturbed or other.disturbed else ratio

    def notes(self, statistic: Statistic, precision: float) -> str:
        """Remarks on a figure: noise, number of launches and runs, share of the variance between launches.

        Args:
            statistic: The figure.
            precision: The half-width asked for, as a share.
        """
        few = [f"too few runs for an upper bound: {self.runs} of {statistic.least_runs}"]
        few = few if self.runs < statistic.least_runs else []
        noise = _noise(self, precision, self.figure(statistic))
        return "; ".join([*few, *noise, _spread(self, statistic), *_unsteady(self)])


@dataclass(frozen=True)
class Statistic:
    """A figure of the runs of one launch.

    Attributes:
        of: The figure, from durations in milliseconds.
        log_variance: The variance of its logarithm within a launch, from the same durations.
        least_runs: Runs of all launches without which the figure has no upper bound.
    """

    of: Callable[[Array], float]
    log_variance: Callable[[Array], float]
    least_runs: int = 0


def percentile(q: float) -> Statistic:
    """The q-quantile of durations."""
    return Statistic(
        lambda durations: float(np.quantile(durations, q)),
        lambda durations: stats.log_quantile_variance(durations, q),
        least_runs=stats.minimum_samples(q, LEVEL),
    )


def pace(batch: int) -> Statistic:
    """Samples per second."""
    return Statistic(lambda durations: batch * 1e3 * len(durations) / float(durations.sum()), stats.log_mean_variance)


def series(results: Mapping[str, JobResult], name: str, batch: int, pilot: int, *, baseline: bool = False) -> Series:
    """One point's launches among a study's results.

    Args:
        results: The study's.
        name: The point.
        batch: Its inputs per run.
        pilot: Launches planned first.
        baseline: Whether those of the baseline are meant.
    """
    prefix = f"{BASELINE if baseline else OWN}-"
    launches, failure = [], None
    numbered = {
        int(label.removeprefix(prefix)): result for label, result in results.items() if label.startswith(prefix)
    }
    for block, result in sorted(numbered.items()):
        if not result.ok or name in result.failed or name not in result.data.get("variants", {}):
            failure = failure or result.failed.get(name, (result.status, result.detail))
            continue
        launches.append(Launch(block, result.array(name) / NS_PER_MS, result.data["variants"][name]))
    return Series(batch, tuple(launches), failure, pilot)


def part(points: Mapping[str, tuple[Series, int | None]]) -> pl.DataFrame:
    """One row a launch and point, in the columns of ``PART_SCHEMA``.

    Args:
        points: Point to its series and its number of threads; None where the runtime chooses.
    """
    records = []
    for name, (of_point, threads) in points.items():
        for one in of_point.measured:
            p50, p90, p99 = np.quantile(one.durations, (0.5, 0.9, 0.99))
            records.append(
                {
                    "block": one.block, "point": name, "batch": of_point.batch, "threads": threads,
                    "runs": len(one.durations), "windows": len(one.record["kept"]), "rejected": one.rejected,
                    "disturbed": one.record["disturbed"],
                    "reasons": ", ".join(one.reasons),
                    "p50_ms": p50, "p90_ms": p90, "p99_ms": p99,
                    "samples_per_s": pace(of_point.batch).of(one.durations),
                    "load_ms": one.record["load_ns"] / NS_PER_MS,
                    "first_run_ms": one.record["first_run_ns"] / NS_PER_MS,
                    **{column: one.total(column) for column in _ACCOUNTS},
                }
            )  # fmt: skip
    return pl.DataFrame(records, schema=PART_SCHEMA, orient="row")


def ratio_detail(of_point: Series, other: Series) -> str:
    """Remarks on a ratio: the blocks behind it, and that disturbances leave it open."""
    blocks = f"paired over {len(of_point.blocks & other.blocks)} blocks"
    return f"noisy: {blocks} with too few undisturbed windows" if of_point.disturbed or other.disturbed else blocks


def _noise(of_point: Series, precision: float, figure: Estimate) -> Iterator[str]:
    windows = [window for one in of_point.measured for window in one.record["windows"]]
    counts = Counter(reason for window in windows for reason in window["reasons"])
    causes = " and ".join(_CAUSES[reason] for reason in counts)
    disturbed = f"{causes} disturbed {sum(bool(window['reasons']) for window in windows)} of {len(windows)} windows"
    half = math.expm1(math.log(figure.high / figure.value)) if figure.high < math.inf else 0.0
    if of_point.disturbed:
        yield f"noisy: {disturbed}"
    elif half > precision:
        yield f"noisy: ±{100 * half:.2g} % after {figure.n} launches, wanted ±{100 * precision:g} %"
    if counts and not of_point.disturbed:
        yield f"{disturbed}, which are left out"


_CAUSES = {
    "others": "other processes",
    "steal": "the hypervisor's other guests",
    "waiting": "a busy processor",
    "throttled": "a quota",
}


def _spread(of_point: Series, statistic: Statistic) -> str:
    left_out = f" without {of_point.left_out} disturbed" if of_point.left_out else ""
    counted = f"{len(of_point.launches)} launches{left_out}, {of_point.runs} runs"
    within = np.array([statistic.log_variance(one.durations) for one in of_point.launches])
    if len(within) < 2 or not np.isfinite(within).all():
        return counted
    share = stats.share_between(of_point.values(statistic), within)
    return counted if math.isnan(share) else f"{counted}; {share:.0%} of the variance is between launches"


def _unsteady(of_point: Series) -> Iterator[str]:
    unsteady = sum(not one.record["steady"] for one in of_point.launches)
    if unsteady:
        yield f"not steady after the warm-up in {unsteady} of {len(of_point.launches)} launches"
