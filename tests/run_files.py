"""The files of a small run that no runtime made: for tests of what reads run directories."""

from __future__ import annotations

import io
import json
import sys
from functools import cache
from pathlib import Path

import numpy as np
import polars as pl

sys.path.append(str(Path(__file__).parent / "report"))
from synthetic_run import make_rows, make_run, make_verdicts

from hwbench.per_input import PerInput
from hwbench.table import to_frame

PROFILES = ("cpu-fp32", "cpu-int8")


def parquet(table: pl.DataFrame) -> bytes:
    """A table as the content of a Parquet file."""
    stream = io.BytesIO()
    table.write_parquet(stream)
    return stream.getvalue()


@cache
def run_files() -> dict[str, bytes]:
    """Name to content of the files of a run of two profiles."""
    record = make_run()
    record |= {"higher_is_better": True, "fingerprint": {}, "metrics": [], "reference": record["model"]}
    record["data"]["sha256"] = "0" * 64
    record["profiles"] = {name: record["profiles"][name] for name in PROFILES}
    record["verdicts"] = [vars(verdict) for verdict in make_verdicts() if verdict.profile in PROFILES]
    rows = [row for row in make_rows() if row.profile in ("reference", *PROFILES)]
    inputs = PerInput(8, {"top1": np.ones(8)}, np.arange(8, dtype=np.uint64), np.arange(8, dtype=np.int32))
    parts = {f"inputs/{name}/part-00000.parquet": parquet(inputs.to_frame()) for name in PROFILES}
    return {"run.json": json.dumps(record).encode(), "measurements.parquet": parquet(to_frame(rows)), **parts}


def write_run(folder: Path) -> Path:
    """Write the run into a folder."""
    for name, content in run_files().items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
