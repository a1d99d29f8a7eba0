"""Fault campaigns: the probability that one faulty bit changes an answer, and which layers and bits carry it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl

from hwbench.dataset import Dataset
from hwbench.errors import DataError, InputError
from hwbench.faults import names
from hwbench.faults.listing import check_lines, open_list, read_faults
from hwbench.faults.sampler import Results, Sampler
from hwbench.faults.sampling import Exhaustive, Inputs, Stratified, TooManyTrialsError, Uniform
from hwbench.faults.space import FaultSpace
from hwbench.stats.campaign import leveugle
from hwbench.studies.base import GOLDEN, Analysis, Case, Interim, Study
from hwbench.studies.campaign import Campaign, interim
from hwbench.studies.campaign_jobs import shard_job
from hwbench.studies.campaign_rows import campaign_rows, loss_rows, verification_rows
from hwbench.studies.deployed import coverage_rows, deployed, numbers_obstacle
from hwbench.studies.fault_draws import BLOCK, drawn, input_order
from hwbench.studies.faults_settings import FaultsSettings
from hwbench.table import Row, condition
from hwbench.worker.outcomes import COLUMNS
from hwbench.worker.protocol import Job, JobResult
from hwbench.worker.tasks.campaign import LOST

DEFAULT_TRIALS = 1000
# Trials of the first stage, about, where a budget may end a campaign of a given number of them after any stage.
_FIRST = 125
_ENDS = {
    "ok": "loaded the damaged file and gave outputs",
    "refused": "the runtime refused the damaged file: DUE on every input",
    "crash": "died, or needed far more memory than the fault-free file: DUE on every input",
    "timeout": "hung: DUE on every input",
}


class FaultsStudy(Study):
    """Single faults in the build's stored numbers, in what it makes of inputs or in its file, each run over all inputs."""

    name = "faults"
    headline = "sdc_rate"
    settings_type = FaultsSettings
    default = False
    checks_builds = True

    def check(self, settings: FaultsSettings, data: Dataset, *, classifies: bool) -> None:
        """Labels where only right answers count, a tolerance where there is no best class, a list whose lines can be read."""
        if settings.only_correct and data.labels is None:
            raise DataError(f"{data.source}: there are no labels, and only_correct counts only inputs that are right")
        if settings.only_correct and not classifies:
            raise InputError(
                "this output is no classifier's, so that no input is right or wrong; leave only_correct out"
            )
        if settings.tolerance is None and not classifies:
            raise InputError(
                "this output is no classifier's: say which error counts as a changed answer, with --tolerance"
            )
        if settings.tolerance is not None and classifies:
            raise InputError(
                "this output is a classifier's: the answer that counts is its best class, to which --tolerance means "
                "nothing; leave it out"
            )
        if settings.faults is not None:
            check_lines(Path(settings.faults))

    def check_build(self, case: Case, settings: FaultsSettings) -> None:
        """Bits to draw from, or a list of faults that the build can have."""
        if settings.faults is not None:
            _listed(case, Path(settings.faults))
        elif not self.obstacle(case, settings):
            try:
                _sampler(_space(case, settings), settings, case, case.data.n).next(Results.none())
            except TooManyTrialsError as error:
                raise InputError(_too_many(settings, error)) from None

    def obstacle(self, case: Case, settings: FaultsSettings) -> str:
        """Reason why no fault can be drawn; empty if one can."""
        return numbers_obstacle(case) if settings.faults is None and settings.places == "stored" else ""

    def plan(self, case: Case, settings: FaultsSettings) -> dict[str, Job]:
        """A job for every shard of the first stage's trials; before it, where only right inputs are drawn, which those are."""
        return self._campaign(case, settings, {}).wanted

    def extend(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Trials of shards that died, one by one; the next stage's trials; then a sample of all, run by a full rebuild."""
        campaign = self._campaign(case, settings, results)
        if campaign.wanted or campaign.problem or "verify" in results or not settings.segmented:
            return campaign.wanted
        return _verification(case, settings, campaign)

    def enough(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> bool:
        """A stage whose trials are all done; a list or all faults have one stage, which is then the whole."""
        complete = (campaign for campaign in self._stages(case, settings, results) if not campaign.wanted)
        return any(campaign.trials.height for campaign in complete)

    def conclude(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """A sample of the trials that count, run by a full rebuild."""
        campaign = self._campaign(case, settings, results, whole=True)
        return _verification(case, settings, campaign) if settings.segmented and "verify" not in results else {}

    def progress(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> Interim:
        """Trials, and the SDC rate so far."""
        return interim(list(self._stages(case, settings, results)), settings.confidence)

    def measure(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> Analysis:
        """As `Study.measure`, but that shards which died count through their trials run alone."""
        kept = {name: result for name, result in results.items() if f"alone-{name}" not in results}
        for name, result in kept.items():
            for trial, (status, detail) in result.failed.items():
                if trial not in result.caused or trial == LOST:  # not the fault's doing, so not an outcome
                    return Analysis([self.missing(status, f"{name}, trial {trial}: {detail}")])
        return super().measure(case, settings, kept)

    def analyse(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> Analysis:
        """Rates with intervals, and one line a trial."""
        campaign = self._campaign(case, settings, results, whole=True)
        table = _table(campaign.trials, campaign.counts, campaign.errors)
        if campaign.problem:
            return Analysis([self.missing("unavailable", campaign.problem)], parts={"trials": table})
        if not campaign.counts[:, 0].any():
            why = "no input counts: fault-free, not one gives a finite output" + (
                ", and a right one" * settings.only_correct
            )
            return Analysis([self.missing("unavailable", why)], parts={"trials": table})
        space = _space(case, settings, set(campaign.trials["tensor"]))
        rows = campaign_rows(case, settings.confidence, space, table, campaign.counts, campaign.sampler)
        if settings.ci_half_width is not None:
            usual = leveugle(space.size, settings.ci_half_width, settings.confidence)
            said = f"{usual:,} trials over all inputs would be taken without a pilot (Leveugle et al., p = 0.5)"
            rows[0] = replace(rows[0], detail=f"{rows[0].detail}; {said}")
        rows += loss_rows(case, settings.confidence, campaign.counts, campaign.losses, campaign.sampler)
        problem = self._disagreement(case, campaign, results)
        if problem is not None:
            rows = [self.missing("error", problem)]
        return Analysis(
            [*rows, *verification_rows(results, agree=problem is None), *_limits(case, settings, results)],
            parts={"trials": table},
        )

    def _campaign(
        self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult], *, whole: bool = False
    ) -> Campaign:
        """The progress of a campaign; with ``whole``, after the last stage whose trials are all done, if there is one."""
        *before, last = self._stages(case, settings, results)
        complete = [campaign for campaign in before if not campaign.wanted] if whole and last.wanted else []
        return complete[-1] if complete else last

    def _stages(self, case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> Iterator[Campaign]:
        """A campaign after each of its stages, which are decided on by the results of those before."""
        if settings.faults is not None:
            listed = _listed(case, Path(settings.faults))
            yield Campaign.empty(None).followed(case, settings, "stage-0", listed, results)
            return
        space, inputs, golden = _space(case, settings), None, results.get("golden")
        if settings.blocks:
            if settings.only_correct and golden is None:
                yield replace(Campaign.empty(None), wanted={"golden": case.evaluation(GOLDEN)})
                return
            inputs = input_order(case, golden, only_correct=settings.only_correct)
        available = case.data.n if inputs is None else len(inputs)
        campaign, stage = Campaign.empty(None, inputs), 0
        if not available:
            yield campaign
            return
        campaign = replace(campaign, sampler=_sampler(space, settings, case, available))
        while campaign.sampler is not None and not campaign.wanted:
            try:
                more = campaign.sampler.next(campaign.results())
            except TooManyTrialsError as error:
                yield replace(campaign, problem=_too_many(settings, error))
                return
            if more is None:
                break
            like = settings.kind, settings.width if settings.kind == "burst" else 1
            trials = drawn(space, more, campaign.asked(over_all=more.inputs is None), case.seed, available, like)
            name = f"{'counted-' if available < case.data.n else ''}stage-{stage}"
            campaign, stage = campaign.followed(case, settings, name, trials, results), stage + 1
            if not campaign.wanted and golden is None and campaign.short:  # from the start, over the inputs that count
                campaign = replace(campaign, wanted={"golden": case.evaluation(GOLDEN)})
            yield campaign

    def _disagreement(self, case: Case, campaign: Campaign, results: Mapping[str, JobResult]) -> str | None:
        """What is wrong with the campaign, in words: a trial that a full rebuild tells otherwise, or faults left behind."""
        for result in results.values():
            checks = result.data.get("checks", {})
            if not checks.get("golden_restored", True):
                return "the golden output after the campaign was not the same, bit for bit, as before"
        if "verify" not in results:
            return None
        sample = _sample(case, campaign)
        again = results["verify"].array("counts")
        wrong = np.flatnonzero((campaign.counts[sample["trial"].to_numpy()][:, :3] != again[:, :3]).any(axis=1))
        if not len(wrong):
            return None
        first = sample.row(int(wrong[0]), named=True)
        return (
            f"{len(wrong)} of {sample.height} trials run again by a full rebuild had another outcome, the first in "
            f"{first['tensor']!r}, element {first['element']}, bit {first['bit']}; run with segmented = false"
        )


def _too_many(settings: FaultsSettings, error: TooManyTrialsError) -> str:
    """The message where a campaign needs more trials than can be planned."""
    if settings.sampler == "exhaustive":
        return f"settings.faults.sampler = 'exhaustive': {error}; select fewer tensors or bits, or sample them"
    return f"settings.faults.ci_half_width = {settings.ci_half_width}: {error}; give a wider one, or a number of trials"


def _space(case: Case, settings: FaultsSettings, listed: Collection[str] = ()) -> FaultSpace:
    """The bits that faults are drawn from; where a list is replayed, those that it could name."""
    build = deployed(case.subject.build.model)
    if settings.faults is not None:
        return build.whole(listed)
    return build.part(settings.places).select(
        tensors=settings.tensors, ops=settings.ops, roles=settings.roles, depth=settings.depth, bit_range=settings.bits
    )


def _listed(case: Case, path: Path) -> pl.DataFrame:
    """The faults of a list, held against the build."""
    build, tensors = deployed(case.subject.build.model), set(open_list(path)["tensor"].drop_nulls())
    numbers = build.numbers(tensors)
    is_between = any(names.activation_of(name) is not None for name in tensors)
    return read_faults(path, numbers, build.activations.left_out if is_between else {})


def _verification(case: Case, settings: FaultsSettings, campaign: Campaign) -> dict[str, Job]:
    sample, rebuilt = _sample(case, campaign), settings.model_copy(update={"segmented": False})
    return {"verify": shard_job(case, rebuilt, sample, campaign.inputs)} if sample.height else {}


def _sampler(space: FaultSpace, settings: FaultsSettings, case: Case, available: int) -> Sampler:
    strata = list(space.strata())
    if settings.sampler == "exhaustive":
        return Exhaustive(strata, settings.confidence)
    target = settings.ci_half_width
    goal = settings.sampler or ("stratified" if target is not None else "uniform")
    n = None if target is not None else min(settings.trials or DEFAULT_TRIALS, space.size)
    inputs = Inputs(available, per_trial=settings.inputs_per_fault) if settings.blocks else None
    steps = max(1, (n // _FIRST).bit_length()) if case.budgeted and goal == "uniform" and n is not None else 1
    kind = Uniform if goal == "uniform" else Stratified
    return kind(strata, n=n, half_width=target, inputs=inputs, level=settings.confidence, seed=case.seed, steps=steps)


def _sample(case: Case, campaign: Campaign) -> pl.DataFrame:
    """The trials that are run again by a full rebuild: 1 %, but at least 5 and at most 50; none that was run by one."""
    inside = [name for name in campaign.trials["tensor"].unique() if names.is_inside(name)]
    rebuilt = pl.col("trial").is_in(campaign.alone) | pl.col("tensor").is_in([*inside, names.ARTEFACT])
    trials = campaign.trials.filter(~rebuilt)
    count = min(trials.height, max(5, min(50, trials.height // 100)))
    rng = np.random.Generator(np.random.Philox(key=[case.seed, 0x5A3]))
    return trials[np.sort(rng.choice(trials.height, count, replace=False))] if count else trials


def _limits(case: Case, settings: FaultsSettings, results: Mapping[str, JobResult]) -> Iterator[Row]:
    """What is not among the figures, and how the processes of trials in the file ended."""
    if settings.faults is None and settings.places == "stored":
        yield from coverage_rows("faults", case)
    if settings.faults is None and settings.places == "activations":
        left_out = Counter(deployed(case.subject.build.model).activations.left_out.values())
        if left_out:
            said = "; ".join(f"{count}: {reason}" for reason, count in left_out.most_common())
            yield Row("faults", "left_out_tensors", value=float(left_out.total()), unit="tensors", detail=said)
    untold = sum(result.data.get("checks", {}).get("untold", 0) for result in results.values())
    if untold:
        said = "they count no input: the model cut in two at their tensors does not give the golden output"
        yield Row("faults", "untold_trials", value=float(untold), unit="trials", detail=said)
    ended: Counter[str] = Counter()
    for result in results.values():
        ended.update(result.data.get("ended", {}))
    repeated = sum(result.data.get("repeated", 0) for result in results.values())
    again = f"; {repeated} processes died, but a repetition of their trial did not" if repeated else ""
    for end, count in sorted(ended.items()):
        yield Row(
            "faults",
            "processes",
            condition(end=end),
            float(count),
            "trials",
            n=ended.total(),
            detail=_ENDS[end] + again,
        )


def _table(trials: pl.DataFrame, counts: np.ndarray[Any, Any], errors: np.ndarray[Any, Any]) -> pl.DataFrame:
    """One line a trial, in the columns of ``trials/<profile>/part-*.parquet``."""
    at = {name: counts[:, place] for place, name in enumerate(COLUMNS)}
    outcome = np.where(at["n_due"] > 0, "due", np.where(at["n_changed"] > 0, "sdc", "masked"))
    return trials.drop(list(BLOCK)).with_columns(
        n_inputs=at["n_inputs"], n_changed=at["n_changed"], n_due=at["n_due"], outcome=outcome, max_abs_error=errors
    )
