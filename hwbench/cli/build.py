"""``hwbench build``: make the deployed ONNX of one profile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.console import echo, print_json
from hwbench.cli.options import BatchAxis, Json, TrustProfile, batch_axes


def command(
    model: Annotated[Path, typer.Argument(help="The ONNX file.")],
    profile: Annotated[str, typer.Option(help="A profile's name or path.")],
    calibration: Annotated[
        str | None, typer.Option("--calibration", "--data", help="Calibration data, for static int8.")
    ] = None,
    shape: Annotated[
        list[str] | None,
        typer.Option(help="Size of an input's dynamic dimensions, batch first: image=1x3x224x224; may be repeated."),
    ] = None,
    batch_axis: BatchAxis = None,
    out: Annotated[Path, typer.Option("--out", "-o", help="Folder to place model.onnx and manifest.json in.")] = Path(
        "build"
    ),
    trust_profile: TrustProfile = False,
    as_json: Json = False,
) -> None:
    """Make the deployed ONNX of one profile, with a manifest of the request and the result."""
    from hwbench.api import build_model

    made = build_model(
        model,
        profile,
        out,
        calibration=calibration,
        shapes=shape or [],
        batch_axis=batch_axes(batch_axis),
        trust_profile=trust_profile,
    )
    if as_json:
        print_json(made.manifest)
        return
    contents = made.manifest["contents"]
    stored = ", ".join(f"{count:,} {form}" for form, count in contents["stored"].items()) or "none"
    compute = ", ".join(f"{count} in {form}" for form, count in contents["compute"].items())
    echo(
        f"{made.model}: {contents['bytes']:,} bytes; stored numbers: {stored}; operators that multiply: {compute or 'none'}"
    )
