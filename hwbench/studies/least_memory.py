"""Least memory: the smallest cap under which the build still runs, and what it is worth there."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from hwbench import stats
from hwbench.studies.base import LEVEL, Analysis, Case, Study
from hwbench.studies.cap_trials import (
    FREE,
    UNCAPPED,
    CapTrials,
    LeastMemorySettings,
    Search,
    label_of,
    may_fail,
    survey,
)
from hwbench.studies.outputs import estimate, per_sample, row
from hwbench.table import Row, condition
from hwbench.targets.limits import RLIMIT
from hwbench.worker.protocol import LOCAL, Job, JobResult

_NS_PER_MS = 1e6


class LeastMemoryStudy(Study):
    """A bisection over enforced caps: every trial is a fresh worker, started with none of its files in memory.

    The first jobs say which files a worker uses, of which an own copy is made (see `hwbench.targets.own_copy`), and what it
    takes without a cap. Then come trials that are capped from their start, which give the cap that loading needs and the one
    that the whole needs; and trials that are capped once they have loaded, for what running alone needs.
    """

    name = "least_memory"
    headline = "least_mib"
    settings_type = LeastMemorySettings
    default = False
    timing = True

    def plan(self, case: Case, settings: LeastMemorySettings) -> dict[str, Job]:
        """The job that lists the files in use."""
        return {"survey": survey(case, settings)} if case.subject.machine == LOCAL else {}

    def extend(self, case: Case, settings: LeastMemorySettings, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Free trials; the next trial of the three searches; then accuracy and latency at multiples of the answer."""
        if any(not result.ok for label, result in results.items() if not may_fail(label)) or not results:
            return {}
        trials = CapTrials(case, settings, results)
        if trials.lacking_control:
            return trials.lacking_control
        for search in () if FREE[0] not in results else trials.possible:
            cap = search.next
            if cap is not None:
                return trials.capped(search.kind, cap, search.made(cap))
            if search.bracket[1] is None and search is trials.searches[0]:
                return {}
        wanted = {name: trials.free(name) for name in FREE} if FREE[0] not in results else trials.measurements
        return {label: job for label, job in wanted.items() if label not in results}

    def measure(self, case: Case, settings: LeastMemorySettings, results: Mapping[str, JobResult]) -> Analysis:
        """As `Study.measure`: what fails without a cap is an error, whatever it does under one."""
        if not results:
            kind = case.subject.machine.get("kind")
            why = f"caps are searched on the local machine, not on a target of kind {kind!r}"
            return Analysis([self.missing("unavailable", why)])
        for label, result in results.items():
            if not result.ok and not may_fail(label):
                return Analysis([self.missing(result.status, f"without a cap ({label}): {result.detail}")])
        return self.analyse(case, settings, results)

    def analyse(self, case: Case, settings: LeastMemorySettings, results: Mapping[str, JobResult]) -> Analysis:
        """The answer, what loading and running need of it, and accuracy and latency at its multiples."""
        trials = CapTrials(case, settings, results)
        if not trials.mechanism:
            return Analysis([self.missing("unavailable", "nothing on this machine enforces a memory cap")])
        whole, load, run = trials.searches
        rows = [whole.row(self.name, "{}", trials.stated)]
        if rows[0].status == "ok":
            rows.append(
                load.row(self.name, condition(phase="load"), "the interpreter's start, libraries, and the session")
            )
            if run in trials.possible:
                rows.append(run.row(self.name, condition(phase="run"), "capped once loaded, at batch 1"))
            else:
                why = "an rlimit takes nothing back from a process that has loaded"
                rows.append(Row(self.name, "least_mib", condition(phase="run"), status="unavailable", detail=why))
            rows.extend(self._kinds(trials, whole))
            rows.extend(row for cap in trials.caps for row in self._at(case, trials, cap))
        return Analysis(rows)

    def _kinds(self, trials: CapTrials, whole: Search) -> Iterator[Row]:
        anonymous, least = trials.free_figure("anonymous_mib", max), float(whole.bracket[1] or 0)
        said = "peak without a cap; it cannot be given back"
        yield Row(self.name, "least_mib", condition(kind="anonymous"), anonymous, "MiB", n=len(FREE), detail=said)
        if trials.mechanism != RLIMIT:
            said = "the rest: pages of libraries and model, which can be read again, and the kernel's own"
            yield Row(
                self.name, "least_mib", condition(kind="file"), least - anonymous, "MiB", n=len(FREE), detail=said
            )
        if trials.charged is not None:
            said = "without a cap, all that is read staying in memory"
            yield Row(self.name, "peak_mib", "{}", trials.charged, "MiB", n=len(FREE), detail=said)

    def _at(self, case: Case, trials: CapTrials, cap: int | None) -> Iterator[Row]:
        result = trials.results[label_of(cap)]
        setting = "{}" if cap is None else condition(cap_mib=cap)
        if not result.ok:
            for metric in (case.primary.name, "p50_ms", "p99_ms"):
                yield Row(self.name, metric, setting, status=result.status, detail=result.detail)
            return
        if case.data.labels is not None:
            values = per_sample(case, case.primary, result, "golden")
            yield row(self.name, case.primary.name, estimate(case, case.primary, values), case.primary.unit, setting)
        durations, free = (one.array("durations") / _NS_PER_MS for one in (result, trials.results[UNCAPPED]))
        for metric, q in (("p50_ms", 0.5), ("p99_ms", 0.99)):
            figure = stats.series_quantile(durations, q, LEVEL)
            slower = figure.value / stats.series_quantile(free, q, LEVEL).value
            said = "without a cap" if cap is None else f"{slower:.2f} times the uncapped one"
            yield row(self.name, metric, figure, "ms", setting, said)
