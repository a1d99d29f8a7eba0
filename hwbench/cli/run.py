"""``hwbench run``: build a model for every profile and measure each build."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from hwbench.cli.console import console, print_json
from hwbench.cli.options import (
    BatchAxis,
    Budget,
    Json,
    Out,
    Overwrite,
    Plan,
    Quiet,
    Require,
    Resume,
    Scheduler,
    Strict,
    Tls,
    TrustProfile,
    batch_axes,
    listed,
)
from hwbench.cli.plan import show_plan

if TYPE_CHECKING:
    from hwbench.api import Run
    from hwbench.spec import RunSpec


def command(
    source: Annotated[str, typer.Argument(metavar="MODEL.onnx|SPEC.toml", help="A model, or a run specification.")],
    data: Annotated[
        str | None, typer.Option(help="Evaluation data: .npz, image folder, .csv, .parquet or module:callable.")
    ] = None,
    classes: Annotated[
        str | None, typer.Option(help="Labels file of an image folder's classes: a name per line, or JSON.")
    ] = None,
    profiles: Annotated[str | None, typer.Option(help="Profiles, by name or path, separated by commas.")] = None,
    studies: Annotated[str | None, typer.Option(help="Studies, separated by commas; default: the default set.")] = None,
    reference: Annotated[str | None, typer.Option(help="The fp32 model, where MODEL is already quantized.")] = None,
    calibration: Annotated[str | None, typer.Option(help="Calibration data; default: the evaluation inputs.")] = None,
    split_calibration: Annotated[float | None, typer.Option(help="Share of the data held out for calibration.")] = None,
    task: Annotated[
        str | None,
        typer.Option(help="classification, regression or embedding; default: inferred from output and labels."),
    ] = None,
    metric: Annotated[str | None, typer.Option(help="An accuracy metric of your own, module:callable.")] = None,
    batch: Annotated[int | None, typer.Option(help="Inputs per run where accuracy is measured.")] = None,
    batch_axis: BatchAxis = None,
    baseline: Annotated[
        str | None, typer.Option(help="Profile that ratios of timings refer to; default: the first that runs.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of every random draw.")] = None,
    jobs: Annotated[int | None, typer.Option(help="Jobs that measure no time, run at once; default 2.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds after which a job is killed.")] = None,
    scheduler: Scheduler = None,
    tls: Tls = None,
    budget: Budget = None,
    trust_profile: TrustProfile = False,
    plan: Plan = False,
    out: Out = None,
    overwrite: Overwrite = False,
    resume: Resume = False,
    require: Require = None,
    strict: Strict = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Build a model for every profile and measure each build.

    Exits with 0 where no acceptance rule fails, 1 where one fails or a job ended in error, 2 on bad input, 3 where a required
    profile is unavailable, 4 where a verdict is inconclusive under --strict.
    """
    from hwbench.errors import InputError, UnknownNameError
    from hwbench.spec import load_spec, make_spec

    if classes is not None and data is None:
        raise InputError("--classes needs --data; in a specification, set data.classes")
    given = {
        "data": None if data is None else {"source": data, **({} if classes is None else {"classes": classes})},
        "profiles": listed(profiles),
        "studies": listed(studies),
        "reference": reference,
        "calibration": None if calibration is None else {"source": calibration},
        "split_calibration": split_calibration,
        "task": task,
        "metric": metric,
        "batch": batch,
        "batch_axis": batch_axes(batch_axis),
        "baseline": baseline,
        "seed": seed,
        "timeout_s": timeout,
        "jobs": jobs,
        "scheduler": scheduler,
        "tls": tls,
        "budget": budget,
        "trust_profile": trust_profile or None,
    }
    flags = {key: value for key, value in given.items() if value is not None}
    spec = load_spec(Path(source), **flags) if source.endswith(".toml") else make_spec("run", model=source, **flags)
    names = [Path(name).stem if name.endswith(".toml") else name for name in spec.profiles]
    for name in require or []:
        if name not in names:
            raise UnknownNameError("profile of this run", name, names)
    if plan:
        show_plan(spec, as_json=as_json)
        return
    finished = carry_out(spec, out, overwrite=overwrite, resume=resume, quiet=quiet)
    show(finished, as_json=as_json)
    raise typer.Exit(finished.exit_code(require or [], strict=strict))


def carry_out(spec: RunSpec, out: Path | None, *, overwrite: bool, resume: bool, quiet: bool) -> Run:
    """Run a specification with live progress."""
    from hwbench.api import run_spec
    from hwbench.cli.progress import LiveProgress

    with LiveProgress(quiet) as progress:
        return run_spec(spec, out, overwrite=overwrite, resume=resume, progress=progress)


def show(run: Run, *, as_json: bool) -> None:
    """Print a run's verdicts and comparison, or the whole as JSON."""
    if as_json:
        print_json(to_json(run))
        return
    from hwbench.report.terminal import comparison_table, verdict_table

    out = console()
    for warning in run.record.get("warnings", ()):
        out.print(f"Warning: {warning}", style="yellow", markup=False, highlight=False)
    out.print(comparison_table(run.record, run.table, run.verdicts))
    out.print(verdict_table(run.record, run.table, run.verdicts))
    out.print(f"report: {run.path / 'report.html'}", highlight=False, markup=False, soft_wrap=True)


def to_json(run: Run) -> dict[str, Any]:
    """A run as one JSON object: ``run`` (run.json) and ``measurements`` (the table)."""
    return {"path": str(run.path), "run": dict(run.record), "measurements": run.table.to_dicts()}
