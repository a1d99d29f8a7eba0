from __future__ import annotations

import ipaddress
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import psutil
import pytest
from dask_processes import DEADLINE_S, processes, until
from models import small_cnn
from shared_run import LAUNCHES

import hwbench
from hwbench.errors import SpecError, UnavailableError
from hwbench.profile import load_profile
from hwbench.targets import Targets, sandbox, serve
from hwbench.targets.cluster import Cluster
from hwbench.targets.transport import TlsFiles
from hwbench.worker.protocol import Job, Limits

A, B = {"kind": "remote", "resource": "board-a"}, {"kind": "remote", "resource": "board-b"}


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dask")
    with processes(folder) as started:
        address, _ = started.scheduler()
        for name in ("a", "b"):
            started.board(f"board-{name}", address, BOARD=name)
        started.wait_for_workers(address, "board-a", "board-b")
        yield started, address


@pytest.fixture(scope="module")
def boards(running):
    """Two boards of different resources; the scheduler's address."""
    return running[1]


def opened(targets, machine):
    try:
        return targets.of(machine)
    except UnavailableError:
        return None


def test_each_job_goes_to_the_board_it_is_for(boards, tmp_path):
    with Targets(boards, boards=True) as targets:
        found = [
            targets.run(Job("sample_tasks:where", machine=machine), tmp_path / "job").data for machine in (A, B, A)
        ]
        here = targets.run(Job("sample_tasks:where"), tmp_path / "job", anywhere=True).data
        assert targets.helping == 0
        about = targets.of(A).describe()
    assert [one["board"] for one in found] == ["a", "b", "a"]
    assert here == {"board": None, "dask_worker": os.getpid()}  # boards do not do what is for the local machine
    assert about["resource"] == "board-a"
    assert about["host"]["cores_logical"] == os.cpu_count()
    assert about["packages"]["numpy"] == np.__version__


def test_a_resource_nobody_offers_is_unavailable_with_the_command_that_helps(boards):
    with Targets(boards, boards=True) as targets, pytest.raises(UnavailableError) as raised:
        targets.of({"kind": "remote", "resource": "jetson"})
    assert raised.value.reason == f"no worker offers resource 'jetson' at {boards}"
    assert raised.value.hint == f"start it with: hwbench targets serve --resource jetson --scheduler {boards}"


@pytest.fixture
def case(tmp_path):
    """A model, data, and two profiles of boards."""
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((12, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.full(12, 2))
    for name in ("a", "none"):
        target = f'[target]\nkind = "remote"\nresource = "board-{name}"\nmemory_mib = 512\n'
        (tmp_path / f"on-{name}.toml").write_text(f'extend = "cpu-int8"\n{target}')
    return tmp_path


@pytest.mark.slow
def test_a_run_on_a_board_gives_the_boards_figures(boards, case):
    run = hwbench.run(
        case / "model.onnx",
        data=case / "data.npz",
        profiles=["cpu-int8", str(case / "on-a.toml"), str(case / "on-none.toml")],
        studies=["accuracy", "latency"],
        settings={"latency": LAUNCHES},
        scheduler=boards,
        out=case / "run",
    )
    here, there = ([row for row in run.rows if row.profile == name] for name in ("cpu-int8", "on-a"))
    assert {row.status for row in (*here, *there)} == {"ok"}
    figures = [
        {(row.metric, row.condition): (row.value, row.ci_low, row.detail) for row in rows if row.study == "accuracy"}
        for rows in (here, there)
    ]
    assert figures[0] == figures[1]
    assert any(row.metric == "p50_ms" and row.value > 0 for row in there)
    entries = run.record["profiles"]
    assert "machine" not in entries["cpu-int8"]["ran"]
    assert entries["on-a"]["ran"]["machine"]["resource"] == "board-a"
    assert entries["on-a"]["ran"]["machine"]["host"] == run.record["host"]
    assert run.record["host"]["sandbox"] == sandbox.describe()
    said = f"no worker offers resource 'board-none' at {boards}"
    assert (entries["on-none"]["status"], entries["on-none"]["detail"]) == ("unavailable", said)
    assert {row.status for row in run.rows if row.profile == "on-none"} == {"unavailable"}


def test_limits_are_enforced_on_the_board(boards, tmp_path, with_cgroups):
    job = Job("sample_tasks:allocates", {"mib": 400}, limits=Limits(memory_mib=200), machine=A)
    with Targets(boards, boards=True) as targets:
        result = targets.run(job, tmp_path / "job")
    assert (result.status, result.usage["cap_mib"]) == ("oom", 200)


def test_a_board_takes_a_scheduler(case):
    with pytest.raises(UnavailableError, match=r"no scheduler to find 'board-a' by .--scheduler tcp://"):
        Targets().of(A)
    with pytest.raises(SpecError, match=r"on-a runs on the board 'board-a'.*give its address: --scheduler"):
        hwbench.run(case / "model.onnx", data=case / "data.npz", profiles=[str(case / "on-a.toml")], out=case / "run")
    assert not (case / "run").exists()


@pytest.mark.parametrize("target", ['kind = "remote"', 'resource = "a"', 'kind = "remote"\nresource = "a b"'])
def test_targets_that_contradict_themselves(tmp_path, target):
    (tmp_path / "p.toml").write_text(f'extend = "cpu-fp32"\n[target]\n{target}\n')
    with pytest.raises(hwbench.HwbenchError, match="target"):
        load_profile(str(tmp_path / "p.toml"))


@pytest.mark.slow
def test_a_board_that_vanishes_is_tried_again_and_then_unavailable(running, tmp_path):
    started, address = running
    process = started.board("board-c", address)
    machine = {**A, "resource": "board-c"}
    job = Job("sample_tasks:where", machine=machine)
    with Targets(address, boards=True) as targets:
        target = until(lambda: opened(targets, machine))
        first = targets.run(job, tmp_path / "job")
        os.kill(first.data["dask_worker"], signal.SIGKILL)  # its nanny starts another
        target._patience_s = DEADLINE_S
        assert targets.run(job, tmp_path / "job").data["dask_worker"] != first.data["dask_worker"]
        started.kill(process)
        target._patience_s = 1.0
        result = targets.run(job, tmp_path / "job")
    assert result.status == "unavailable"
    assert result.detail.startswith(f"no worker offers resource 'board-c' at {address} (start it with: hwbench targets")


@pytest.mark.slow
def test_a_board_with_an_older_hwbench_is_refused_with_both_versions(running, tmp_path):
    old = tmp_path / "path" / "hwbench_ml-0.0.9.dist-info"
    old.mkdir(parents=True)
    (old / "METADATA").write_text("Metadata-Version: 2.1\nName: hwbench-ml\nVersion: 0.0.9\n")
    started, address = running
    started.board("board-old", address, PYTHONPATH=str(tmp_path / "path"))
    with Targets(address, boards=True) as targets:
        until(lambda: targets._cluster.workers("board-old"))
        said = f"has hwbench 0.0.9, this machine {hwbench.__version__} .*pip install hwbench-ml=={hwbench.__version__}"
        with pytest.raises(UnavailableError, match=said):
            targets.of({**A, "resource": "board-old"})


def certificates(folder: Path) -> Path:
    """The folder that the README's two commands make."""
    readme = (Path(__file__).parents[2] / "README.md").read_text().splitlines()
    commands = [line for line in readme if line.startswith(("mkdir tls ", "cp tls/"))]
    assert len(commands) == 2
    subprocess.run(["/bin/sh", "-ec", "\n".join(commands)], cwd=folder, check=True, capture_output=True)
    return folder / "tls"


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("openssl") is None, reason="makes its certificates with openssl")
def test_with_tls_only_who_has_the_folder_takes_part(case, tmp_path):
    tls = certificates(tmp_path)
    with processes(tmp_path) as started:
        address, _ = started.scheduler(*TlsFiles.of(tls).flags())
        assert address.startswith("tls://")
        started.board("board-a", address, "--tls", str(tls), BOARD="secret")
        with Targets(address, boards=True, tls=str(tls)) as targets:
            until(lambda: opened(targets, A))
            assert targets.run(Job("sample_tasks:where", machine=A), tmp_path / "job").data["board"] == "secret"
        given = {"data": case / "data.npz", "profiles": [str(case / "on-a.toml")], "studies": ["accuracy"]}
        run = hwbench.run(case / "model.onnx", **given, scheduler=address, tls=str(tls), out=case / "run")
        assert {row.status for row in run.rows} == {"ok"}
        (tmp_path / "others").mkdir()
        for said, folder in (
            ("--tls", ""),
            ("certificate|CERTIFICATE|alert|closed", str(certificates(tmp_path / "others"))),
        ):
            with pytest.raises(UnavailableError, match=f"(?s)no Dask scheduler answers at {address}.*({said})"):
                Cluster(address, folder)
        with pytest.raises(UnavailableError, match="no Dask scheduler answers"):
            Cluster(address.replace("tls:", "tcp:"))


def test_a_board_listens_where_the_scheduler_reaches_it_only(running):
    process = running[0].board("board-listening", running[1])
    with Targets(running[1], boards=True) as targets:
        until(lambda: opened(targets, {**A, "resource": "board-listening"}))
    family = [psutil.Process(process.pid), *psutil.Process(process.pid).children(recursive=True)]
    listening = [one.laddr.ip for member in family for one in member.net_connections() if one.status == "LISTEN"]
    assert set(listening) == {"127.0.0.1"}
    running[0].kill(process)


def test_serving_takes_a_workers_dependencies_only():
    code = (
        "import sys, hwbench.targets.serve, hwbench.targets.board; "
        "print([name for name in ('pydantic', 'polars', 'scipy', 'typer', 'rich', 'onnx_ir', 'altair') if name in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_the_command_of_a_board():
    found = serve.command("jetson", "tls://localhost:1")
    assert found[3:7] == ["distributed.cli.dask_worker", "tls://localhost:1", "--host", found[6]]
    assert ipaddress.ip_address(found[6]).is_loopback
    assert "jetson=1" in found
    assert "--tls-ca-file" not in found
