"""Analyses of finished studies, kept for a resumed run; the results of their jobs are removed from the disk."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from hwbench.integrity import DamagedError, read_sealed, sealed
from hwbench.plans import Plan
from hwbench.scratch import remove
from hwbench.store import RunDirectory
from hwbench.studies import Analysis
from hwbench.table import Row
from hwbench.worker.protocol import DONE_FILE, JobResult, write_json

FOLDER = "analyses"


class Analyses:
    """The analyses of an unfinished run, in ``jobs/analyses/``.

    Args:
        directory: The run directory.
        results: The results so far, by the jobs' keys; `drop_jobs` removes them here and from the disk.
    """

    def __init__(self, directory: RunDirectory, results: dict[str, JobResult]) -> None:
        self._directory, self._results = directory, results
        self._folder = directory.jobs / FOLDER
        self._kept_jobs: set[str] = set()

    def load(self, plan: Plan) -> tuple[Analysis, dict[str, Any]] | None:
        """Return a study's analysis by an interrupted run, and its remarks; None if it is missing or damaged.

        The study's tables are in the run directory already; the analysis returned lists none.
        """
        try:
            record = read_sealed(self._folder / f"{_key(plan)}.json")
        except (FileNotFoundError, DamagedError):
            return None
        if not self._directory.adopt(record["files"]):
            return None
        timings = {name: np.array(values) for name, values in record["timings"].items()}
        return Analysis([Row(**row) for row in record["rows"]], timings=timings), record["remarks"]

    def store(self, plan: Plan, analysis: Analysis, files: Mapping[str, str], remarks: Mapping[str, Any]) -> None:
        """Store a study's analysis, unless a resumed run could extend it.

        Args:
            plan: The study, all of whose jobs are done.
            analysis: Its analysis.
            files: The tables that it has written, relative to the run directory, with their hashes.
            remarks: Further values to restore with it, as JSON.
        """
        done = plan.done(self._results)
        if plan.is_cut(self._results) or not all(result.is_final for result in done.values()):
            self._kept_jobs |= {job.key for job in plan.jobs.values()}
            return
        record = {
            "rows": [asdict(row) for row in analysis.rows],
            "timings": {name: np.asarray(values).tolist() for name, values in analysis.timings.items()},
            "files": dict(files),
            "remarks": dict(remarks),
        }
        self._folder.mkdir(parents=True, exist_ok=True)
        write_json(self._folder / f"{_key(plan)}.json", sealed(record))

    def drop_jobs(self, plan: Plan, others: Sequence[Plan]) -> None:
        """Remove the results of a study's jobs that none of the other studies names."""
        needed = {job.key for other in others for job in other.jobs.values()} | self._kept_jobs
        for key in {job.key for job in plan.jobs.values()} - needed:
            if key in self._results and self._results[key].folder.parent == self._directory.jobs:
                # Without this file, the folder counts as having no result.
                (self._results[key].folder / DONE_FILE).unlink(missing_ok=True)
                remove(self._results.pop(key).folder)


def _key(plan: Plan) -> str:
    """Name of a study's analysis: a hash over its settings and first jobs, which decide all others."""
    jobs = {label: job.key for label, job in plan.jobs.items() if not plan.rounds[label]}
    content = [plan.case.profile.name, plan.study.name, plan.settings.model_dump(mode="json"), jobs]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
