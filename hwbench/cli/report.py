"""``hwbench report``: a run's views again, or its tables on the terminal."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.options import Json


def command(
    run: Annotated[Path, typer.Argument(help="The run directory.")],
    out: Annotated[
        Path | None,
        typer.Option("--out", "-o", help="Write one view: .html, .md or .xml; default: all, into the run directory."),
    ] = None,
    as_json: Json = False,
) -> None:
    """Write a run's reports again from its table, and show its verdicts."""
    from hwbench.api import Run
    from hwbench.cli.run import show
    from hwbench.errors import InputError

    opened = Run.open(run)
    try:
        opened.report(out) if out is not None else opened.report_all()
    except ValueError as error:
        raise InputError(str(error)) from None
    show(opened, as_json=as_json)
