"""``hwbench backends``: the backends that are usable on this machine."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from hwbench.cli.console import console, print_json
from hwbench.cli.options import Json


def command(as_json: Json = False) -> None:
    """List the backends, those usable here, and the remedy for the others."""
    from rich.markup import escape
    from rich.table import Table

    found = probe_all()
    if as_json:
        print_json(found)
        return
    table = Table("backend", "here", "devices", "versions", "missing, and the remedy")
    for name, one in found.items():
        versions = ", ".join(f"{package} {version}" for package, version in one["versions"].items())
        missing = [f"{one['reason']}\n  {one['hint']}"] if not one["available"] else []
        missing += [f"{device}: {hint}" for device, hint in one["hints"].items()]
        table.add_row(
            name, "yes" if one["available"] else "no", ", ".join(one["devices"]), versions, escape("\n".join(missing))
        )
    console().print(table)


def probe_all() -> dict[str, dict[str, Any]]:
    """Backend to what its probe found, each in a worker of its own."""
    from hwbench.backend import backends
    from hwbench.targets import open_target
    from hwbench.worker.protocol import Job, Limits

    target, found = open_target("local"), {}
    with tempfile.TemporaryDirectory() as work:
        for name in backends.names():
            job = Job("hwbench.worker.tasks.probe:run", backend=backends.reference(name), limits=Limits(timeout_s=120))
            result = target.run(job, Path(work) / name)
            ended = {
                "available": False,
                "reason": f"probing ended in {result.status}: {result.detail}",
                "hint": "",
                "versions": {},
                "devices": [],
                "hints": {},
            }
            found[name] = dict(result.data) if result.ok else ended
    return found
