"""Memory: what the process tree takes, the build's size on disk, and whether it runs under the profile's cap."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from pydantic import Field

from hwbench import stats
from hwbench.bounds import LAUNCHES, REPEATS
from hwbench.stats import Estimate
from hwbench.studies.base import LEVEL, Analysis, Case, Settings, Study
from hwbench.studies.coverage import coverage_job
from hwbench.studies.launches import on_target
from hwbench.studies.outputs import row
from hwbench.table import Row, condition
from hwbench.worker.protocol import Job, JobResult


class MemorySettings(Settings):
    """Study settings."""

    runs: int = Field(20, gt=0, le=REPEATS, description="runs at batch 1 after loading")
    launches: int = Field(3, ge=1, le=LAUNCHES, description="fresh processes")


_FREE = "free-"


class MemoryStudy(Study):
    """Peak memory free of limits, and a run under the target's limits.

    Resident memory is not the least a build can run in: file-backed pages can be dropped and read again, which is why they are
    given apart, and why the run under the cap is made rather than computed.
    """

    name = "memory"
    headline = "peak_mib"
    settings_type = MemorySettings
    timing = True

    def plan(self, case: Case, settings: MemorySettings) -> dict[str, Job]:
        """Launches without limits, and one under the target's, each alone on the machine."""
        jobs = {f"{_FREE}{launch}": _job(case, settings, launch) for launch in range(settings.launches)}
        jobs["compiled"] = coverage_job(case)
        if case.profile.target.memory_mib is not None:
            jobs["capped"] = on_target(_job(case, settings, 0), case)
        return jobs

    def enough(self, case: Case, settings: MemorySettings, results: Mapping[str, JobResult]) -> bool:
        """Two launches without limits, and what else there is one of."""
        others = {label for label in self.plan(case, settings) if not label.startswith(_FREE)}
        return others <= results.keys() and sum(label.startswith(_FREE) for label in results) > 1

    def tolerated(self) -> frozenset[str]:
        """Running out of memory under the cap is the answer; a compiled form is not a must."""
        return frozenset({"capped", "compiled"})

    def analyse(self, case: Case, settings: MemorySettings, results: Mapping[str, JobResult]) -> Analysis:
        """Peaks in MiB, the model's bytes, and the run under the cap."""
        free = [result.data for label, result in results.items() if label.startswith(_FREE)]
        runtime = max(data["runtime"] for data in free)
        notes = {"{}": f"of which {runtime:.0f} MiB before the model was loaded (Python and the runtime)"}
        settings_of = {"peak": "{}", "peak_anonymous": condition(kind="anonymous"), "peak_file": condition(kind="file")}
        rows = [
            *(
                row(self.name, "peak_mib", _over(free, key), "MiB", setting, notes.get(setting, ""))
                for key, setting in settings_of.items()
            ),
            Row(self.name, "model_bytes", value=float(case.subject.build.bytes), unit="B"),
        ]
        compiled = results["compiled"].data.get("compiled")
        if compiled:
            rows.append(Row(self.name, "model_bytes", condition(form="compiled"), float(compiled["bytes"]), "B"))
        if "capped" in results:
            free_ns = float(np.median([data["run_ns"] for data in free]))
            rows.extend(self._capped(case, results["capped"], free_ns))
        return Analysis(rows)

    def _capped(self, case: Case, result: JobResult, free_ns: float) -> Iterator[Row]:
        setting = condition(cap_mib=case.profile.target.memory_mib)
        mechanism = str(result.usage.get("mechanism", "no mechanism"))
        if not result.ok:
            yield Row(
                self.name,
                "peak_mib",
                setting,
                unit="MiB",
                status=result.status,
                detail=f"{result.detail} ({mechanism})",
            )
            return
        peak = result.usage.get("cap_peak_mib", result.data["peak"])
        slower = result.data["run_ns"] / free_ns
        yield Row(
            self.name,
            "peak_mib",
            setting,
            peak,
            "MiB",
            n=1,
            detail=f"enforced by {mechanism}; a run took {slower:.2f} times the uncapped one's time",
        )


def _job(case: Case, settings: MemorySettings, launch: int) -> Job:
    batch = case.model.batch or 1
    return case.subject.job("memory", case, exclusive=True, batch=batch, runs=settings.runs, launch=launch)


def _over(launches: Sequence[Mapping[str, Any]], key: str) -> Estimate:
    return stats.over_launches([data[key] for data in launches], level=LEVEL)
