from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import psutil
import pytest
from dask_processes import processes, until
from distributed import LocalCluster
from models import small_cnn
from polars.testing import assert_frame_equal

from hwbench.api import Run
from hwbench.errors import TargetLostError
from hwbench.preparation import prepare
from hwbench.runner import execute
from hwbench.spec import make_spec
from hwbench.targets import cluster

TRIALS, SHARD = 24, 6


@pytest.fixture(scope="module")
def case(tmp_path_factory):
    folder = tmp_path_factory.mktemp("campaign")
    onnx.save(small_cnn(), folder / "model.onnx")
    x = np.random.default_rng(0).standard_normal((12, 1, 8, 8)).astype(np.float32)
    np.savez(folder / "data.npz", x=x, y=np.full(12, 2))
    return folder


def campaign(case, out, resume=False, **given):
    spec = make_spec(
        model=str(case / "model.onnx"),
        data={"source": str(case / "data.npz")},
        profiles=["cpu-int8"],
        studies=["faults"],
        settings={"faults": {"trials": TRIALS, "shard": SHARD}},
        **given,
    )
    with prepare(spec) as prepared:
        execute(prepared, case / out, resume=resume)
    return Run.open(case / out)


@pytest.fixture(scope="module")
def local(case):
    return campaign(case, "local")


def assert_same(run, local):
    assert_frame_equal(run.table, local.table)
    parts = [pl.read_parquet(one.path / "trials" / "cpu-int8" / "part-*.parquet").sort("trial") for one in (run, local)]
    assert_frame_equal(*parts)
    assert parts[0].height == TRIALS


class WhenBegun(threading.Thread):
    """Does something once a shard of a run is finished."""

    def __init__(self, out, act):
        super().__init__()
        self._out, self._act = out, act
        self.start()

    def run(self):
        until(
            lambda: any(
                (job / "done.json").exists() for job in self._out.glob("jobs/*") if (job / "counts.npy").exists()
            )
        )
        self._act()


def children(pid):
    return [child for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()]


@pytest.mark.slow
def test_a_campaign_on_a_cluster_is_the_local_one_though_a_worker_is_killed(case, local):
    killed = []

    with LocalCluster(n_workers=2, threads_per_worker=1, processes=True, dashboard_address=None) as dask:
        pids = [nanny.pid for nanny in dask.workers.values()]

        def kill_one_that_works():
            pid = until(lambda: next((pid for pid in pids if children(pid)), None))
            os.kill(pid, signal.SIGKILL)
            killed.append(pid)

        killer = WhenBegun(case / "cluster", kill_one_that_works)
        run = campaign(case, "cluster", scheduler=dask.scheduler_address, jobs=1)
        killer.join()
        assert killed
        assert killed[0] not in [nanny.pid for nanny in dask.workers.values()]
    assert_same(run, local)


@pytest.mark.slow
def test_a_lost_scheduler_leaves_a_run_that_can_be_resumed_here(case, local, tmp_path):
    with processes(tmp_path) as started:
        address, scheduler = started.scheduler()
        started.worker(address)
        started.wait_for_workers(address)
        WhenBegun(case / "lost", lambda: started.kill(scheduler))
        with pytest.raises(TargetLostError, match=f"the scheduler at {address} went away.*--resume"):
            campaign(case, "lost", scheduler=address)
    left = Run.open(case / "lost")
    assert left.record["state"] == "interrupted"
    assert left.record["profiles"]["cpu-int8"]["status"] == "error"
    (row,) = [row for row in left.rows if row.study == "faults"]
    assert (row.metric, row.status) == ("sdc_rate", "error")
    assert "went away" in row.detail
    assert list((case / "lost").glob("jobs/*/counts.npy"))
    assert_same(campaign(case, "lost", resume=True), local)


@pytest.mark.parametrize("command", ["run", "faults"])
def test_an_unreachable_scheduler_leaves_earlier_results_alone(hw, model, data, tmp_path, monkeypatch, command):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    earlier = tmp_path / "run"
    earlier.mkdir()
    (earlier / "run.json").write_text('{"schema_version": 1, "state": "complete"}')
    profile = ["--profile" if command == "faults" else "--profiles", "cpu-fp32"]
    ended = hw(
        command, model, "--data", data, *profile, "--scheduler", "tcp://127.0.0.1:1", "--out", earlier, "--overwrite", "--quiet"
    )  # fmt: skip
    assert ended.code == 2
    assert "error: no Dask scheduler answers at tcp://127.0.0.1:1" in ended.err
    assert "start one with: dask scheduler" in ended.err
    assert [path.name for path in earlier.iterdir()] == ["run.json"]


def test_the_scheduler_is_a_key_of_a_specification(hw, model, data, tmp_path):
    spec = {"model": "model.onnx", "data": "data.npz", "profiles": ["cpu-fp32"], "scheduler": "somewhere"}
    (tmp_path / "spec.toml").write_text("\n".join(f"{key} = {json.dumps(value)}" for key, value in spec.items()))
    ended = hw("run", tmp_path / "spec.toml", "--out", tmp_path / "run", "--quiet")
    assert ended.code == 2
    assert "'somewhere' is not a scheduler's address" in ended.err
    assert not (tmp_path / "run").exists()


@pytest.fixture
def beyond_this_machine():
    """An address of this machine that others reach, with nobody behind it."""
    found = [
        address.address
        for each in psutil.net_if_addrs().values()
        for address in each
        if address.family == socket.AF_INET
    ]
    outer = [address for address in found if not address.startswith("127.")]
    if not outer:
        pytest.skip("this machine has a loopback interface only")
    return f"tcp://{outer[0]}:1"


@pytest.mark.slow
def test_plain_text_beyond_this_machine_is_a_warning(process, model, data, tmp_path, beyond_this_machine):
    said = f"{beyond_this_machine} neither encrypts nor authenticates: whoever reaches this port can run code"
    ended = process(
        "run", model, "--data", data, "--profiles", "cpu-fp32", "--scheduler", beyond_this_machine, "--quiet"
    )
    assert ended.returncode == 2
    assert said in ended.stderr.decode()
    with processes(tmp_path) as started:
        arguments = ["targets", "serve", "--resource", "a", "--scheduler", beyond_this_machine]
        started.start([sys.executable, "-P", "-m", "hwbench", *arguments])
        until(lambda: said in (tmp_path / "process-0.log").read_text())


def test_certificates_need_an_address_with_tls(hw, model, data, tmp_path):
    options = (
        "--profiles",
        "cpu-fp32",
        "--scheduler",
        "tcp://127.0.0.1:1",
        "--tls",
        tmp_path,
        "--out",
        tmp_path / "run",
    )
    ended = hw("run", model, "--data", data, *options, "--quiet")
    assert ended.code == 2
    assert "tcp://127.0.0.1:1 is not encrypted; its address must begin with tls://" in ended.err
    ended = hw("targets", "serve", "--resource", "a", "--scheduler", "tls://127.0.0.1:1", "--tls", tmp_path)
    assert ended.code == 2
    assert f"{tmp_path / 'ca.pem'}: missing; TLS needs ca.pem, cert.pem and key.pem in one folder" in ended.err
