"""What every study is made of: the case it measures, the jobs it plans, the analysis it returns."""

from __future__ import annotations

import hashlib
import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ClassVar, get_args

import numpy as np
import polars as pl
from pydantic import BaseModel, ConfigDict

from hwbench.backend import Backend, backends
from hwbench.build import Build
from hwbench.dataset import Dataset
from hwbench.metrics import Metric
from hwbench.model import Model
from hwbench.profile import Profile
from hwbench.registry import Registry
from hwbench.table import Row
from hwbench.worker.perturb import FAULT_KINDS
from hwbench.worker.protocol import LOCAL, Job, JobResult, Limits

LEVEL = 0.95


class NamesFile:
    """Marks a setting that may name a file: ``Annotated[str, NamesFile()]``. Other values than text are left alone."""


class Settings(BaseModel):
    """Study settings: ``[settings.<study>]`` in a run specification."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    @classmethod
    def beside(cls, content: Mapping[str, Any], folder: Path) -> dict[str, Any]:
        """Settings as they are written in a file, the relative paths among them resolved in the file's folder."""
        return {key: cls._beside(key, value, folder) for key, value in content.items()}

    @classmethod
    def _beside(cls, key: str, value: Any, folder: Path) -> Any:
        field = cls.model_fields.get(key)
        if field is None:
            return value
        if any(isinstance(mark, NamesFile) for mark in field.metadata):
            return str(folder / value) if isinstance(value, str) else value
        choices = (field.annotation, *get_args(field.annotation))
        section = next((one for one in choices if isinstance(one, type) and issubclass(one, Settings)), None)
        return section.beside(value, folder) if section is not None and isinstance(value, dict) else value


@dataclass(frozen=True)
class Subject:
    """A build with the backend that runs it, on one machine.

    Attributes:
        build: The build.
        backend: The backend's name.
        options: Its options, defaults filled in.
        machine: Where its jobs run: see `hwbench.worker.protocol.Job`.
    """

    build: Build
    backend: str
    options: Mapping[str, Any]
    machine: Mapping[str, str] = field(default_factory=lambda: LOCAL)

    @property
    def backend_type(self) -> type[Backend]:
        """The backend's class; it imports no runtime."""
        return backends.get(self.backend)

    @property
    def compiled_key(self) -> str:
        """A name for the build compiled with these options on this machine."""
        content = json.dumps([self.build.key, self.backend, dict(self.options), dict(self.machine)], sort_keys=True)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    def job(self, task: str, case: Case, *, exclusive: bool = False, **params: Any) -> Job:
        """A job on this build, with the case's inputs.

        Args:
            task: Name of a module of `hwbench.worker.tasks`.
            case: Where the inputs and the limits come from.
            exclusive: Whether it measures time or memory: it then runs alone on the machine, with the options as they are.
            params: The task's further arguments.
        """
        return Job(
            task=f"hwbench.worker.tasks.{task}:run",
            params={
                "model": str(self.build.model.resolve()),
                "inputs": case.input_files,
                **({"batch_axes": dict(case.model.batch_axes)} if case.model.batch_axes else {}),
                **params,
            },
            backend=backends.reference(self.backend),
            options={**self.options, **({} if exclusive else self.backend_type.shared_options)},
            limits=Limits(timeout_s=case.timeout_s),
            exclusive=exclusive,
            identity={"model": str(self.build.manifest["sha256"]), "inputs": case.data.inputs_key},
            files=(*self.build.files, *case.input_files.values()),
            machine=self.machine,
        )


@dataclass(frozen=True)
class Case:
    """One profile's build on one target, with the data it is held against.

    Attributes:
        profile: The profile.
        subject: Its build and backend.
        reference: The reference's build and backend.
        model: The model the build was made from.
        data: Evaluation data.
        metrics: The accuracy metrics, the primary one first.
        output: The output that accuracy is measured on.
        classifies: Whether the task is classification, so that the best classes are enough to know.
        batch: Inputs per run where accuracy is measured.
        seed: The run's seed.
        timeout_s: Wall time after which a job is killed.
        work: A folder for what a study writes for its jobs.
        points: What every launch of this build times: see `hwbench.studies.launches`.
        baseline: The case of the profile that ratios of timings refer to; None for that profile itself.
        budgeted: Whether the run's budget may end the study before its jobs are done.
    """

    profile: Profile
    subject: Subject
    reference: Subject
    model: Model
    data: Dataset
    metrics: Sequence[Metric]
    output: str
    classifies: bool
    batch: int
    seed: int
    timeout_s: float
    work: Path
    points: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    baseline: Case | None = None
    budgeted: bool = False

    @property
    def input_files(self) -> dict[str, str]:
        """Input name to the ``.npy`` file that holds its values."""
        return {name: str(file.path.resolve()) for name, file in self.data.inputs.items()}

    @property
    def is_reference(self) -> bool:
        """Whether this is the reference itself."""
        return self.subject == self.reference

    @property
    def primary(self) -> Metric:
        """The metric limits are held against."""
        return self.metrics[0]

    def evaluation(
        self,
        variants: Mapping[str, Mapping[str, Any]],
        *,
        subject: Subject | None = None,
        top: bool = False,
        batch: int | None = None,
    ) -> Job:
        """A job that runs a build over all inputs, once per variant.

        Args:
            variants: Name to what is perturbed; see `hwbench.worker.perturb`.
            subject: Whose build; default the case's own.
            top: Whether to keep the best classes only.
            batch: Inputs per run; default the case's own.
        """
        job = (subject or self.subject).job(
            "evaluate",
            self,
            n=self.data.n,
            batch=batch or self.batch,
            outputs=[self.output],
            keep="top" if top else "full",
            variants={name: dict(variant) for name, variant in variants.items()},
        )
        control = any(variant["kind"] in FAULT_KINDS for variant in variants.values())
        return replace(job, variants=tuple(variants), control=control)


@dataclass(frozen=True)
class Analysis:
    """What a study found.

    Attributes:
        rows: Rows of the measurement table.
        parts: Folder of the run directory (``"draws"``, ``"trials"``, ...) to a table that is stored there, by profile.
        lists: Name to a fault list that is stored as ``faults/<profile>/<name>.csv``.
        timings: Name to the raw durations, in seconds, behind timing rows.
        files: Files that belong to the build and its options: the compiled form.
    """

    rows: Sequence[Row]
    parts: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    lists: Mapping[str, pl.DataFrame] = field(default_factory=dict)
    timings: Mapping[str, np.ndarray[Any, Any]] = field(default_factory=dict)
    files: Sequence[Path] = ()


@dataclass(frozen=True)
class Interim:
    """How far a study has come.

    Attributes:
        done: Units of work that are done.
        total: Those that are planned so far.
        unit: What they are, in the plural.
        said: The figures so far, in words; empty if there are none.
    """

    done: int
    total: int
    unit: str
    said: str


class Study(ABC):
    """One kind of measurement: two functions without side effects.

    Attributes:
        name: Its name, the same as its entry point's.
        headline: The metric whose row says so where the study could not be carried out.
        settings_type: What it can be told.
        default: Whether it is carried out when no studies are named.
        timing: Whether it measures time or memory, which an emulated machine cannot give.
        checks_builds: Whether `check_build` has something to check, so that builds are made before anything is written.
    """

    name: ClassVar[str]
    headline: ClassVar[str]
    settings_type: ClassVar[type[Settings]] = Settings
    default: ClassVar[bool] = True
    timing: ClassVar[bool] = False
    checks_builds: ClassVar[bool] = False

    def check(self, settings: Any, data: Dataset, *, classifies: bool) -> None:
        """Raise `InputError` where settings ask for what data or task cannot give. Called before anything is written."""

    def check_build(self, case: Case, settings: Any) -> None:
        """Raise `InputError` where settings ask for what a build has not. Called before anything is written."""

    def obstacle(self, case: Case, settings: Any) -> str:
        """Reason why the build has nothing to measure, which makes the study unavailable; empty if it has."""
        return ""

    def points(self, case: Case, settings: Any) -> dict[str, dict[str, Any]]:
        """The points that launches of the case's build are to time for this study: see `hwbench.worker.tasks.launch`."""
        return {}

    @abstractmethod
    def plan(self, case: Case, settings: Any) -> dict[str, Job]:
        """The jobs this study needs, by a label of its own."""

    @abstractmethod
    def analyse(self, case: Case, settings: Any, results: Mapping[str, JobResult]) -> Analysis:
        """Rows from the results of `plan`'s jobs, all of which ended ok but those `tolerated` names."""

    def extend(self, case: Case, settings: Any, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Further jobs, decided on by the results so far; none when there is enough to analyse."""
        return {}

    def enough(self, case: Case, settings: Any, results: Mapping[str, JobResult]) -> bool:
        """True if `analyse` gives figures from these results alone, when a budget leaves the study's other jobs undone.

        Variants that were left undone are in `hwbench.worker.protocol.JobResult.unfinished`.
        """
        return False

    def conclude(self, case: Case, settings: Any, results: Mapping[str, JobResult]) -> dict[str, Job]:
        """Jobs without which what is measured so far means nothing; asked for where the budget grants no further work."""
        return {}

    def progress(self, case: Case, settings: Any, results: Mapping[str, JobResult]) -> Interim | None:
        """How far the study is, by the results so far; None where its jobs are all there is to count."""
        return None

    def tolerated(self) -> frozenset[str]:
        """Labels of jobs whose bad end is itself a result."""
        return frozenset()

    def measure(self, case: Case, settings: Any, results: Mapping[str, JobResult]) -> Analysis:
        """`analyse`, or one row that says which job ended how."""
        for label, result in results.items():
            status, detail = result.failed.get("golden", (result.status, result.detail))
            if status != "ok" and label not in self.tolerated():
                return Analysis([self.missing(status, f"{label}: {detail}")])
        return self.analyse(case, settings, results)

    def missing(self, status: Any, detail: str) -> Row:
        """The one row of a study that could not be carried out."""
        return Row(self.name, self.headline, status=status, detail=detail)


studies: Registry[type[Study]] = Registry("hwbench.studies", "study")
GOLDEN: dict[str, dict[str, Any]] = {"golden": {"kind": "golden"}}
