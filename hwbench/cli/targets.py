"""``hwbench targets``: what this machine can enforce on a build."""

from __future__ import annotations

import json
from dataclasses import asdict

import typer

from hwbench.cli.console import console
from hwbench.cli.options import Json

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def targets(context: typer.Context, as_json: Json = False) -> None:
    """List what limits this machine can enforce on a build, and how."""
    if context.invoked_subcommand is None:
        _list(as_json)


def _list(as_json: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from hwbench.host import describe_host
    from hwbench.targets.limits import mechanism

    host, support = describe_host(), mechanism()
    if as_json:
        typer.echo(json.dumps({"local": {"host": host, "limits": asdict(support)}}, indent=2))
        return
    table = Table("target", "what", "how")
    table.add_row("local", "processor", f"{host['cpu_model']}, {host['cores_logical']} cores, {host['memory_mib']} MiB")
    table.add_row(
        "",
        "memory cap (memory_mib)",
        escape(support.memory + (f" ({support.memory_reason})" if support.memory_reason else "")),
    )
    table.add_row("", "processor quota (cpu_quota)", escape(support.cpu or f"none: {support.cpu_reason}"))
    console().print(table)
