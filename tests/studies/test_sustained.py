from __future__ import annotations

import threading
import time
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest

from hwbench import demo
from hwbench.backend import backends
from hwbench.studies.sustained import SustainedSettings, SustainedStudy
from hwbench.targets import limits, open_target
from hwbench.worker.protocol import Job, JobResult, Limits
from hwbench.worker.tasks.sustained import COLUMNS

SLICE = dict.fromkeys(COLUMNS, np.nan) | {"runs": 100, "run_s": 0.5, "clock_s": 0.5, "own_cpu_s": 0.5}


def result(tmp_path: Path, *slices: dict[str, float]) -> dict[str, JobResult]:
    """A result of three windows, each of ten equal slices."""
    table = np.repeat([[{**SLICE, **one}[name] for name in COLUMNS] for one in slices], 10, axis=0)
    table[:, COLUMNS.index("run_s")] *= np.tile(np.linspace(0.99, 1.01, 10), len(slices))
    np.save(tmp_path / "slices.npy", table)
    return {"sustained": JobResult("ok", tmp_path, {"warm_up": 1})}


def analysed(case, tmp_path, *slices):
    settings = SustainedSettings(windows=len(slices), minutes=1)
    return SustainedStudy().measure(case, settings, result(tmp_path, *slices)).rows


def test_the_last_window_is_held_against_the_first(make_case, tmp_path):
    rows = analysed(make_case(), tmp_path, {}, {"runs": 80}, {"runs": 50})
    assert rows[-1].metric == "sustained_ratio"
    assert rows[-1].value == pytest.approx(0.5)
    assert 0.45 < rows[-1].ci_low < rows[-1].ci_high < 0.55
    assert "nor frequency nor temperature" in rows[-1].detail
    assert [row.condition for row in rows[:-1]] == ['{"second": 0}', '{"second": 5}', '{"second": 10}']
    assert rows[0].value == pytest.approx(200, rel=0.01)


def test_a_disturbed_window_is_rejected_and_blames_nobody_else(make_case, tmp_path):
    quiet, loud = {"machine_cpu_s": 0.55}, {"machine_cpu_s": 0.9, "runs": 60}
    rows = analysed(make_case(), tmp_path, quiet, quiet, loud)
    assert (rows[2].status, rows[2].value) == ("skipped", None)
    assert "0.80 cores" in rows[2].detail
    assert rows[-1].value == pytest.approx(1)
    everything = analysed(make_case(), tmp_path, loud, loud, loud)
    assert (everything[-1].status, everything[-1].value) == ("unavailable", None)


@pytest.mark.parametrize(
    ("before", "after", "said"),
    [
        ({"frequency_mhz": 3000}, {"frequency_mhz": 1800}, "the processor's frequency fell from 3000 to 1800 MHz"),
        ({"gpu_frequency_mhz": 1900}, {"gpu_frequency_mhz": 900}, "the GPU's frequency fell from 1900 to 900 MHz"),
        ({}, {"temperature_c": 97, "temperature_limit_c": 95}, "hot: 97 °C"),
        ({"held_back_s": 0}, {"held_back_s": 0.25}, "a processor quota held it back for 50%"),
    ],
)
def test_what_held_it_back_is_named(make_case, tmp_path, before, after, said):
    rows = analysed(make_case(), tmp_path, before, before, {**after, "runs": 50})
    assert said in rows[-1].detail
    assert "tells why" not in rows[-1].detail


def test_the_load_outlasts_the_usual_time_limit(make_case):
    (job,) = SustainedStudy().plan(make_case(), SustainedSettings(minutes=30)).values()
    assert job.exclusive
    assert job.limits.timeout_s > 30 * 60
    assert job.params["slices"] * job.params["slice_s"] == pytest.approx(30 * 60)


@pytest.mark.slow
@pytest.mark.skipif(not limits.mechanism().cpu, reason="no processor quota can be enforced here")
def test_a_quota_stepped_down_half_way_is_seen_as_throttling(make_case, tmp_path):
    """A simulated throttle: the group of a real worker loses most of its processor time after half of the load."""
    inputs = tmp_path / "digits.npy"
    np.save(inputs, np.load(demo.DATA)["x"])
    job = Job(
        "hwbench.worker.tasks.sustained:run",
        {
            "model": str(demo.MODEL),
            "inputs": {onnx.load(demo.MODEL).graph.input[0].name: str(inputs)},
            "batch": 1,
            "slices": 30,
            "slice_s": 0.2,
        },
        backends.reference("onnxruntime"),
        {"intra_op_threads": 1},
        Limits(cpu_quota=1.5),
        exclusive=True,
        files=(str(demo.MODEL), str(inputs)),
    )
    ended = threading.Event()
    stepper = threading.Thread(target=step_down, args=(tmp_path, ended), daemon=True)
    stepper.start()
    made = open_target("local").run(job, tmp_path / "job")
    ended.set()
    stepper.join()
    assert made.ok, made.detail
    settings = SustainedSettings(windows=3, minutes=0.1, max_disturbance=100)
    last = SustainedStudy().measure(make_case(), settings, {"sustained": made}).rows[-1]
    assert last.ci_high < 0.8
    assert "throttled: a processor quota held it back" in last.detail


def step_down(folder: Path, ended: threading.Event) -> None:
    """Lower the quota of the worker's group to a tenth of a core, three seconds after the group was made."""
    while not ended.wait(0.05):
        groups = [path for path in limited_groups() if path.parent.exists()]
        if groups:
            time.sleep(4)
            for path in groups:
                period = (
                    path.with_name("cpu.cfs_period_us").read_text() if path.name == "cpu.cfs_quota_us" else "100000"
                )
                tenth = int(period) // 10
                path.write_text(str(tenth) if path.name == "cpu.cfs_quota_us" else f"{tenth} {period}")
            return


def limited_groups() -> list[Path]:
    """The quota files of the control groups that this process's children are in and it is not."""
    own = Path("/proc/self/cgroup").read_text()
    found: set[Path] = set()
    for child in psutil.Process().children(recursive=True):
        for line in Path(f"/proc/{child.pid}/cgroup").read_text().splitlines():
            if line in own:
                continue
            _, controllers, path = line.split(":", 2)
            for root in (f"/sys/fs/cgroup/{controllers}", "/sys/fs/cgroup/cpu", "/sys/fs/cgroup"):
                found |= {
                    file for name in ("cpu.cfs_quota_us", "cpu.max") if (file := Path(f"{root}{path}/{name}")).is_file()
                }
    return list(found)
