"""What comes before a run: everything a specification names is opened and checked, and nothing is written yet."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from hwbench import __version__
from hwbench.build import Recipe, make_build, work_folder
from hwbench.callables import is_reference
from hwbench.dataset import Dataset, materialise, open_source
from hwbench.dataset.materialise import STORABLE
from hwbench.errors import (
    DataError,
    JobError,
    ModelError,
    ProfileError,
    SpecError,
    UnavailableError,
    UnknownNameError,
)
from hwbench.files import require_text
from hwbench.metrics import Metric, classifies, resolve_task
from hwbench.model import Model
from hwbench.profile import Precision, Profile, load_profile
from hwbench.spec import RunSpec
from hwbench.studies import Case, Study, Subject, studies
from hwbench.targets import Targets, check_machine, open_target
from hwbench.targets.floor import check_floor

REFERENCE = "reference"
REFERENCE_PROFILE = Profile(
    name=REFERENCE,
    summary="the model as given, on ONNX Runtime's CPU provider",
    backend="onnxruntime",
    precision=Precision(format="as-is"),
)


@dataclass(frozen=True)
class Prepared:
    """A specification whose every part was opened and checked: nothing of it can be refused any more.

    Its ``repairs`` name the damaged builds and job results that were made again, as they are met.
    """

    spec: RunSpec
    model: Model
    reference: Model
    profiles: Sequence[Profile]
    studies: Mapping[str, tuple[Study, Any]]
    data: Dataset
    calibration: Dataset
    calibration_note: str
    metrics: Sequence[Metric]
    task: str
    output: str
    work: Path
    repairs: list[str] = field(default_factory=list)

    def case(self, profile: Profile, subject: Subject, reference: Subject) -> Case:
        """What a study measures of one profile."""
        return Case(
            profile=profile,
            subject=subject,
            reference=reference,
            model=self.model,
            data=self.data,
            metrics=self.metrics,
            output=self.output,
            classifies=self.classifies,
            batch=self.model.batch or self.reference.batch or self.spec.batch,
            seed=self.spec.seed,
            timeout_s=self.spec.timeout_s,
            work=self.work,
            budgeted=self.spec.budget is not None,
        )

    @property
    def classifies(self) -> bool:
        """Whether the task is classification."""
        return all(metric.k for metric in self.metrics)

    @property
    def has_boards(self) -> bool:
        """Whether a profile runs on a board."""
        return any(profile.target.kind == "remote" for profile in self.profiles)

    def targets(self) -> Targets:
        """The machines of this run: a context manager."""
        sandboxed = not self.spec.trust_profile
        return Targets(self.spec.scheduler, boards=self.has_boards, sandboxed=sandboxed, tls=self.spec.tls)

    def recipe(self, profile: Profile, model: Model) -> Recipe:
        """What to make for one profile."""
        needs = profile.precision.needs_calibration
        return Recipe(
            model=model,
            precision=profile.precision,
            shapes={name: file.shape[1:] for name, file in self.data.inputs.items()},
            calibration=self.calibration if needs else None,
            calibration_note=self.calibration_note if needs else "",
        )

    @property
    def fingerprint(self) -> dict[str, Any]:
        """What must be equal for a run to be resumed, by the name the user knows it under."""
        return {
            "model": self.model.sha256,
            "reference": self.reference.sha256,
            "data": self.data.key,
            "calibration": self.calibration.key,
            "batch_axis": dict(self.model.batch_axes),
            "seed": self.spec.seed,
            "baseline": self.spec.baseline,
            "profiles": [profile.model_dump(mode="json") for profile in self.profiles],
            "studies": {name: settings.model_dump(mode="json") for name, (_, settings) in self.studies.items()},
            "metric": [metric.name for metric in self.metrics],
            "hwbench": __version__,
        }


@contextmanager
def prepare(spec: RunSpec) -> Iterator[Prepared]:
    """Open and check everything a specification names; the data lie in a temporary folder while the context is open.

    Raises:
        InputError: Something the specification names cannot be used.
    """
    for given in (spec.data, spec.calibration):
        if given is not None:
            require_text(Path(given.source), DataError)
    for name in spec.profiles:
        require_text(Path(name), ProfileError)
    model = Model.open(Path(spec.model), spec.batch_axis)
    reference = Model.open(Path(spec.reference), spec.batch_axis) if spec.reference else model
    profiles = [load_profile(name, trusted=spec.trust_profile) for name in dict.fromkeys(spec.profiles)]
    _check_names(profiles)
    _check_baseline(spec, profiles)
    _check_scheduler(spec, profiles)
    for profile in profiles:
        check_machine(profile.target.machine)
    chosen = _studies(spec)
    with work_folder() as folder:
        data = materialise(
            open_source(spec.data), model.sample_inputs, folder, task=spec.task, constant=model.constant_inputs
        )
        output = next((one for one in model.outputs if one.name == (spec.output or model.outputs[0].name)), None)
        if output is None:
            raise UnknownNameError("output", str(spec.output), [one.name for one in model.outputs])
        if output.dtype not in STORABLE:
            raise ModelError(
                f"{model.path}: output {output.name!r} is {output.dtype}, which cannot be evaluated; put a Cast to float32 "
                "after it, or name another output"
            )
        _check_pair(model, reference, output.name)
        own = spec.metric is not None and is_reference(spec.metric)
        if spec.task in (None, "classification") and not own and classifies(output):
            data = data.with_class_numbers(output.shape[1])
        data, calibration, note = _calibration(spec, model, data, folder)
        try:
            metrics = resolve_task(spec.task, spec.metric, output, np.dtype(data.labels.dtype) if data.labels else None)
        except DataError as error:
            raise DataError(f"{model.path}: {error}") from error
        if metrics[0].k and data.labels is not None and output.shape[1]:
            data.check_labels(output.shape[1])
        inferred = "regression" if data.labels is not None else "unlabeled"
        task = spec.task or ("classification" if metrics[0].k else "custom" if own else inferred)
        yield Prepared(
            spec, model, reference, profiles, chosen, data, calibration, note, metrics, task, output.name, folder
        )


def check_builds(prepared: Prepared) -> None:
    """Try the profiles' memory caps; make every build that can be made, in the cache, and hold studies' settings against it.

    So what only a worker or a build can tell is told while earlier results are still there.

    Raises:
        InputError: A study is asked for something that a build has not, or a cap is too small for any build.
    """
    target = open_target("local")
    for profile in prepared.profiles:
        check_floor(profile, target.run, prepared.work / "floor")
    checking = [(study, settings) for study, settings in prepared.studies.values() if study.checks_builds]
    if not checking:
        return
    for profile in prepared.profiles:
        recipe = prepared.recipe(profile, prepared.model)
        try:
            build = make_build(recipe, prepared.work / "builds" / recipe.key, target.run, say=prepared.repairs.append)
        except (UnavailableError, JobError):
            continue  # told when the profile's turn comes
        subject = Subject(build, profile.backend, profile.full_options)
        for study, settings in checking:
            study.check_build(prepared.case(profile, subject, subject), settings)


def _studies(spec: RunSpec) -> dict[str, tuple[Study, Any]]:
    names = (
        spec.studies if spec.studies is not None else [name for name in studies.names() if studies.get(name).default]
    )
    if not names:
        raise SpecError("no study is chosen; name at least one")
    known = {name: _configured(name, spec) for name in (*names, *spec.settings)}
    return {name: known[name] for name in sorted(dict.fromkeys(names), key=_order)}


def _configured(name: str, spec: RunSpec) -> tuple[Study, Any]:
    """A study with its settings, which are checked even where it is not carried out."""
    study = studies.get(name)()
    try:
        return study, study.settings_type.model_validate(spec.settings.get(name, {}))
    except ValidationError as error:
        problem = error.errors()[0]
        path = ".".join(str(part) for part in ("settings", name, *problem["loc"]))
        if problem["type"] == "extra_forbidden":
            known = [f"settings.{name}.{key}" for key in study.settings_type.model_fields]
            raise UnknownNameError("key", path, known) from None
        raise SpecError(f"{path}: {problem['msg']}, not {problem['input']!r}") from None


def _order(name: str) -> tuple[bool, str]:
    """Coverage first: it is quick, and says whether the rest is about the build that was asked for."""
    return name != "coverage", name


def _calibration(spec: RunSpec, model: Model, data: Dataset, folder: Path) -> tuple[Dataset, Dataset, str]:
    if spec.calibration is not None:
        given = materialise(
            open_source(spec.calibration), model.sample_inputs, folder, task=spec.task, constant=model.constant_inputs
        )
        return data, replace(given, labels=None), "given"
    if spec.split_calibration is not None:
        held_out, kept = data.split(spec.split_calibration, spec.seed)
        return kept, replace(held_out, labels=None), f"{held_out.n} samples held out of the evaluation data"
    return data, replace(data, labels=None), "the evaluation inputs themselves, without their labels"


def _check_names(profiles: Sequence[Profile]) -> None:
    names = [profile.name for profile in profiles]
    for name in names:
        if names.count(name) > 1 or name == REFERENCE:
            raise SpecError(
                f"two profiles of this run are called {name!r}; rename the file of one"
                if name != REFERENCE
                else f"a profile cannot be called {REFERENCE!r}"
            )


def _check_baseline(spec: RunSpec, profiles: Sequence[Profile]) -> None:
    names = [profile.name for profile in profiles]
    if spec.baseline is not None and spec.baseline not in names:
        raise UnknownNameError("baseline among the profiles", spec.baseline, names)


def _check_scheduler(spec: RunSpec, profiles: Sequence[Profile]) -> None:
    for profile in profiles:
        if profile.target.kind == "remote" and spec.scheduler is None:
            raise SpecError(
                f"profile {profile.name} runs on the board {profile.target.resource!r}, which is found by a Dask scheduler; "
                "give its address: --scheduler tcp://HOST:8786, or scheduler in the specification"
            )


def _check_pair(model: Model, reference: Model, output: str) -> None:
    """Raise `ModelError` unless model and reference take the same inputs and both give ``output``."""
    if {(one.name, one.dtype) for one in model.inputs} != {(one.name, one.dtype) for one in reference.inputs}:
        raise ModelError(f"{model.path} and its reference {reference.path} take different inputs")
    if output not in {one.name for one in reference.outputs}:
        raise ModelError(f"the reference {reference.path} has no output {output!r}, which {model.path} has")
    if model.batch and reference.batch and model.batch != reference.batch:
        raise ModelError(
            f"{model.path} takes batches of {model.batch} and its reference {reference.path} of {reference.batch}; "
            "export both with one batch size, or a dynamic one"
        )
