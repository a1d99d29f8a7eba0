import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from hwbench.errors import UnknownNameError
from hwbench.targets import Targets, open_target
from hwbench.worker.protocol import STOPPED, Job, Limits

DEADLINE_S = 60.0


def run(task, folder, params=(), **job):
    return open_target("local").run(Job(f"sample_tasks:{task}", dict(params), **job), folder)


def until(condition):
    deadline = time.monotonic() + DEADLINE_S
    while not (value := condition()):
        assert time.monotonic() < deadline, "nothing happened"
        time.sleep(0.02)
    return value


def gone(pid):
    try:
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    except FileNotFoundError:
        return True


def no_group_left(parent):
    open_target("local")  # removes what a parent that was killed left
    return not list(Path("/sys/fs/cgroup").rglob(f"hwbench-{parent}-*"))


def pid_in(folder):
    path = folder / "pid"
    return until(lambda: path.exists() and path.read_text())


def test_job_is_carried_out_in_a_folder_with_spaces(tmp_path):
    result = run("ok", tmp_path / "a job" / "of mine", {"numbers": [1, 2]}, options={"threads": 1})
    assert result.ok, result.detail
    assert result.data == {"options": {"threads": 1}}
    assert result.array("doubled").tolist() == [2, 4]
    assert 0 < result.usage["anon_mib"] < result.usage["peak_mib"]
    assert "mechanism" not in result.usage


def test_folder_may_be_relative(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert run("ok", Path("job"), {"numbers": [1]}).array("doubled").tolist() == [2]


@pytest.mark.parametrize(
    ("task", "status", "detail"),
    [
        ("refuses", "unavailable", "no such device (buy one)"),
        ("bad_model", "error", "model.onnx: not an ONNX file"),
        ("raises", "error", "ValueError: a wrong number"),
        ("memory_error", "oom", "MemoryError"),
        ("runtime_out_of_memory", "oom", "std::bad_alloc"),
        ("library_out_of_memory", "oom", "failed to map segment"),
        ("returns_no_json", "error", "not JSON serializable"),
        ("segfault", "crash", "died of SIGSEGV (3 times)\nabout to die"),
        ("exits", "error", "exit status 3 and no result"),
        ("nowhere", "error", "nowhere"),
    ],
)
def test_every_end_is_classified(tmp_path, task, status, detail):
    result = run(task, tmp_path)
    assert (result.status, result.ok) == (status, False)
    assert detail in result.detail


def test_traceback_is_kept_for_unexpected_errors_only(tmp_path):
    assert "sample_tasks.py" in run("raises", tmp_path / "a").detail
    assert "sample_tasks.py" not in run("bad_model", tmp_path / "b").detail


def test_worker_that_hangs_is_killed(tmp_path):
    result = run("sleeps", tmp_path, limits=Limits(timeout_s=3))
    assert (result.status, result.detail) == ("timeout", "took longer than 3 s (2 times)")
    assert gone(pid_in(tmp_path))


def test_nothing_of_an_earlier_attempt_is_read(tmp_path):
    assert run("variants", tmp_path, variants=("a",)).ok
    assert run("ok", tmp_path, {"numbers": [1]}).ok
    assert run("exits", tmp_path).status == "error"
    assert run("variants", tmp_path, variants=("a", "hang"), limits=Limits(timeout_s=3)).data == {
        "variants": {"a": {"length": 1}}
    }


def test_children_of_a_worker_end_with_it(tmp_path):
    result = run("leaves_child", tmp_path)
    assert result.ok
    assert until(lambda: gone(result.data["pid"]))


def test_a_variant_that_dies_costs_that_variant_alone(tmp_path):
    names = ("a", "crash", "bb", "hang", "raise", "memory", "ccc")
    result = run("variants", tmp_path, variants=names, limits=Limits(timeout_s=5))
    assert result.ok
    assert result.data == {"common": 1, "variants": {"a": {"length": 1}, "bb": {"length": 2}, "ccc": {"length": 3}}}
    statuses = {name: status for name, (status, _) in result.failed.items()}
    assert statuses == {"crash": "crash", "hang": "timeout", "raise": "error", "memory": "oom"}
    assert "SIGSEGV" in result.failed["crash"][1]
    assert (tmp_path / "workers").read_text().splitlines() == [
        "a crash bb hang raise memory ccc",
        *["crash"] * 2,
        "bb hang raise memory ccc",
        "hang",
        "raise memory ccc",  # an exception recurs
        "memory ccc",
        *["memory"] * 2,
        "ccc",
    ]
    assert {name: len(reasons) for name, reasons in result.deaths.items()} == {"crash": 3, "hang": 2, "memory": 3}
    assert result.unexplained == result.failed
    assert not result.is_final


def test_the_time_limit_is_each_variants_own(tmp_path):
    names = ("slow1", "slow2", "slow3", "hang", "slow4")
    result = run("variants", tmp_path, {"seconds": 4}, variants=names, limits=Limits(timeout_s=9))
    assert result.data["variants"].keys() == {"slow1", "slow2", "slow3", "slow4"}
    detail = "took longer than 9 s (2 times); run again with a higher --timeout"
    assert result.failed == {"hang": ("timeout", detail)}
    assert len((tmp_path / "workers").read_text().splitlines()) == 3  # the two that hung, and the one after them


def test_worker_that_dies_before_its_first_variant_fails_them_all(tmp_path):
    result = run("dies_loading", tmp_path, variants=("a", "b"))
    assert result.status == "crash"
    assert {name: status for name, (status, _) in result.failed.items()} == {"a": "crash", "b": "crash"}


def test_worker_that_dies_between_variants_goes_on_while_it_advances(tmp_path):
    result = run("variants", tmp_path, variants=("a", "between", "b"))
    assert result.ok
    assert result.data["variants"] == {"a": {"length": 1}}
    assert {name: status for name, (status, _) in result.failed.items()} == {"between": "crash", "b": "crash"}
    assert (tmp_path / "workers").read_text().splitlines() == ["a between b", *["between b"] * 3]


def test_variant_the_task_passed_over_is_an_error(tmp_path):
    result = run("variants", tmp_path, variants=("a", "forgotten"))
    assert result.failed == {"forgotten": ("error", "the task ended without finishing it")}


def test_unavailable_ends_a_job_with_variants_at_once(tmp_path):
    result = run("refuses", tmp_path, variants=("a", "b"))
    assert result.status == "unavailable"
    assert result.failed.keys() == {"a", "b"}


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_worker_dies_with_its_parent(tmp_path, number):
    code = (
        "import sys; from pathlib import Path; from hwbench.targets import open_target; "
        "from hwbench.worker.protocol import STOPPED, Job, Limits; "
        "open_target('local').run(Job('sample_tasks:sleeps', limits=Limits(memory_mib=512)), Path(sys.argv[1]))"
    )
    with (tmp_path / "stderr").open("wb") as stderr:
        parent = subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path / "job")],
            stderr=stderr,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
            # A shell that runs the tests in the background makes their processes ignore it.
            preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        )
    pid = pid_in(tmp_path / "job")
    parent.send_signal(number)
    assert parent.wait(DEADLINE_S) == -number
    until(lambda: gone(pid))
    until(lambda: no_group_left(parent.pid))
    if number == signal.SIGINT:
        assert "KeyboardInterrupt" in (tmp_path / "stderr").read_text()


def test_what_a_killed_parents_worker_left_in_its_group_ends_at_the_next_start(tmp_path, with_cgroups):
    code = (
        "import sys; from pathlib import Path; from hwbench.targets import open_target; "
        "from hwbench.worker.protocol import STOPPED, Job, Limits; "
        "task = 'sample_tasks:leaves_child_in_a_session_of_its_own'; "
        "open_target('local').run(Job(task, limits=Limits(memory_mib=512)), Path(sys.argv[1]))"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    parent = subprocess.Popen([sys.executable, "-c", code, str(tmp_path / "job")], env=environment)
    worker = pid_in(tmp_path / "job")
    child = (tmp_path / "job" / "child").read_text()
    parent.kill()
    parent.wait(DEADLINE_S)
    until(lambda: gone(worker))
    assert not gone(child)
    assert no_group_left(parent.pid)
    until(lambda: gone(child))


def test_stop_kills_what_runs_and_refuses_more(tmp_path):
    target = open_target("local")
    interrupted = []

    def work():
        try:
            target.run(Job("sample_tasks:sleeps"), tmp_path / "job")
        except KeyboardInterrupt:
            interrupted.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    pid = pid_in(tmp_path / "job")
    target.stop()
    thread.join(DEADLINE_S)
    assert interrupted == [True]
    assert gone(pid)
    with pytest.raises(KeyboardInterrupt):
        target.run(Job("sample_tasks:ok", {"numbers": []}), tmp_path / "next")


def test_unknown_kind_is_named_with_the_known_ones():
    with pytest.raises(UnknownNameError, match=r"unknown target 'locla'\. Did you mean 'local'"):
        open_target("locla")


def test_the_targets_of_a_run_are_opened_once_and_stopped_together(tmp_path):
    targets = Targets()
    local = targets.of({"kind": "local"})
    assert targets.of({"kind": "local"}) is local
    assert targets.run(Job("sample_tasks:ok", {"numbers": [1]}), tmp_path).ok
    targets.stop()
    with pytest.raises(KeyboardInterrupt):
        targets.run(Job("sample_tasks:ok", {"numbers": [1]}), tmp_path)
    with pytest.raises(UnknownNameError, match="Did you mean 'local'"):
        targets.of({"kind": "locla"})


def test_a_job_whose_time_is_over_keeps_the_variants_that_are_finished(tmp_path):
    result = run("variants", tmp_path, variants=("a", "slow", "b"), limits=Limits(stop_s=3), params={"seconds": 3600})
    assert (result.status, result.failed) == ("ok", {})
    assert list(result.data["variants"]) == ["a"]
    assert list(result.unfinished) == ["slow", "b"]


def test_a_job_whose_time_is_over_before_anything_is_finished_says_so(tmp_path):
    result = run("variants", tmp_path / "a", variants=("slow", "b"), limits=Limits(stop_s=2), params={"seconds": 3600})
    assert (result.status, result.detail, list(result.unfinished)) == ("unavailable", STOPPED, ["slow", "b"])
    result = run("sleeps", tmp_path / "b", limits=Limits(stop_s=2))
    assert (result.status, result.detail) == ("unavailable", STOPPED)


def test_a_task_that_keeps_to_its_time_ends_by_itself(tmp_path):
    began = time.monotonic()
    names = tuple(f"slow{place}" for place in range(50))
    result = run("in_time", tmp_path, variants=names, limits=Limits(stop_s=4), params={"seconds": 0.5})
    assert result.ok
    assert 0 < len(result.data["variants"]) < 9
    assert result.data["common"] == 1  # nobody killed it
    assert len(result.data["variants"]) + len(result.unfinished) == 50
    assert time.monotonic() - began < DEADLINE_S
