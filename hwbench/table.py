"""The measurement table: the one tidy table that every study writes and every report reads."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import polars as pl

Status = Literal["ok", "unavailable", "error", "timeout", "oom", "crash", "skipped"]

SCHEMA: dict[str, type[pl.DataType]] = {
    "model": pl.String,
    "profile": pl.String,
    "build": pl.String,
    "study": pl.String,
    "condition": pl.String,
    "metric": pl.String,
    "value": pl.Float64,
    "unit": pl.String,
    "ci_low": pl.Float64,
    "ci_high": pl.Float64,
    "ci_level": pl.Float64,
    "n": pl.Int64,
    "status": pl.String,
    "detail": pl.String,
}


# The detail of figures that need labels, where there are none.
NO_LABELS = "the data have no labels"


def condition(**setting: Any) -> str:
    """A condition as the table stores it: JSON with sorted keys; 10 and 10.0 are one setting."""
    plain = {key: int(one) if isinstance(one, float) and one.is_integer() else one for key, one in setting.items()}
    return json.dumps(plain, sort_keys=True)


@dataclass(frozen=True)
class Row:
    """One figure, or the reason there is none.

    Attributes:
        study: The study that measured it.
        metric: The metric's name.
        condition: JSON with sorted keys, made by `condition`.
        value: The figure; None where ``status`` is not ok.
        unit: Its unit (``"ms"``, ``"MiB"``, ``"ratio"``, ``"1/s"``, ``"dB"``, ...).
        ci_low, ci_high: The interval at ``ci_level``; None for exact figures.
        n: How many observations stand behind it.
        status: ok, or why there is no figure.
        detail: The reason, a warning about the figure's stability, or what it refers to.
        model, profile, build: Filled in by the runner.
    """

    study: str
    metric: str
    condition: str = "{}"
    value: float | None = None
    unit: str = ""
    ci_low: float | None = None
    ci_high: float | None = None
    ci_level: float | None = None
    n: int | None = None
    status: Status = "ok"
    detail: str = ""
    model: str = ""
    profile: str = ""
    build: str = ""


def to_frame(rows: Iterable[Row]) -> pl.DataFrame:
    """The table, one row a figure. What is not a number is stored as null; infinities (the SQNR of equal outputs) stay."""
    records = [asdict(row) for row in rows]
    for record in records:
        for key in ("value", "ci_low", "ci_high"):
            if record[key] is not None and math.isnan(record[key]):
                record[key] = None
    return pl.DataFrame(records, schema=SCHEMA, orient="row")


def from_frame(frame: pl.DataFrame) -> list[Row]:
    """The rows of a table read back."""
    return [Row(**record) for record in frame.select(list(SCHEMA)).to_dicts()]


def checked(frame: pl.DataFrame) -> pl.DataFrame:
    """A frame that was read, if it is a measurement table.

    Raises:
        ValueError: A column is missing or has another type, or a status or condition is none.
    """
    for name, kind in SCHEMA.items():
        if frame.schema.get(name) != kind:
            raise ValueError(f"column {name} is {frame.schema.get(name, 'missing')}, not {kind.__name__}")
    if unknown := set(frame["status"].unique()) - set(get_args(Status)):
        raise ValueError(f"{unknown.pop()!r} is not a status")
    if odd := [text for text in frame["condition"].unique() if not _is_condition(text)]:
        raise ValueError(f"{odd[0]!r:.80} is not a condition")
    return frame


def _is_condition(text: object) -> bool:
    try:
        return isinstance(text, str) and isinstance(json.loads(text), dict)
    except (ValueError, RecursionError):
        return False
