"""The reference, tried before anything is written: that it runs, and that the labels fit what it gives."""

from __future__ import annotations

import time
from dataclasses import replace

import numpy as np

from hwbench.budget import Budget
from hwbench.build import make_build
from hwbench.errors import DataError, JobError, ModelError
from hwbench.npy import NpyFile
from hwbench.preparation import REFERENCE_PROFILE, Prepared
from hwbench.studies import Subject, studies
from hwbench.targets import open_target
from hwbench.worker.protocol import JobResult

# Inputs that tell whether labels fit what the model gives.
_FEW = 16


def try_reference(prepared: Prepared, budget: Budget) -> dict[str, JobResult]:
    """Build and run the reference, before anything is written: a model that does not run must leave earlier results alone.

    Args:
        prepared: The run.
        budget: The time there is.

    Returns:
        Job keys to results; not ok where the budget was spent.

    Raises:
        UnavailableError: ONNX Runtime is not installed.
        ModelError: The reference does not run on its CPU provider.
    """
    target, path = open_target("local"), prepared.reference.path
    recipe = prepared.recipe(REFERENCE_PROFILE, prepared.reference)
    try:
        build = make_build(recipe, prepared.work / "reference" / recipe.key, target.run, say=prepared.repairs.append)
    except JobError as error:
        raise ModelError(f"{path}: the reference cannot be prepared: {error}") from error
    subject = Subject(build, REFERENCE_PROFILE.backend, REFERENCE_PROFILE.full_options)
    case = prepared.case(REFERENCE_PROFILE, subject, subject)
    study = studies.get("accuracy")()
    jobs = {job.key: job for job in study.plan(case, study.settings_type()).values()}
    began = time.monotonic()
    results = {key: target.run(budget.within(job), prepared.work / key) for key, job in jobs.items()}
    budget.charge("reference", time.monotonic() - began)
    for result in results.values():
        if not result.ok and not result.unfinished:
            why = result.detail.replace(str(build.model.resolve()), str(path))  # the user knows their own file
            raise ModelError(f"{path}: the reference does not run on ONNX Runtime's CPU provider: {why}")
    return results


def settle_labels(prepared: Prepared, golden: JobResult) -> Prepared:
    """Hold the labels against what the reference gave; what an embedding without labels should be is that itself.

    Raises:
        DataError: A metric cannot be computed from these outputs and labels.
    """
    name = golden.data["variants"]["golden"]["arrays"][0]
    outputs = golden.array(name)
    if not outputs.ndim or len(outputs) != prepared.data.n:
        raise ModelError(
            f"{prepared.reference.path}: output {prepared.output!r} has shape {list(outputs.shape)}, not one row for each of "
            f"the {prepared.data.n} inputs; name another output"
        )
    if prepared.task == "embedding" and prepared.data.labels is None:
        labels = NpyFile(golden.folder / f"{name}.npy", name, outputs.shape, outputs.dtype.name)
        prepared = replace(prepared, data=replace(prepared.data, labels=labels))
    if prepared.data.labels is not None:
        for metric in prepared.metrics:
            try:
                values = metric.per_sample(outputs[:_FEW], prepared.data.labels.rows(0, _FEW))
            except DataError as error:
                raise DataError(f"{prepared.data.source}: {metric.name}: {error}") from error
            if metric.by_user and np.isnan(values).any():
                raise DataError(
                    f"the metric {prepared.spec.metric!r} is NaN for input {int(np.isnan(values).argmax())} of the reference; "
                    "it must return a number for each input (infinity for the worst)"
                )
    return prepared
