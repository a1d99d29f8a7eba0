"""Bit error rates: the built-in table, interpolation, users' tables and what is wrong with them, soft errors."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.errors import InputError
from hwbench.faults.error_rates import (
    DRAM_FIT_PER_MBIT,
    SRAM_14NM,
    TemperatureTable,
    VoltageTable,
    expected_upsets,
    relative_energy,
    upset_rate,
)


@pytest.fixture
def table(tmp_path):
    def write(text):
        path = tmp_path / "table.csv"
        path.write_text(text)
        return path

    return write


def test_the_built_in_table_gives_its_points():
    assert SRAM_14NM.exposures == (1.0, 0.958, 0.917, 0.875, 0.833, 0.792, 0.75)
    assert [SRAM_14NM.rate(voltage) for voltage in SRAM_14NM.exposures] == [
        0, 1.9e-6, 6.9e-5, 1.29e-3, 1.12e-2, 5.6e-2, 0.206
    ]  # fmt: skip


def test_between_points_the_logarithm_is_linear():
    middle = SRAM_14NM.rate((0.875 + 0.917) / 2)
    assert middle == pytest.approx(math.sqrt(1.29e-3 * 6.9e-5))
    assert SRAM_14NM.rate((0.958 + 1) / 2) == pytest.approx(1.9e-6 / 2)


@given(st.floats(0.75, 1), st.floats(0.75, 1))
def test_the_rate_never_rises_with_the_voltage(one, other):
    low, high = sorted((one, other))
    assert SRAM_14NM.rate(low) >= SRAM_14NM.rate(high) * (1 - 1e-12)


@pytest.mark.parametrize("voltage", [0.7, 1.01, math.nan])
def test_a_voltage_outside_the_table_is_refused_with_its_range(voltage):
    with pytest.raises(InputError, match=r"covers 0\.75 to 1 \(V/Vmin\)"):
        SRAM_14NM.rate(voltage)


def test_a_users_table_in_any_order(table):
    read = VoltageTable.read(table("ber,voltage,chip\n1e-2,0.8,a\n0,1,b\n1e-4,0.9,c\n"))
    assert read.points == ((0.8, 1e-2), (1, 0), (0.9, 1e-4))
    assert read.exposures == (1, 0.9, 0.8)
    assert read.rate(0.85) == pytest.approx(1e-3)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no column 'ber'"),
        ("voltage,rate\n1,0\n", "no column 'ber'"),
        ("voltage,ber\n1,0\n", "two points or more, not 1"),
        ("voltage,ber\n1,0\n0.9,often\n", "row 3: 'often' is not a number"),
        ("voltage,ber\n1,0\n0.9\n", "row 3: None is not a number"),
        ("voltage,ber\n1,0\n-0.9,1e-3\n", "row 3: a voltage is a number above 0, not -0.9"),
        ("voltage,ber\n1,0\nnan,1e-3\n", "row 3: a voltage is a number above 0, not nan"),
        ("voltage,ber\n1,0\n0.9,0.6\n", r"row 3: a bit error rate lies in \[0, 0.5\], not 0.6"),
        ("voltage,ber\n1,0\n0.9,nan\n", r"row 3: a bit error rate lies in \[0, 0.5\], not nan"),
        ("voltage,ber\n1,0\n0.9,1e-3\n0.9,1e-4\n", "row 3 and row 4 give the same voltage 0.9"),
        (
            "voltage,ber\n0.9,1e-5\n1,1e-4\n",
            r"row 3: the rate 0.0001 at 1 is above the rate 1e-05 at the worse voltage 0.9 \(row 2\)",
        ),
    ],
)
def test_a_table_that_cannot_be_is_refused_with_its_row(table, text, message):
    path = table(text)
    with pytest.raises(InputError, match=message) as caught:
        VoltageTable.read(path)
    assert str(path) in str(caught.value)


def test_a_file_that_is_no_table(tmp_path):
    with pytest.raises(InputError, match=r"missing\.csv: cannot be read: No such file"):
        VoltageTable.read(tmp_path / "missing.csv")
    (tmp_path / "binary.csv").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"binary\.csv: not a readable CSV file"):
        VoltageTable.read(tmp_path / "binary.csv")


def test_energy_follows_the_square_of_the_voltage():
    assert relative_energy(1) == 1
    assert relative_energy(0.5) == 0.25


def test_upsets_of_a_known_memory():
    # 70,000 errors per 10⁹ hours and Mbit: a GiB (8192 Mbit) sees 0.573 an hour.
    assert expected_upsets(DRAM_FIT_PER_MBIT[1], 1, 8 * 2**30) == pytest.approx(0.57344)


@given(st.floats(1, 1e6), st.floats(1, 1e5))
def test_wrong_bits_are_upset_bits_where_upsets_are_few(fit, hours):
    mean = expected_upsets(fit, hours, 2**20)
    assert upset_rate(fit, hours) * 2**20 == pytest.approx(mean, rel=2 * mean / 2**20)


def test_a_bit_is_wrong_after_an_odd_number_of_upsets():
    fit, hours = 1e9, 2**19  # half an upset a bit
    upsets = np.random.default_rng(0).poisson(expected_upsets(fit, hours, 1), 400_000)
    assert np.mean(upsets % 2) == pytest.approx(upset_rate(fit, hours), abs=5 * 0.5 / math.sqrt(upsets.size))
    assert upset_rate(1e9, 1e9) == 0.5


def test_of_temperatures_the_higher_one_is_worse():
    table = TemperatureTable(((85.0, 1e-5), (45.0, 0.0), (65.0, 1e-7)))
    assert table.exposures == (45, 65, 85)
    assert table.rate(75) == pytest.approx(1e-6)
    assert table.rate(55) == pytest.approx(5e-8)
    with pytest.raises(InputError, match=r"temperature_c 90: the table covers 45 to 85 \(°C\)"):
        table.rate(90)
    with pytest.raises(
        InputError, match=r"the rate 0\.001 at 45 is above the rate 1e-05 at the worse temperature_c 85"
    ):
        TemperatureTable(((45.0, 1e-3), (85.0, 1e-5)))
