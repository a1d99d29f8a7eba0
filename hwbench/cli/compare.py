"""``hwbench compare``: two runs side by side, and a gate on regressions."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.options import Json


def command(
    a: Annotated[Path, typer.Argument(help="The run to compare with.")],
    b: Annotated[Path, typer.Argument(help="The new run.")],
    fail_on: Annotated[list[str] | None, typer.Option(help="[study.]metric:limit, e.g. p99_ms:10% or accuracy.top1:0.01; may be repeated.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Exit with 4 where a gate is inconclusive.")] = False,
    as_json: Json = False,
) -> None:
    """Put two runs side by side."""
