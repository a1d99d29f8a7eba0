"""``hwbench targets``: what this machine can enforce on a build, and serving as a board."""

from __future__ import annotations

import json
from dataclasses import asdict
from typing import Annotated

import typer

from hwbench.cli.console import console
from hwbench.cli.options import Json

app = typer.Typer(rich_markup_mode=None)


@app.callback(invoke_without_command=True)
def targets(context: typer.Context, as_json: Json = False) -> None:
    """List what limits this machine can enforce on a build, and how."""
    if context.invoked_subcommand is None:
        _list(as_json)


@app.command("serve")
def serve_command(
    resource: Annotated[str, typer.Option(help="What profiles name as target.resource.")],
    scheduler: Annotated[str, typer.Option(help="The Dask scheduler, tcp://HOST:PORT or tls://HOST:PORT.")],
    tls_ca_file: Annotated[str, typer.Option(help="For TLS: the authority that signed the certificates, PEM.")] = "",
    tls_cert: Annotated[str, typer.Option(help="For TLS: this machine's certificate.")] = "",
    tls_key: Annotated[str, typer.Option(help="For TLS: its private key.")] = "",
) -> None:
    """Make this machine a board: a Dask worker for the jobs of profiles with target.kind = "remote" and this resource.

    python -m hwbench.targets.serve does the same with a worker's dependencies only: numpy, onnx, a runtime and Dask.
    """
    from hwbench.targets.serve import serve

    serve(resource, scheduler, ca_file=tls_ca_file, cert=tls_cert, key=tls_key)


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
