"""``hwbench targets``: what this machine can enforce and emulate; system roots; serving as a board."""

from __future__ import annotations

import re
from dataclasses import asdict
from typing import Annotated, Any

import typer

from hwbench.cli.console import console, echo, print_json
from hwbench.cli.options import Json, Tls

app = typer.Typer(rich_markup_mode=None)
_VERSIONED = re.compile(r"-v\d+$")  # QEMU's own revisions of a model, which --json lists too
# Of a system root's packages, those that decide numbers.
_TOLD = ("python3.11", "numpy", "onnx", "onnxruntime")


@app.callback(invoke_without_command=True)
def targets(context: typer.Context, as_json: Json = False) -> None:
    """List what limits this machine can enforce on a build, and which processors it can emulate."""
    if context.invoked_subcommand is None:
        _list(as_json)


@app.command("serve")
def serve_command(
    resource: Annotated[str, typer.Option(help="Name by which profiles select this board (target.resource).")],
    scheduler: Annotated[str, typer.Option(help="The Dask scheduler, tcp://HOST:PORT or tls://HOST:PORT.")],
    tls: Tls = None,
) -> None:
    """Make this machine a board: a Dask worker for the jobs of profiles with target.kind = "remote" and this resource.

    python -m hwbench.targets.serve does the same with a worker's dependencies only: numpy, onnx, a runtime and Dask.
    """
    from hwbench.targets.serve import serve

    serve(resource, scheduler, tls or "")


@app.command()
def install(
    arch: Annotated[str, typer.Argument(help="The instruction set: aarch64.")],
    mirror: Annotated[
        str, typer.Option("--mirror", help="Address of a Debian mirror; default: this machine's apt sources.")
    ] = "",
) -> None:
    """Install the system root for Python of another instruction set; an interrupted installation continues."""
    from hwbench.targets import sysroot

    sysroot.install(arch, lambda text: console().print(text, highlight=False), mirror=mirror)


@app.command()
def remove(arch: Annotated[str, typer.Argument(help="The instruction set: aarch64.")]) -> None:
    """Remove every system root of an instruction set."""
    from hwbench.targets import sysroot

    removed = sysroot.remove(arch)
    echo("\n".join(f"{path}: removed" for path in removed) or f"no system root of {arch} is installed")


def _list(as_json: bool) -> None:
    from rich.markup import escape
    from rich.table import Table

    from hwbench.host import describe_host
    from hwbench.targets import sandbox
    from hwbench.targets.emulated import emulations
    from hwbench.targets.limits import mechanism

    host, support, emulated = describe_host(), mechanism(), emulations()
    if as_json:
        local = {"host": host, "limits": asdict(support), "sandbox": sandbox.describe()}
        content: dict[str, Any] = {"local": local}
        content["emulated"] = {arch: asdict(one) for arch, one in emulated.items()}
        print_json(content)
        return
    table = Table("target", "what", "how")
    table.add_row("local", "processor", f"{host['cpu_model']}, {host['cores_logical']} cores, {host['memory_mib']} MiB")
    table.add_row(
        "",
        "memory cap (memory_mib)",
        escape(support.memory + (f" ({support.memory_reason})" if support.memory_reason else "")),
    )
    table.add_row("", "processor quota (cpu_quota)", escape(support.cpu or f"none: {support.cpu_reason}"))
    table.add_row("", "sandbox of the workers", escape(sandbox.describe()))
    for arch, one in emulated.items():
        runs = ", ".join(f"{name} {version}" for name, version in one.system_root.items() if name in _TOLD)
        how = f"{one.emulator}; {runs or 'the packages installed here'}" if one.available else one.reason
        table.add_row("emulated", arch, escape(how if one.available else f"{how}\n  {one.hint}"))
        table.add_row("", "", escape(", ".join(cpu for cpu in one.cpus if not _VERSIONED.search(cpu))))
    console().print(table)
