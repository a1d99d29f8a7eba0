import os
from pathlib import Path

import pytest

from hwbench.errors import UnavailableError
from hwbench.targets import cgroups, open_target
from hwbench.targets.limits import Enforcement, mechanism
from hwbench.worker.progress import Progress
from hwbench.worker.protocol import Job, Limits


def run(task, folder, params, **limits):
    return open_target("local").run(Job(f"sample_tasks:{task}", params, limits=Limits(**limits)), folder)


def own_groups():
    return list(Path("/sys/fs/cgroup").rglob(f"hwbench-{os.getpid()}-*"))


@pytest.mark.usefixtures("with_cgroups")
def test_job_within_its_cap_reports_what_the_tree_used(tmp_path):
    result = run("allocates", tmp_path, {"mib": 100}, memory_mib=512)
    assert result.ok, result.detail
    assert result.usage["mechanism"].startswith("cgroup v")
    assert 100 < result.usage["cap_peak_mib"] <= 512
    assert (result.usage["cap_mib"], result.usage["oom_kills"]) == (512, 0)
    assert result.usage["peak_mib"] > 100
    assert not own_groups()


@pytest.mark.usefixtures("with_cgroups")
@pytest.mark.parametrize("task", ["allocates", "child_allocates"])
def test_job_beyond_its_cap_is_out_of_memory(tmp_path, task):
    result = run(task, tmp_path, {"mib": 512}, memory_mib=100)
    assert result.status == "oom"
    assert "needs more than the 100 MiB allowed (cgroup v" in result.detail
    assert result.usage["oom_kills"] >= 1
    assert not own_groups()


@pytest.mark.usefixtures("with_cgroups")
@pytest.mark.parametrize(
    ("held", "cap", "more", "status", "lowered"),
    [(20, 128, 20, "ok", True), (20, 128, 200, "oom", True), (200, 100, 0, "oom", False)],
)
def test_worker_may_lower_its_cap(tmp_path, held, cap, more, status, lowered):
    params = {"held_mib": held, "cap_mib": cap, "more_mib": more}
    result = run("lowers_its_cap", tmp_path, params, memory_mib=1024)
    assert result.status == status, result.detail
    assert ("lowered" in Progress.read(tmp_path).finished) is lowered
    assert not own_groups()


@pytest.mark.usefixtures("with_cgroups")
def test_crash_leaves_no_group(tmp_path):
    assert run("segfault", tmp_path, {}, memory_mib=512).status == "crash"
    assert not own_groups()


@pytest.mark.usefixtures("with_cgroups")
def test_cap_below_the_interpreter_is_out_of_memory(tmp_path):
    assert run("ok", tmp_path, {"numbers": []}, memory_mib=2).status == "oom"


@pytest.mark.usefixtures("with_cgroups")
def test_processor_quota_holds(tmp_path):
    result = run("burns", tmp_path, {"seconds": 1.0}, cpu_quota=0.25)
    assert result.ok, result.detail
    assert result.data["cores"] < 0.4
    assert result.usage["cpu_quota"] == 0.25


def test_processors_are_kept_to_and_recorded(tmp_path):
    last = max(os.sched_getaffinity(0))
    result = run("processors", tmp_path, {}, processors=(last,))
    assert result.data == {"processors": [last]}
    assert result.usage["processors"] == [last]
    assert "mechanism" not in result.usage


def test_processors_that_are_not_there_are_unavailable(tmp_path):
    result = run("ok", tmp_path, {"numbers": []}, processors=(0, 99_999))
    assert result.status == "unavailable"
    assert "processors [99999] are not there" in result.detail


@pytest.mark.usefixtures("with_cgroups")
def test_group_of_a_living_parent_survives_a_sweep_and_a_dead_ones_does_not():
    with Enforcement(Limits(memory_mib=100)):
        (living,) = own_groups()
        dead = living.with_name("hwbench-4194305-1")  # above the largest process number Linux gives
        dead.mkdir()
        cgroups.sweep()
        assert living.exists()
        assert not dead.exists()


@pytest.mark.usefixtures("with_cgroups")
def test_machine_with_groups_says_so():
    support = mechanism()
    assert support.memory.startswith("cgroup v")
    assert support.cpu.startswith("cgroup v")
    assert (support.memory_reason, support.cpu_reason) == ("", "")
    assert not own_groups()


@pytest.mark.usefixtures("no_cgroups")
def test_without_groups_memory_is_held_by_rlimit(tmp_path):
    within = run("allocates", tmp_path / "within", {"mib": 100}, memory_mib=4096)
    assert within.ok, within.detail
    assert (within.usage["mechanism"], within.usage["mechanism_reason"]) == (
        "rlimit",
        "read-only file system; no service manager",
    )
    assert "cap_peak_mib" not in within.usage
    assert run("allocates", tmp_path / "beyond", {"mib": 8192}, memory_mib=4096).status == "oom"


@pytest.mark.usefixtures("no_cgroups")
def test_crash_under_an_rlimit_stays_a_crash_and_names_the_cap(tmp_path):
    result = run("segfault", tmp_path, {}, memory_mib=4096)
    assert result.status == "crash"
    assert "SIGSEGV under a cap of 4096 MiB by rlimit" in result.detail


@pytest.mark.usefixtures("no_cgroups")
def test_processor_quota_without_groups_is_unavailable_not_ignored(tmp_path):
    result = run("ok", tmp_path, {"numbers": []}, cpu_quota=1.0, memory_mib=512)
    assert result.status == "unavailable"
    assert "cannot enforce cpu_quota = 1.0 here" in result.detail
    assert cgroups.HINT in result.detail


@pytest.mark.usefixtures("no_cgroups")
def test_machine_without_groups_says_why():
    support = mechanism()
    assert (support.memory, support.cpu) == ("rlimit", "")
    assert support.memory_reason == "read-only file system; no service manager"
    assert "cannot enforce cpu_quota" in support.cpu_reason


def test_no_limits_need_no_mechanism():
    with Enforcement(Limits()) as enforcement:
        assert enforcement.wrap(["python"]) == ["python"]
        assert enforcement.usage() == {}


def test_failure_to_make_a_group_names_both_versions():
    with pytest.raises(UnavailableError, match=r"cgroup v2: .*; cgroup v1: .*"):
        cgroups.create(["a controller that does not exist"])
