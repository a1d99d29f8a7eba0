"""Settings of the memory-errors study, and the points at which it measures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from hwbench.bounds import DRAWS, FIT_PER_MBIT, HOURS, INPUTS, POINTS, REPEATS
from hwbench.errors import InputError, SpecError
from hwbench.faults.error_rates import DRAM_FIT_PER_MBIT, SRAM_14NM, TemperatureTable, VoltageTable, upset_rate
from hwbench.faults.storage import Uncorrectable, check_stack
from hwbench.studies.base import NamesFile, Settings

Stack = tuple[str, ...]
USUAL_CHIPS = 20
"""Chips over all inputs of a metric without bounds."""
_Positive = Annotated[float, Field(gt=0, allow_inf_nan=False)]


@dataclass(frozen=True)
class Point:
    """One setting at which chips are drawn.

    Attributes:
        setting: The condition: voltage, temperature_c, or fit and hours.
        rate: Bit error rate.
        chips: What is known of the chips beyond it.
    """

    setting: Mapping[str, float]
    rate: float
    chips: Mapping[str, Any]


class ColumnSettings(Settings):
    """Errors that crowd on weak columns of the memory array."""

    row_bits: int = Field(
        512, ge=2, le=REPEATS, description="bits of a row of the array; a bit's column is its position modulo this"
    )
    weak: int = Field(8, ge=1, le=REPEATS, description="weak columns of a chip")
    share: float = Field(0.5, ge=0, lt=1, description="share of errors that falls on them beyond their own")
    chips: float = Field(0.5, ge=0, le=1, description="probability that a chip has weak columns")

    @model_validator(mode="after")
    def _some_are_not_weak(self) -> ColumnSettings:
        if self.weak >= self.row_bits:
            raise ValueError(f"of {self.row_bits} columns fewer than that can be weak")
        return self


class FitSettings(Settings):
    """Soft errors that gather over time."""

    rate_per_mbit: tuple[Annotated[_Positive, Field(le=FIT_PER_MBIT)], ...] = Field(
        DRAM_FIT_PER_MBIT,
        min_length=1,
        max_length=POINTS,
        description="errors per 10⁹ hours and Mbit; default: DRAM in the field",
    )
    hours: tuple[Annotated[_Positive, Field(le=HOURS)], ...] = Field(
        (8760.0,), min_length=1, max_length=POINTS, description="hours since the model was written"
    )


class MemoryErrorsSettings(Settings):
    """Study settings."""

    table: Annotated[tuple[tuple[float, float], ...], NamesFile()] = Field(
        SRAM_14NM.points,
        max_length=POINTS,
        description="a CSV file with the columns voltage (V/Vmin) and ber, or such pairs; default: SRAM in 14 nm",
    )
    voltages: tuple[_Positive, ...] | None = Field(
        None, max_length=POINTS, description="supply voltages, relative to Vmin; default: the table's"
    )
    temperature_table: Annotated[tuple[tuple[float, float], ...] | None, NamesFile()] = Field(
        None,
        max_length=POINTS,
        description="a CSV file with the columns temperature_c and ber, or such pairs; parts differ",
    )
    temperatures: tuple[Annotated[float, Field(allow_inf_nan=False)], ...] | None = Field(
        None, max_length=POINTS, description="temperatures of the memory in °C; default: the table's"
    )
    chips: int | None = Field(
        None,
        ge=2,
        le=DRAWS,
        description="simulated chips at every point; default: until half_width is reached, at most the cost of "
        f"{USUAL_CHIPS} chips over all inputs",
    )
    inputs_per_chip: int | None = Field(
        None,
        ge=1,
        le=INPUTS,
        description="inputs that each chip runs on; default: chosen by a pilot, or all where chips is given",
    )
    half_width: float = Field(0.02, gt=0, description="wanted half-width of intervals")
    asymmetry: float = Field(0.0, ge=0, lt=1, description="how far chips favour 0→1 or 1→0 errors at most")
    columns: ColumnSettings | None = Field(None, description="errors that crowd on columns of the array; default: none")
    fit: FitSettings | None = Field(None, description="soft errors over hours; default: none")
    protections: tuple[Annotated[Stack, Field(min_length=1)], ...] = Field(
        (("secded_72_64",),),
        max_length=POINTS,
        description="what to compare with no protection; each a stack, nearest to the data first",
    )
    uncorrectable: Uncorrectable = Field(
        "zero", description="words in which an error was detected are read as zero, or the device halts"
    )

    @field_validator("table", mode="before")
    @classmethod
    def _read(cls, given: Any) -> Any:
        # Points instead of a path: a changed file is another setting, and the run's record says what was used.
        return VoltageTable.read(Path(given)).points if isinstance(given, str | Path) else given

    @field_validator("temperature_table", mode="before")
    @classmethod
    def _read_temperatures(cls, given: Any) -> Any:
        return TemperatureTable.read(Path(given)).points if isinstance(given, str | Path) else given

    @model_validator(mode="after")
    def _usable(self) -> MemoryErrorsSettings:
        if self.temperatures is not None and self.temperature_table is None:
            raise ValueError("temperatures need a temperature_table: how a part's memory takes heat is the part's own")
        if not self.points:
            raise ValueError("nothing is asked for; give voltages, a temperature_table or fit")
        for names in self.protections:
            _told("protections", check_stack, names)
        return self

    @property
    def points(self) -> list[Point]:
        """Where the build is measured: from the highest voltage down, from the coolest up, then the soft errors."""
        chips = {"asymmetry": self.asymmetry, "columns": self.columns.model_dump() if self.columns else None}
        points = []
        for key, kind, given, asked in (
            ("", VoltageTable, self.table, self.voltages),
            ("temperature_", TemperatureTable, self.temperature_table, self.temperatures),
        ):
            if given is None:
                continue
            table = _told(f"{key}table", kind, given)
            exposures = sorted(set(table.exposures if asked is None else asked), key=lambda one: kind.worse * one)
            at = "temperatures" if key else "voltages"
            points += [Point({kind.column: one}, _told(at, table.rate, one), chips) for one in exposures]
        if self.fit is not None:
            points += [
                Point({"fit": errors, "hours": hours}, upset_rate(errors, hours), {})
                for errors in sorted(set(self.fit.rate_per_mbit))
                for hours in sorted(set(self.fit.hours))
            ]
        return points

    @property
    def stacks(self) -> list[Stack]:
        """Protections to compare, no protection first."""
        return list(dict.fromkeys([(), *self.protections]))


def _told(key: str, function: Any, *arguments: Any) -> Any:
    """A function's result; its `InputError` with the path of the setting at fault."""
    try:
        return function(*arguments)
    except InputError as error:
        raise SpecError(f"settings.memory_errors.{key}: {error}") from None
