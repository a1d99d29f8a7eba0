"""Options that several commands share, and how lists in them are written."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from hwbench.errors import InputError

Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an existing run.")]
Resume = Annotated[bool, typer.Option("--resume", help="Continue an interrupted run.")]
Require = Annotated[
    list[str] | None, typer.Option("--require", help="Exit with 3 unless this profile is available; may be repeated.")
]
Strict = Annotated[
    bool, typer.Option("--strict", help="Exit with 3 for unavailable profiles, with 4 for inconclusive verdicts.")
]
Scheduler = Annotated[
    str | None,
    typer.Option(help="A Dask scheduler, tcp://HOST:PORT or tls://: its workers take the jobs that measure no time."),
]
Tls = Annotated[
    str | None,
    typer.Option(help="Folder with ca.pem, cert.pem and key.pem, for a scheduler with a tls:// address."),
]
Budget = Annotated[
    str | None,
    typer.Option(
        help="Wall time after which the run ends: seconds, 90s, 15m or 1h30m; every study first does its minimum."
    ),
]
Plan = Annotated[
    bool, typer.Option("--plan", help="Print builds, jobs, passes and an estimate of the time, then exit.")
]
TrustProfile = Annotated[
    bool,
    typer.Option(
        "--trust-profile",
        help="Let profiles set runtime options that may write files and load code; a run's workers are then not sandboxed.",
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="No progress.")]
Out = Annotated[Path | None, typer.Option("--out", "-o", help="The run directory; default results/MODEL.")]

BatchAxis = Annotated[
    list[str] | None,
    typer.Option(
        "--batch-axis",
        metavar="NAME=AXIS",
        help="Batch axis of an input or output if it is not 0, or none for an input that is the same for all samples; may be "
        "repeated.",
    ),
]


def batch_axes(given: list[str] | None) -> dict[str, int | Literal["none"]] | None:
    """Return the axes that --batch-axis sets; None if it is not given."""
    if not given:
        return None
    axes: dict[str, int | Literal["none"]] = {}
    for item in given:
        name, _, axis = item.rpartition("=")
        if not name or (axis != "none" and not axis.isdecimal()):
            raise InputError(f"--batch-axis {item}: give NAME=AXIS with an axis counted from 0, or NAME=none")
        axes[name] = "none" if axis == "none" else int(axis)
    return axes


def listed(text: str | None) -> list[str] | None:
    """The items of a comma-separated option; None where it was not given."""
    return None if text is None else [item.strip() for item in text.split(",") if item.strip()]
