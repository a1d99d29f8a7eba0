from __future__ import annotations

from typing import Any

import numpy as np
import polars as pl
import pytest
from synthetic_run import make_rows, make_run, make_verdicts

from hwbench.table import to_frame
from hwbench.verdict import Verdict


@pytest.fixture(scope="session")
def run() -> dict[str, Any]:
    return make_run()


@pytest.fixture(scope="session")
def table() -> pl.DataFrame:
    return to_frame(make_rows())


@pytest.fixture(scope="session")
def verdicts() -> list[Verdict]:
    return make_verdicts()


@pytest.fixture(scope="session")
def timings() -> dict[str, np.ndarray]:
    generator = np.random.default_rng(0)
    return {f"latency[{name}]": 1e-3 * generator.gamma(50, 0.01, size=401) for name in ("cpu-fp32", "cpu-int8")}
