"""``hwbench demo``: the whole path on the embedded model and data."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from hwbench.cli.options import Json, Overwrite, Quiet, Resume

# Less than the studies' defaults if that costs only precision: the demo should end within two minutes.
SETTINGS = {
    "bit_flips": {"rates": [1e-7, 1e-6, 1e-5, 1e-4]},
    "noise": {"snr_db": [20, 10, 5, 0], "impulse_rates": [0.01, 0.1], "weight_sigmas": [0.02, 0.05], "half_width": 0.1},
    "throughput": {"batches": [32], "windows": 1, "max_launches": 5, "warm_up_s": 0.5},
    "latency": {"windows": 2, "max_launches": 5, "warm_up_s": 0.5},
}


def command(
    out: Annotated[Path, typer.Option("--out", "-o", help="The run directory.")] = Path("results/demo"),
    overwrite: Overwrite = False,
    resume: Resume = False,
    as_json: Json = False,
    quiet: Quiet = False,
) -> None:
    """Run everything on the embedded model and data, with every shipped profile that needs no emulated processor.

    Exits with 0 if the run is complete, whatever the verdicts.
    """
    from hwbench import demo
    from hwbench.cli.run import carry_out, show
    from hwbench.profile import load_profile, profile_names
    from hwbench.spec import make_spec

    spec = make_spec(
        "demo",
        model=_named(demo.MODEL),
        data={"source": _named(demo.DATA)},
        calibration={"source": _named(demo.CALIBRATION)},
        profiles=[name for name in profile_names() if load_profile(name).target.kind != "emulated"],
        settings=SETTINGS,
    )
    show(carry_out(spec, out, overwrite=overwrite, resume=resume, quiet=quiet), as_json=as_json)


def _named(path: Path) -> str:
    """A file by the shortest name that finds it from here, so that a run made in a clone names no folder above it."""
    return str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path)
