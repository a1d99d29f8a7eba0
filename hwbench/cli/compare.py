"""``hwbench compare``: two runs side by side, and gates on regressions."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from hwbench.cli.console import console, print_json
from hwbench.cli.options import Json, Overwrite, Quiet

if TYPE_CHECKING:
    from collections.abc import Sequence

    import polars as pl

    from hwbench.api import Run
    from hwbench.comparison import GateOutcome


def command(
    a: Annotated[
        Path, typer.Argument(help="Directory of the run to compare with; with --interleave, its specification.")
    ],
    b: Annotated[Path, typer.Argument(help="Directory of the new run; with --interleave, its specification.")],
    fail_on: Annotated[
        list[str] | None,
        typer.Option(
            help="Largest worsening allowed, [study.]metric:limit, e.g. p99_ms:10% or accuracy.top1:0.01; may be repeated."
        ),
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="Show every condition, not only each study's main figures.")
    ] = False,
    strict: Annotated[
        bool, typer.Option("--strict", help="Exit with 4 where a gate is inconclusive, 3 where it has no figure.")
    ] = False,
    interleave: Annotated[
        bool, typer.Option("--interleave", help="Measure two run specifications alternately, then compare them.")
    ] = False,
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="With --interleave: folder of both runs; default results/compare."),
    ] = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
    as_json: Json = False,
) -> None:
    """Compare two runs figure by figure, and fail on a regression.

    Accuracy figures are paired by input if both runs evaluated the same data; timings are compared by the ratio over launches.
    Exits with 0 if no gate fails, 1 if one does, 2 on bad input.
    """
    from hwbench.api import Run
    from hwbench.comparison import compare_runs, evaluate_gates, parse_gate
    from hwbench.errors import InputError

    gates = [parse_gate(text) for text in fail_on or []]
    if not interleave and (out is not None or overwrite):
        raise InputError("--out and --overwrite belong to --interleave, which measures; without it, compare only reads")
    runs = _measured(a, b, out, overwrite=overwrite, quiet=quiet) if interleave else (Run.open(a), Run.open(b))
    comparison = compare_runs(*runs)
    outcomes = evaluate_gates(gates, comparison)
    if as_json:
        print_json(_json(comparison, outcomes))
    else:
        _print(comparison, outcomes, everything=everything)
    kinds = {outcome.outcome for outcome in outcomes}
    if "fail" in kinds:
        raise typer.Exit(1)
    if strict and "unavailable" in kinds:
        raise typer.Exit(3)
    if strict and "inconclusive" in kinds:
        raise typer.Exit(4)


def _measured(a: Path, b: Path, out: Path | None, *, overwrite: bool, quiet: bool) -> tuple[Run, Run]:
    """Measure two specifications alternately."""
    from hwbench.api import run_interleaved
    from hwbench.cli.progress import LiveProgress
    from hwbench.errors import InputError
    from hwbench.spec import load_spec

    for path in (a, b):
        if path.suffix != ".toml":
            raise InputError(f"{path}: --interleave measures run specifications; give two .toml files")
    specs = load_spec(a), load_spec(b)
    with LiveProgress(quiet) as progress:
        return run_interleaved(*specs, out or Path("results/compare"), overwrite=overwrite, progress=progress)


def _print(comparison: pl.DataFrame, outcomes: Sequence[GateOutcome], *, everything: bool) -> None:
    import polars as pl
    from rich.markup import escape
    from rich.table import Table

    table = Table(
        "profile",
        "study",
        "metric",
        "condition",
        "A",
        "B",
        "B − A",
        "B / A",
        "",
        "paired",
        title="B against A",
        title_justify="left",
    )
    # A latency's condition is its batch alone; that of another study's figure makes it one of many.
    main = (pl.col("condition") == "{}") | ((pl.col("study") == "latency") & pl.col("ratio_low").is_not_null())
    shown = comparison if everything else comparison.filter(main)
    for row in shown.to_dicts():
        figures = [_figure(row[key]) for key in ("a", "b", "difference")]
        table.add_row(
            *(escape(str(row[key])) for key in ("profile", "study", "metric", "condition")),
            *figures,
            _ratio(row),
            row["verdict"],
            ("by block" if row["ratio_low"] is not None else "by input") if row["paired"] else "",
        )
    out = console()
    out.print(table)
    unpaired = shown.filter(~pl.col("paired") & (pl.col("pairing") != "") & pl.col("ratio_low").is_null())
    for reason in unpaired["pairing"].unique(maintain_order=True):
        out.print(f"Accuracy is compared unpaired: {reason}.", highlight=False, markup=False, soft_wrap=True)
    for outcome in outcomes:
        where = f"{outcome.profile} {outcome.study}.{outcome.metric} {outcome.condition}"
        out.print(
            f"{outcome.outcome:12} {outcome.gate.text:20} {where}: {outcome.detail}",
            highlight=False,
            markup=False,
            soft_wrap=True,
        )


def _figure(value: float | None) -> str:
    return "–" if value is None else f"{value + 0.0:.4g}"


def _ratio(row: dict[str, float | None]) -> str:
    if row["ratio_low"] is None or row["ratio_high"] is None:
        return ""
    return f"{_figure(row['ratio'])} [{_figure(row['ratio_low'])}, {_figure(row['ratio_high'])}]"


def _json(comparison: pl.DataFrame, outcomes: Sequence[GateOutcome]) -> dict[str, object]:
    gates = [{**vars(outcome), "gate": outcome.gate.text} for outcome in outcomes]
    return {"comparison": comparison.to_dicts(), "gates": gates}
