"""The command line's entry point: the commands, and how errors become messages and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from contextlib import suppress
from typing import Annotated

import typer

from hwbench import __version__
from hwbench.cli import backends, build, compare, demo, export, faults, profiles, report, run, targets
from hwbench.cli.console import abandon_streams, adapt_streams, echo, flush_streams, printable
from hwbench.cli.failures import explain
from hwbench.cli.signals import Interrupted, Interruptions, interruptible
from hwbench.errors import EXIT_INTERRUPTED, InputError

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
        echo(f"hwbench {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    debug: Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")] = False,
    version: Annotated[  # noqa: ARG001  its callback acts on it
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    if sys.flags.optimize > 1:
        raise InputError("python -OO removes docstrings, which altair needs for charts; use python -O or no option")
    if debug:
        os.environ["HWBENCH_DEBUG"] = "1"


def main() -> None:
    """Run the command line and exit with a code that `hwbench.errors` documents; no exception leaves it."""
    adapt_streams()
    with interruptible() as signals:
        try:
            code = _run(signals)
            flush_streams()
        except BaseException as error:  # noqa: BLE001  the process boundary: whatever happened becomes a message and a code
            code = _fail(error)
        abandon_streams()
        sys.exit(code)


def _run(signals: Interruptions) -> int:
    """Run the command; typer's own treatment of Ctrl-C and closed pipes is undone, so that `explain` is the one place."""
    try:
        app()
    except SystemExit as ended:
        if isinstance(ended.__context__, BrokenPipeError):
            raise ended.__context__ from None
        if ended.code == EXIT_INTERRUPTED:
            raise Interrupted(signals.first or signal.SIGINT) from None
        return ended.code if isinstance(ended.code, int) else 0
    return 0


def _fail(error: BaseException) -> int:
    failure = explain(error)
    with suppress(OSError):  # standard error may be closed or full too; the exit code remains
        if os.environ.get("HWBENCH_DEBUG") and failure.message:
            traceback.print_exception(error)
        if failure.message:
            echo(printable(failure.message), err=True)
    return failure.code
