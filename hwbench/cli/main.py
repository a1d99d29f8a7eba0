"""The command line's entry point: the commands, and how errors become messages and exit codes."""

from __future__ import annotations

import os
import sys
import traceback
from typing import Annotated

import typer

from hwbench import __version__
from hwbench.cli import backends, build, compare, demo, export, faults, profiles, report, run, targets
from hwbench.errors import HwbenchError, JobError

INTERRUPTED = 130

app = typer.Typer(
    help="Will this model still do its job on that hardware? Benchmarks every deployed build of a model, with evidence.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for module in (demo, run, export, build, faults, compare, report, profiles, backends):
    app.command(module.__name__.rpartition(".")[2])(module.command)
app.add_typer(targets.app, name="targets")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"hwbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[  # noqa: ARG001  its callback acts on it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if debug:
        os.environ["HWBENCH_DEBUG"] = "1"


def main() -> None:
    """Run the command line and exit: 2 for bad input, 1 for a job that ended badly, 130 for Ctrl-C."""
    try:
        app()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:  # what typer makes of Ctrl-C
            typer.echo("interrupted: finished work is kept; --resume continues from there", err=True)
        raise
    except (HwbenchError, OSError) as error:
        if os.environ.get("HWBENCH_DEBUG"):
            traceback.print_exc()
        typer.echo(f"error: {_told(error)}", err=True)
        sys.exit(1 if isinstance(error, JobError) else 2)


def _told(error: Exception) -> str:
    """An error as one message; the system's name the file and what is wrong with it."""
    if isinstance(error, OSError) and error.filename:
        return f"{error.filename}: {error.strerror}"
    return str(error)
