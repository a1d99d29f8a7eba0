"""``hwbench export``: a framework's model to ONNX, checked against the framework's own outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.console import echo


def command(
    target: Annotated[str, typer.Argument(metavar="MODULE:CALLABLE", help="A model, or a callable that returns one.")],
    inputs: Annotated[
        list[str],
        typer.Option("--input", help="An input's shape, batch first: 1x3x32x32, or ids=1x16:int64; may be repeated."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="The ONNX file.")] = Path("model.onnx"),
    framework: Annotated[
        str | None, typer.Option(help="torch, sklearn or keras; default: inferred from the model's class.")
    ] = None,
    atol: Annotated[float, typer.Option(help="Absolute tolerance of the parity check.")] = 1e-4,
    rtol: Annotated[float, typer.Option(help="Relative tolerance of the parity check.")] = 1e-3,
) -> None:
    """Export a PyTorch, scikit-learn or Keras model to ONNX and check that it computes the same."""
    from hwbench.export import export_model, parse_input

    given = [parse_input(text) for text in inputs]
    echo(str(export_model(target, given, out, framework=framework, atol=atol, rtol=rtol)))
