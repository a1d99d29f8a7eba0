"""The progress of a fault campaign: the trials of the stages so far, what became of them, and what that shows meanwhile."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import polars as pl

from hwbench.faults.listing import SCHEMA
from hwbench.faults.sampler import Results, Sampler
from hwbench.faults.sampling import Stratified
from hwbench.stats import Estimate
from hwbench.stats.campaign import bounded_mean
from hwbench.studies.base import Case, Interim
from hwbench.studies.campaign_jobs import alone_job, counted_alone, in_artefact, shard_job, shards
from hwbench.studies.fault_draws import BLOCK, Array
from hwbench.studies.faults_settings import FaultsSettings
from hwbench.worker.outcomes import COLUMNS
from hwbench.worker.protocol import DEATHS, Job, JobResult
from hwbench.worker.tasks.campaign import LOST


@dataclass(frozen=True)
class Campaign:
    """The trials so far, and what became of them.

    Attributes:
        sampler: What decides on the trials; None where a list is replayed.
        trials: One line a trial, in the columns of a fault list and ``trial``.
        counts: int64 ``[trials, columns of hwbench.worker.outcomes.COLUMNS]``.
        errors: Largest absolute error of each trial.
        losses: What each trial adds to the loss, summed over inputs.
        wanted: Jobs that must be done before anything more can be said.
        inputs: The order of the inputs where trials run over some of them, from `input_order`; else None.
        alone: Trials whose shard died, so that each was run by a full rebuild.
        problem: Why the campaign cannot go on; empty while it can.
    """

    sampler: Sampler | None
    trials: pl.DataFrame
    counts: np.ndarray[Any, Any]
    errors: np.ndarray[Any, Any]
    losses: np.ndarray[Any, Any]
    wanted: dict[str, Job]
    inputs: Array | None = None
    alone: frozenset[int] = frozenset()
    problem: str = ""

    @classmethod
    def empty(cls, sampler: Sampler | None, inputs: Array | None = None) -> Campaign:
        """A campaign without trials."""
        trials = pl.DataFrame(schema={"trial": pl.Int64, **SCHEMA, **BLOCK})
        counts = np.zeros((0, len(COLUMNS)), dtype=np.int64)
        return cls(sampler, trials, counts, np.zeros(0), np.zeros(0), {}, inputs)

    def followed(
        self, case: Case, settings: FaultsSettings, stage: str, drawn: pl.DataFrame, results: Mapping[str, JobResult]
    ) -> Campaign:
        """The campaign after another stage, or with the jobs that it waits for."""
        numbered = drawn.with_row_index("trial", offset=self.trials.height).cast({"trial": pl.Int64})
        numbered = pl.concat([self.trials.clear(), numbered], how="diagonal")
        trials = pl.concat([self.trials, numbered])
        counts = np.concatenate([self.counts, np.zeros((drawn.height, len(COLUMNS)), dtype=np.int64)])
        errors, losses = (np.concatenate([old, np.zeros(drawn.height)]) for old in (self.errors, self.losses))
        wanted: dict[str, Job] = {}
        alone = set(self.alone)
        for at, part in enumerate(shards(case, settings, numbered)):
            name = f"{stage}-shard-{at:05d}"
            places = part["trial"].to_numpy()
            if f"alone-{name}" in results and not results[f"alone-{name}"].unfinished:
                alone |= set(places.tolist())
                if LOST in results[f"alone-{name}"].data.get("variants", {}):
                    counted = counted_alone(results[f"alone-{name}"], part.height)
                    counts[places], errors[places], losses[places] = counted
            elif name not in results:
                wanted[name] = shard_job(case, settings, part, self.inputs)
            elif results[name].status in DEATHS and not in_artefact(part):
                wanted[f"alone-{name}"] = alone_job(case, settings, part, self.inputs)
            elif results[name].ok:
                counts[places], errors[places] = results[name].array("counts"), results[name].array("max_abs_error")
                losses[places] = results[name].array("loss_change")
        return Campaign(self.sampler, trials, counts, errors, losses, wanted, self.inputs, frozenset(alone))

    def results(self) -> Results:
        """What the sampler is told."""
        strata = list(zip(self.trials["tensor"].to_list(), self.trials["bit"].to_list(), strict=True))
        inputs = np.maximum(self.counts[:, 0], 1)  # a trial without an input that counts is one without an event
        return Results(strata, inputs, self.counts[:, 1], self.counts[:, 2])

    @property
    def short(self) -> bool:
        """Whether trials met inputs that do not count, fault-free: every input of a block must be as likely as another."""
        length = (self.trials["last"] - self.trials["first"]).fill_null(0).to_numpy()
        return bool((self.counts[:, 0] < length).any())

    def asked(self, *, over_all: bool) -> Counter[tuple[str, int]]:
        """How many trials each stratum has had, over all inputs or over some of them."""
        trials = self.trials.filter(pl.col("first").is_null() == over_all)
        return Counter(zip(trials["tensor"].to_list(), trials["bit"].to_list(), strict=True))


def interim(stages: Sequence[Campaign], level: float) -> Interim:
    """What a campaign says of itself before it is over.

    Where every trial stands for equally many faults, its figure is that of the trials that are done; otherwise, what the
    sampler makes of the last stage that is complete.
    """
    last = stages[-1]
    done = last.counts[:, 0] > 0
    figure: Estimate | None = None
    if isinstance(last.sampler, Stratified) and not last.problem:
        complete = [campaign for campaign in stages if not campaign.wanted]
        figure = last.sampler.estimate(complete[-1].results()).overall.sdc if complete else None
    elif done.any():
        figure = bounded_mean(last.counts[done, 1] / last.counts[done, 0], 0.0, 1.0, level)
    said = f"SDC {figure.value:.3%} [{figure.low:.3%}, {figure.high:.3%}]" if figure is not None else ""
    return Interim(int(done.sum()), last.trials.height, "trials", said)
