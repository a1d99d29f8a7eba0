"""``hwbench faults``: a fault campaign on one profile's deployed build."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwbench.cli.options import (
    BatchAxis,
    Budget,
    Json,
    Overwrite,
    Plan,
    Quiet,
    Resume,
    Scheduler,
    Tls,
    TrustProfile,
    batch_axes,
    listed,
)
from hwbench.cli.plan import show_plan
from hwbench.cli.run import carry_out, show

if TYPE_CHECKING:
    from hwbench.api import Run


def command(
    model: Annotated[str, typer.Argument(help="The ONNX file.")],
    data: Annotated[str, typer.Option(help="Evaluation data: .npz, image folder, .csv, .parquet or module:callable.")],
    profile: Annotated[str, typer.Option(help="A profile's name or path.")],
    trials: Annotated[int | None, typer.Option(help="Faults to try; default 1,000.")] = None,
    ci_half_width: Annotated[
        float | None,
        typer.Option(help="Instead of --trials: half-width of the SDC rate's interval at which to stop, e.g. 0.0025."),
    ] = None,
    sampler: Annotated[
        str | None,
        typer.Option(
            help="uniform, stratified (by tensor and bit) or exhaustive; default: stratified for a half-width, else uniform."
        ),
    ] = None,
    inputs_per_fault: Annotated[
        int | None, typer.Option(help="Inputs of each trial; default: chosen by a pilot for a half-width, else all.")
    ] = None,
    confidence: Annotated[float, typer.Option(help="Level of the intervals.")] = 0.95,
    faults: Annotated[str | None, typer.Option(help="A CSV list to replay: tensor, element, bit, kind.")] = None,
    save_faults: Annotated[
        Path | None, typer.Option(help="CSV file for the faults that were tried, to replay with --faults.")
    ] = None,
    places: Annotated[
        str,
        typer.Option(help="Where faults are drawn: stored (numbers of the build), activations, inputs or artefact."),
    ] = "stored",
    kind: Annotated[str, typer.Option(help="flip, stuck_at_0, stuck_at_1, burst or random_value.")] = "flip",
    width: Annotated[int, typer.Option(help="Bits of a burst.")] = 1,
    tensors: Annotated[str, typer.Option(help="Pattern of tensors' names.")] = "*",
    ops: Annotated[
        str | None, typer.Option(help="Operators that read the number, or make the activation; separated by commas.")
    ] = None,
    roles: Annotated[
        str | None, typer.Option(help="weight, bias, scale, zero_point or constant; separated by commas.")
    ] = None,
    depth: Annotated[
        str | None, typer.Option(help="First and last number of layers before the operator, e.g. 0-3.")
    ] = None,
    bits: Annotated[str | None, typer.Option(help="First and last bit of each element, e.g. 24-31.")] = None,
    only_correct: Annotated[bool, typer.Option(help="Count only inputs that are right when fault-free.")] = False,
    tolerance: Annotated[
        float | None, typer.Option(help="Absolute error above which a non-classifier output counts as SDC.")
    ] = None,
    segmented: Annotated[bool, typer.Option(help="Run only what follows a fault, or a full rebuild per trial.")] = True,
    calibration: Annotated[str | None, typer.Option(help="Calibration data; default: the evaluation inputs.")] = None,
    reference: Annotated[str | None, typer.Option(help="The fp32 model, where MODEL is already quantized.")] = None,
    batch_axis: BatchAxis = None,
    seed: Annotated[int, typer.Option(help="Seed of every random draw.")] = 0,
    jobs: Annotated[int | None, typer.Option(help="Worker processes at once.")] = None,
    scheduler: Scheduler = None,
    tls: Tls = None,
    budget: Budget = None,
    trust_profile: TrustProfile = False,
    plan: Plan = False,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The run directory; default results/MODEL-faults.")
    ] = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Flip bits of the deployed build, one fault per trial, and measure which of them change an answer.

    Writes a run directory with one row per trial in trials/PROFILE/. Before the trials, the golden output of the cut graph is
    compared with the whole build's. Afterwards, a sample of the trials is repeated by a full rebuild, and the golden output
    is computed again.
    """
    from hwbench.spec import make_spec

    settings: dict[str, Any] = {
        "trials": trials,
        "ci_half_width": ci_half_width,
        "sampler": sampler,
        "inputs_per_fault": inputs_per_fault,
        "confidence": confidence,
        "faults": faults,
        "places": places,
        "kind": kind,
        "width": width,
        "tensors": tensors,
        "ops": listed(ops),
        "roles": listed(roles),
        "depth": number_range(depth, "--depth", "0-3"),
        "bits": number_range(bits, "--bits", "24-31"),
        "only_correct": only_correct,
        "tolerance": tolerance,
        "segmented": segmented,
    }
    given = {
        "calibration": None if calibration is None else {"source": calibration},
        "reference": reference,
        "batch_axis": batch_axes(batch_axis),
        "jobs": jobs,
        "scheduler": scheduler,
        "tls": tls,
        "budget": budget,
        "trust_profile": trust_profile or None,
    }
    spec = make_spec(
        "faults",
        model=model,
        data={"source": data},
        profiles=[profile],
        studies=["accuracy", "coverage", "faults"],
        seed=seed,
        settings={"faults": {key: value for key, value in settings.items() if value is not None}},
        **{key: value for key, value in given.items() if value is not None},
    )
    if plan:
        show_plan(spec, as_json=as_json)
        return
    if save_faults is not None:
        check_writable(save_faults, overwrite=overwrite or resume)
    place = out if out is not None else Path("results") / f"{Path(model).stem}-faults"
    finished = carry_out(spec, place, overwrite=overwrite, resume=resume, quiet=quiet)
    if save_faults is not None:
        save(finished, save_faults)
    show(finished, as_json=as_json)
    raise typer.Exit(finished.exit_code())


def number_range(text: str | None, option: str, example: str) -> tuple[int, int] | None:
    """A range of numbers, ``first-last`` or one number.

    Raises:
        InputError: Another form.
    """
    if text is None:
        return None
    first, dash, last = text.partition("-")
    if not first.isdecimal() or (dash and not last.isdecimal()):
        from hwbench.errors import InputError

        raise InputError(f"{option} {text!r} is not of the form FIRST-LAST, e.g. {example}")
    return int(first), int(last) if dash else int(first)


def check_writable(file: Path, *, overwrite: bool) -> None:
    """Raise `InputError` where a list of faults cannot be written, before anything is run for it."""
    from hwbench.errors import InputError

    if file.exists() and (not overwrite or not file.is_file()):
        raise InputError(f"{file}: is there already; name another file, or use --overwrite")
    if not os.access(file if file.exists() else file.parent, os.W_OK):
        raise InputError(f"{file}: cannot be written: its folder is missing, or not yours to write in")


def save(finished: Run, file: Path) -> None:
    """Write the faults of a finished campaign as a list that ``--faults`` replays."""
    from hwbench.faults.listing import write_faults
    from hwbench.studies.deployed import deployed

    ((profile, entry),) = finished.record["profiles"].items()
    trials = finished.trials(profile)
    if trials is None:
        return  # the profile is unavailable here, which the table says
    tried = trials.sort("trial")
    numbers = deployed(finished.path / "builds" / entry["build"] / "model.onnx").numbers(set(tried["tensor"]))
    write_faults(file, tried, numbers)
