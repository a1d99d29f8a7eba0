"""How often a memory's bits are wrong: against its supply voltage or temperature, and after hours of soft errors."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import ClassVar, Self

from hwbench.errors import InputError
from hwbench.files import require_file

# Of a cell that reads at random, half the bits are wrong: no memory is worse.
MAX_RATE = 0.5
DRAM_FIT_PER_MBIT = (25_000.0, 70_000.0)
"""DRAM errors in the field per 10⁹ device-hours and Mbit, from lowest to highest: Schroeder, Pinheiro and Weber (2009),
"DRAM errors in the wild: a large-scale field study", SIGMETRICS."""
MBIT = 1 << 20
_DEVICE_HOURS = 1e9
_MAX_BYTES = 1 << 20  # of a table: a line for each voltage or temperature


@dataclass(frozen=True)
class _RateTable:
    """Bit error rates of a memory against what it is exposed to.

    Attributes:
        points: (exposure, bit error rate). Rates do not fall as the exposure gets worse.

    Raises:
        InputError: Fewer than two points, or one that cannot be; with its number, counted from 1.
    """

    points: tuple[tuple[float, float], ...]
    column: ClassVar[str]
    unit: ClassVar[str]
    lowest: ClassVar[float]  # exposures lie above it
    worse: ClassVar[int]  # 1 if a higher one is worse, else -1

    def __post_init__(self) -> None:
        self._check(
            [(f"point {number}", *point) for number, point in enumerate(self.points, 1)], f"{self.column} table"
        )

    @classmethod
    def read(cls, path: Path) -> Self:
        """Read a CSV file with the exposure's column and ``ber``.

        Raises:
            InputError: The file cannot be read or a row cannot be used; with its line.
        """
        require_file(path, InputError, most=_MAX_BYTES)
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                missing = {cls.column, "ber"} - set(reader.fieldnames or ())
                if missing:
                    raise InputError(
                        f"{path}: no column {min(missing)!r}; the first row has to name {cls.column} and ber"
                    )
                rows = [(f"row {reader.line_num}", row[cls.column], row["ber"]) for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: not a readable CSV file: {error}") from None
        points = [(where, _number(path, where, exposure), _number(path, where, ber)) for where, exposure, ber in rows]
        cls._check(points, str(path))
        return cls(tuple((exposure, ber) for _, exposure, ber in points))

    @property
    def exposures(self) -> tuple[float, ...]:
        """The exposures it knows, mildest first."""
        return tuple(sorted((exposure for exposure, _ in self.points), key=lambda one: self.worse * one))

    def rate(self, exposure: float) -> float:
        """The bit error rate at an exposure: the rate's logarithm is interpolated linearly; next to a rate of 0, the rate.

        Raises:
            InputError: The exposure is outside the table.
        """
        points = sorted(self.points)
        if not points[0][0] <= exposure <= points[-1][0]:
            raise InputError(
                f"no bit error rate is known at {self.column} {exposure:g}: the table covers {points[0][0]:g} to "
                f"{points[-1][0]:g} ({self.unit}); stay inside, or give a table that reaches there"
            )
        for (low, at_low), (high, at_high) in pairwise(points):
            if exposure in (low, high):
                return at_low if exposure == low else at_high
            if low < exposure < high:
                share = (exposure - low) / (high - low)
                if 0 in (at_low, at_high):
                    return at_low * (1 - share) + at_high * share
                return math.exp((1 - share) * math.log(at_low) + share * math.log(at_high))
        raise AssertionError("unreachable: the exposure lies between two points")

    @classmethod
    def _check(cls, points: Sequence[tuple[str, float, float]], source: str) -> None:
        """Raise `InputError` unless (where, exposure, rate) points make a table."""
        if len(points) < 2:
            raise InputError(f"{source}: a {cls.column} table needs two points or more, not {len(points)}")
        for where, exposure, rate in points:
            if not (math.isfinite(exposure) and exposure > cls.lowest):
                raise InputError(
                    f"{source}: {where}: a {cls.column} is a number above {cls.lowest:g}, not {exposure:g}"
                )
            if not 0 <= rate <= MAX_RATE:
                raise InputError(f"{source}: {where}: a bit error rate lies in [0, {MAX_RATE}], not {rate:g}")
        ordered = sorted(points, key=lambda point: -cls.worse * point[1])
        for (where_worse, worse, high_rate), (where, mild, low_rate) in pairwise(ordered):
            if worse == mild:
                raise InputError(
                    f"{source}: {where_worse} and {where} give the same {cls.column} {mild:g}; keep one of them"
                )
            if low_rate > high_rate:
                raise InputError(
                    f"{source}: {where}: the rate {low_rate:g} at {mild:g} is above the rate {high_rate:g} at the worse "
                    f"{cls.column} {worse:g} ({where_worse}); a bit that fails fails at every worse one too"
                )


class VoltageTable(_RateTable):
    """Bit error rates against the supply voltage, relative to Vmin, the lowest without errors; lower is worse."""

    column = "voltage"
    unit = "V/Vmin"
    lowest = 0.0
    worse = -1


class TemperatureTable(_RateTable):
    """Bit error rates against the memory's temperature in °C, as a retention test of the part gives them; hotter is worse."""

    column = "temperature_c"
    unit = "°C"
    lowest = -273.15
    worse = 1


def relative_energy(voltage: float) -> float:
    """Energy of a memory access relative to that at Vmin: dynamic energy follows V²."""
    return voltage**2


def expected_upsets(fit_per_mbit: float, hours: float, n_bits: int) -> float:
    """Mean number of upsets in ``n_bits`` over ``hours``, at a rate in errors per 10⁹ hours and Mbit (2²⁰ bits)."""
    return fit_per_mbit * hours / _DEVICE_HOURS * n_bits / MBIT


def upset_rate(fit_per_mbit: float, hours: float) -> float:
    """Probability that a bit is wrong after ``hours``.

    Upsets are a Poisson process that hits every bit alike, so each bit has its own one, of mean μ = `expected_upsets` of
    one bit, and is wrong after an odd number of upsets: (1 − e^(−2μ)) / 2.
    """
    return -math.expm1(-2 * expected_upsets(fit_per_mbit, hours, 1)) / 2


def _number(path: Path, where: str, text: str | None) -> float:
    try:
        return float(text or "")
    except ValueError:
        raise InputError(f"{path}: {where}: {text!r} is not a number") from None


# Made last: a table checks itself.
SRAM_14NM = VoltageTable(
    ((1.0, 0.0), (0.958, 1.9e-6), (0.917, 6.9e-5), (0.875, 1.29e-3), (0.833, 1.12e-2), (0.792, 5.6e-2), (0.75, 0.206))
)
"""SRAM arrays in 14 nm: Chandramoorthy et al. (2019), "Resilient low voltage accelerators for high energy efficiency", HPCA;
read off the figure in Stutz et al. (2021), "Bit error robustness for energy-efficient DNN accelerators", MLSys."""
