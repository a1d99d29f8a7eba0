from __future__ import annotations

import json
import subprocess
import sys

import numpy as np
import pytest

from hwbench.errors import InputError
from hwbench.report.pytest_benchmark import statistics, write_pytest_benchmark


@pytest.mark.parametrize("count", [1, 2, 3, 4, 5, 6, 7, 9, 11, 100, 401, 402, 403])
def test_statistics_are_pytest_benchmarks_own(count):
    from pytest_benchmark.stats import Stats

    seconds = 1e-3 * np.random.default_rng(count).gamma(2, size=count)
    own = Stats()
    for value in seconds:
        own.update(float(value))
    assert statistics(seconds) == pytest.approx({**own.as_dict(), "outliers": statistics(seconds)["outliers"]})
    assert statistics(seconds)["outliers"] == own.outliers


def test_pytest_benchmark_compares_two_runs(run, timings, tmp_path):
    first = write_pytest_benchmark(run, timings, tmp_path / "0001_a.json")
    second = write_pytest_benchmark(run, {name: 2 * value for name, value in timings.items()}, tmp_path / "0002_b.json")
    command = [
        sys.executable,
        "-m",
        "pytest_benchmark",
        "compare",
        str(first),
        str(second),
        "--columns=median,ops,rounds",
        "--group-by=name",
    ]
    shown = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert shown.returncode == 0, shown.stderr
    for name in timings:
        assert f"benchmark {name!r}: 2 tests" in shown.stdout
    assert shown.stdout.count("401") >= 4


def test_names_give_group_and_profile(run, timings, tmp_path):
    content = json.loads(
        write_pytest_benchmark(run, {**timings, "plain": np.ones(3)}, tmp_path / "benchmark.json").read_text()
    )
    found = {entry["name"]: (entry["group"], entry["param"]) for entry in content["benchmarks"]}
    assert found == {
        "latency[cpu-fp32]": ("latency", "cpu-fp32"),
        "latency[cpu-int8]": ("latency", "cpu-int8"),
        "plain": ("plain", None),
    }
    assert content["machine_info"]["cpu"]["brand_raw"] == "Intel(R) Xeon(R) Processor"


@pytest.mark.parametrize("seconds", [np.array([]), np.array([1.0, np.nan]), np.array([np.inf])])
def test_series_without_statistics_are_refused(run, seconds, tmp_path):
    path = tmp_path / "benchmark.json"
    with pytest.raises(InputError, match=r"timings 'latency\[x\]'"):
        write_pytest_benchmark(run, {"latency[x]": seconds}, path)
    assert not path.exists()
