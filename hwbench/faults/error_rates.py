"""How often a memory's bits are wrong: against its supply voltage, and after hours of soft errors."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from hwbench.errors import InputError

# Of a cell that reads at random, half the bits are wrong: no memory is worse.
MAX_RATE = 0.5
DRAM_FIT_PER_MBIT = (25_000.0, 70_000.0)
"""DRAM errors in the field per 10⁹ device-hours and Mbit, from lowest to highest: Schroeder, Pinheiro and Weber (2009),
"DRAM errors in the wild: a large-scale field study", SIGMETRICS."""
MBIT = 1 << 20
_DEVICE_HOURS = 1e9


@dataclass(frozen=True)
class VoltageTable:
    """Bit error rates of a memory against its supply voltage.

    Attributes:
        points: (voltage, bit error rate). Voltages are relative to Vmin, the lowest without errors; rates do not rise with
            the voltage.

    Raises:
        InputError: Fewer than two points, or one that cannot be; with its number, counted from 1.
    """

    points: tuple[tuple[float, float], ...]

    def __post_init__(self) -> None:
        _check_points([(f"point {number}", *point) for number, point in enumerate(self.points, 1)], "voltage table")

    @classmethod
    def read(cls, path: Path) -> VoltageTable:
        """Read a CSV file with the columns ``voltage`` and ``ber``.

        Raises:
            InputError: The file cannot be read or a row cannot be used; with its line.
        """
        try:
            with path.open(newline="", encoding="utf-8-sig") as file:
                reader = csv.DictReader(file)
                missing = {"voltage", "ber"} - set(reader.fieldnames or ())
                if missing:
                    raise InputError(f"{path}: no column {min(missing)!r}; the first row has to name voltage and ber")
                rows = [(f"row {reader.line_num}", row["voltage"], row["ber"]) for row in reader]
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise InputError(f"{path}: not a readable CSV file: {error}") from None
        points = [(where, _number(path, where, voltage), _number(path, where, ber)) for where, voltage, ber in rows]
        _check_points(points, str(path))
        return cls(tuple((voltage, ber) for _, voltage, ber in points))

    @property
    def voltages(self) -> tuple[float, ...]:
        """The voltages it knows, highest first."""
        return tuple(sorted((voltage for voltage, _ in self.points), reverse=True))

    def rate(self, voltage: float) -> float:
        """The bit error rate at a voltage: the rate's logarithm is interpolated linearly; next to a rate of 0, the rate.

        Raises:
            InputError: The voltage is outside the table.
        """
        points = sorted(self.points)
        if not points[0][0] <= voltage <= points[-1][0]:
            raise InputError(
                f"no bit error rate is known at voltage {voltage:g}: the table covers {points[0][0]:g} to "
                f"{points[-1][0]:g} (V/Vmin); stay inside, or give a table that reaches there"
            )
        for (low, high_rate), (high, low_rate) in pairwise(points):
            if voltage in (low, high):
                return high_rate if voltage == low else low_rate
            if low < voltage < high:
                share = (voltage - low) / (high - low)
                if low_rate == 0:
                    return high_rate * (1 - share)
                return math.exp((1 - share) * math.log(high_rate) + share * math.log(low_rate))
        raise AssertionError("unreachable: the voltage lies between two points")


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


def _check_points(points: Sequence[tuple[str, float, float]], source: str) -> None:
    """Raise `InputError` unless (where, voltage, rate) points make a table."""
    if len(points) < 2:
        raise InputError(f"{source}: a voltage table needs two points or more, not {len(points)}")
    for where, voltage, rate in points:
        if not (math.isfinite(voltage) and voltage > 0):
            raise InputError(f"{source}: {where}: a voltage is a positive number, not {voltage:g}")
        if not 0 <= rate <= MAX_RATE:
            raise InputError(f"{source}: {where}: a bit error rate lies in [0, {MAX_RATE}], not {rate:g}")
    ordered = sorted(points, key=lambda point: point[1])
    for (where_low, low, high_rate), (where, high, low_rate) in pairwise(ordered):
        if low == high:
            raise InputError(f"{source}: {where_low} and {where} give the same voltage {low:g}; keep one of them")
        if low_rate > high_rate:
            raise InputError(
                f"{source}: {where}: the rate {low_rate:g} at {high:g} is above the rate {high_rate:g} at the lower voltage "
                f"{low:g} ({where_low}); a bit that fails at one voltage fails at every lower one"
            )


# Made last: a table checks itself.
SRAM_14NM = VoltageTable(
    ((1.0, 0.0), (0.958, 1.9e-6), (0.917, 6.9e-5), (0.875, 1.29e-3), (0.833, 1.12e-2), (0.792, 5.6e-2), (0.75, 0.206))
)
"""SRAM arrays in 14 nm: Chandramoorthy et al. (2019), "Resilient low voltage accelerators for high energy efficiency", HPCA;
read off the figure in Stutz et al. (2021), "Bit error robustness for energy-efficient DNN accelerators", MLSys."""
