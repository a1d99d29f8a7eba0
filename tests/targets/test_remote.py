from __future__ import annotations

import os
import signal
import threading
import uuid
from pathlib import Path

import pytest
from dask_processes import plain, processes, until

from hwbench.errors import InputError, TargetLostError, UnavailableError
from hwbench.integrity import file_sha256
from hwbench.targets import board, cluster, open_target, remote
from hwbench.targets.board import Depot
from hwbench.targets.cluster import Cluster, WorkerGoneError
from hwbench.targets.remote import RemoteTarget
from hwbench.worker.protocol import Job, Limits


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with processes(tmp_path_factory.mktemp("dask")) as started:
        address, _ = started.scheduler()
        for _ in range(2):
            started.worker(address)
        yield started, address


@pytest.fixture(scope="module")
def workers(running):
    opened = Cluster(running[1])
    until(lambda: len(opened.workers()) == 2)
    yield opened
    opened.close()


def both(workers, job, folder):
    """The job's result on a worker, after making sure that it is the one it has here."""
    here = open_target("local").run(job, folder / "here")
    there = RemoteTarget(workers).run(job, folder / "there")
    assert plain(there) == plain(here)
    assert there.usage.keys() == here.usage.keys()
    assert {path.name for path in there.folder.glob("*.npy")} == {path.name for path in here.folder.glob("*.npy")}
    return there


class Waiting(threading.Thread):
    """A job that goes on until it is let go, waited for in a thread."""

    def __init__(self, target, folder, scratch):
        super().__init__()
        self._target_, self._folder, self._scratch, self._name_ = target, folder, scratch, uuid.uuid4().hex
        self.result = self.raised = None
        self.start()

    def run(self):
        job = Job("sample_tasks:waits", {"name": self._name_})
        try:
            self.result = self._target_.run(job, self._folder / "job")
        except (TargetLostError, KeyboardInterrupt) as error:
            self.raised = error

    def worker(self, *before):
        """The Dask worker's process it runs under, which is none of those ``before``."""
        return until(lambda: {int(text) for file in self._began() if (text := file.read_text())} - set(before)).pop()

    def let_go(self):
        for file in self._began():
            file.with_name("go").touch()
        self.join()
        return self.result

    def _began(self):
        return list(self._scratch.rglob(self._name_))


def gone(pid):
    return not Path(f"/proc/{pid}").exists() or ") Z " in Path(f"/proc/{pid}/stat").read_text()


# What a job on another machine gives


def test_a_job_gives_there_what_it_gives_here(workers, tmp_path):
    assert both(workers, Job("sample_tasks:ok", {"numbers": [1, 2]}), tmp_path / "a").array("doubled").tolist() == [
        2,
        4,
    ]
    ended = both(workers, Job("sample_tasks:variants", variants=("a", "crash", "bb")), tmp_path / "b")
    assert ended.failed["crash"][0] == "crash"
    capped = Job("sample_tasks:allocates", {"mib": 400}, limits=Limits(memory_mib=200))
    assert both(workers, capped, tmp_path / "c").status == "oom"


def test_files_travel_once_and_stay_beside_each_other(workers, tmp_path):
    (tmp_path / "model").mkdir()
    contents = {"model.onnx": b"graph", "model.onnx.data": os.urandom(2 * cluster.CHUNK + 7), "empty": b""}
    paths = [tmp_path / "model" / name for name in contents]
    for path, content in zip(paths, contents.values(), strict=True):
        path.write_bytes(content)
    other = tmp_path / "x.npy"
    other.write_bytes(b"inputs")
    named = [str(paths[0]), str(other)]
    secret = tmp_path / "secret"
    secret.write_bytes(b"no file of the job")
    job = Job("sample_tasks:reads", {"files": named, "name": str(secret)}, files=(*map(str, paths), str(other)))
    result = RemoteTarget(workers).run(job, tmp_path / "job")
    assert result.data == {"sizes": [5, 6], "beside": ["empty", "model.onnx", "model.onnx.data"], "name": str(secret)}
    assert result.array("bytes").tobytes() == b"graphinputs"
    address = next(a for a in workers.workers() if not workers.call(a, board.lacking, [file_sha256(Path(named[0]))]))
    assert workers.call(address, board.lacking, [file_sha256(path) for path in (*paths, other)]) == []
    assert workers.call(address, board.lacking, [file_sha256(secret)]) == [file_sha256(secret)]


def test_what_a_job_leaves_there_is_removed(workers, tmp_path):
    assert RemoteTarget(workers).run(Job("sample_tasks:ok", {"numbers": [1]}), tmp_path).ok
    left = [workers.call(address, _jobs_left) for address in workers.workers()]
    assert left == [0, 0]


def _jobs_left(dask_worker):
    return len(list((Path(dask_worker.local_directory) / "hwbench" / "jobs").glob("*")))


def test_names_that_lead_out_of_the_folder_are_refused(workers, tmp_path):
    for name in ("../out", "/etc/passwd"):
        with pytest.raises(ValueError, match="is called"):
            workers.fetch("tcp://anywhere:1", "job", {name: 1}, tmp_path)


# Death


def test_a_job_whose_worker_is_killed_is_done_by_another(running, workers, tmp_path):
    started, address = running
    target = RemoteTarget(workers)
    waiting = Waiting(target, tmp_path, started.folder)
    first = waiting.worker()
    os.kill(first, signal.SIGKILL)
    second = waiting.worker(first)
    result = waiting.let_go()
    assert result.ok
    assert result.data == {"dask_worker": second}
    started.worker(address)
    until(lambda: len(workers.workers()) == 2)


def test_stop_kills_what_runs_there_and_refuses_more(running, workers, tmp_path):
    target = RemoteTarget(workers)
    waiting = Waiting(target, tmp_path, running[0].folder)
    parent = waiting.worker()
    children = Path(f"/proc/{parent}/task")
    (job,) = {pid for task in children.iterdir() for pid in (task / "children").read_text().split()}
    target.stop()
    waiting.join()
    assert isinstance(waiting.raised, KeyboardInterrupt)
    until(lambda: gone(job))
    assert not gone(parent)
    with pytest.raises(KeyboardInterrupt):
        target.run(Job("sample_tasks:ok", {"numbers": []}), tmp_path / "next")


@pytest.mark.slow
def test_a_job_whose_workers_all_die_is_a_crash_and_a_lost_scheduler_an_error(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(remote, "ATTEMPTS", 2)
    with processes(tmp_path) as started:
        address, scheduler = started.scheduler()
        started.worker(address, "--nanny")
        opened = Cluster(address)
        try:
            until(opened.workers)
            target = RemoteTarget(opened)
            waiting = Waiting(target, tmp_path, started.folder)
            os.kill(first := waiting.worker(), signal.SIGKILL)
            os.kill(waiting.worker(first), signal.SIGKILL)
            waiting.join()
            assert waiting.result.status == "crash"
            assert "2 times its Dask worker went away" in waiting.result.detail
            started.kill(scheduler)
            with pytest.raises(TargetLostError, match=f"the scheduler at {address} went away.*--resume"):
                target.run(Job("sample_tasks:ok", {"numbers": []}), tmp_path / "job")
            until(lambda: opened.client.status == "closed")
            with pytest.raises(TargetLostError):
                _ = target.parallel
            with pytest.raises(WorkerGoneError):
                opened.call("tcp://127.0.0.1:1", os.getpid)
            with pytest.raises(WorkerGoneError):
                opened.submit("tcp://127.0.0.1:1", board.serve_job, {}, "")
            opened.cancel({})
            assert "its scheduler is gone" in caplog.text
        finally:
            opened.close()


def test_no_worker_left_is_an_error_after_a_while(tmp_path):
    with processes(tmp_path) as started:
        address, _ = started.scheduler()
        opened = Cluster(address)
        try:
            with pytest.raises(UnavailableError, match=f"has no worker .start one with: dask worker {address}"):
                RemoteTarget(opened)
            worker = started.worker(address)
            until(opened.workers)
            target = RemoteTarget(opened, patience_s=1)
            waiting = Waiting(target, tmp_path, started.folder)
            waiting.worker()
            started.kill(worker)
            waiting.join()
            assert "has no worker any more" in str(waiting.raised)
        finally:
            opened.close()


def test_a_scheduler_that_does_not_answer(monkeypatch):
    monkeypatch.setattr(cluster, "CONNECT_S", 0.5)
    said = "no Dask scheduler answers at tcp://127.0.0.1:1: .*start one with: dask scheduler"
    with pytest.raises(UnavailableError, match=said):
        Cluster("tcp://127.0.0.1:1")


@pytest.mark.parametrize("address", ["nonsense", "foo://bar:1", "tcp://host", "host:8786"])
def test_what_is_no_address(address):
    with pytest.raises(InputError, match=f"'{address}' is not a scheduler's address; it has the form tcp://HOST:PORT"):
        Cluster(address)


# Which workers fit


def test_what_makes_numbers_differ_is_told():
    ours = board.fingerprint()
    assert board.differences(ours, ours) == ""
    other = {
        **ours,
        "hwbench": "0.0.1",
        "isa": [*ours["isa"][1:], "amx"],
        "packages": {"numpy": "1.0", "tensorrt": "11"},
    }
    told = board.differences(ours, other)
    assert f"hwbench 0.0.1, not {ours['hwbench']}" in told
    assert f"numpy 1.0, not {ours['packages']['numpy']}" in told
    assert f"a processor without {ours['isa'][0]} and with amx" in told
    assert "tensorrt" not in told
    assert board.differences(ours, {**ours, "machine": "aarch64", "isa": ["neon"]}).startswith("machine aarch64, not ")


# The worker's files


def test_the_depot_forgets_what_was_not_used_for_longest(tmp_path):
    depot = Depot(tmp_path / "depot")
    digests = {}
    for at, name in enumerate("abc"):
        content = name.encode() * 100
        path = tmp_path / name
        path.write_bytes(content)
        digests[name] = file_sha256(path)
        depot.receive(name, digests[name], content[:60], last=False)
        assert depot.missing(digests.values()) == [digests[name]]
        depot.receive(name, digests[name], content[60:], last=True)
        os.utime(tmp_path / "depot" / digests[name], (at, at))
    depot.place(digests["a"], tmp_path / "job" / "a")
    depot.trim(200)
    assert depot.missing(digests.values()) == [digests["b"]]
    depot.trim(0)
    assert depot.missing(digests.values()) == list(digests.values())
    assert (tmp_path / "job" / "a").read_bytes() == b"a" * 100


def test_a_damaged_file_is_not_kept(tmp_path):
    depot = Depot(tmp_path)
    with pytest.raises(ValueError, match="arrived damaged"):
        depot.receive("upload", "0" * 64, b"other", last=True)
    assert depot.missing(["0" * 64]) == ["0" * 64]
    assert list(tmp_path.iterdir()) == []
