"""The two kernel interfaces, on folders that hold what the kernel's documentation says they hold."""

import pytest

from hwbench.errors import UnavailableError
from hwbench.targets import cgroups
from hwbench.targets.cgroups import Group

MIB = 1024 * 1024


def fill(folder, **files):
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        (folder / name.replace("__", ".")).write_text(content)
    return folder


def test_version_2_limits_and_accounts(tmp_path):
    group = Group(fill(tmp_path, memory__max="max\n", memory__swap__max="max\n", cpu__max="max 100000\n"), 2)
    group.cap_memory(64)
    group.cap_cpu(0.5)
    assert (tmp_path / "memory.max").read_text() == str(64 * MIB)
    assert (tmp_path / "memory.swap.max").read_text() == "0"
    assert (tmp_path / "cpu.max").read_text() == "50000 100000"
    fill(
        tmp_path,
        memory__peak=f"{48 * MIB}\n",
        memory__events="low 0\nhigh 0\nmax 7\noom 1\noom_kill 2\n",
        memory__stat=f"anon 4096\nfile {3 * MIB}\nworkingset_refault_file 5\n",
    )
    assert group.memory_usage() == {
        "cap_peak_mib": 48,
        "cap_file_mib": 3,
        "cap_refaults": 5,
        "oom_kills": 2,
    }


@pytest.mark.parametrize("met", [0, 3])
def test_a_process_killed_for_the_machines_memory_is_no_victim_of_the_cap(tmp_path, met):
    events = f"low 0\nmax {met}\noom {met}\noom_kill 1\n"
    second = fill(tmp_path / "v2", memory__events=events, memory__stat="file 0")
    assert Group(second, 2).memory_usage()["oom_kills"] == (1 if met else 0)


def test_version_2_kernel_without_a_peak_and_without_swap(tmp_path):
    group = Group(fill(tmp_path, memory__max="max", memory__events="max 0\noom_kill 0", memory__stat="file 0"), 2)
    group.cap_memory(1)
    assert "cap_peak_mib" not in group.memory_usage()
    assert not (tmp_path / "memory.swap.max").exists()


def test_version_1_limits_memory_with_swap(tmp_path):
    group = Group(fill(tmp_path, memory__limit_in_bytes="", memory__memsw__limit_in_bytes=""), 1)
    group.cap_memory(2)
    assert (tmp_path / "memory.limit_in_bytes").read_text() == str(2 * MIB)
    assert (tmp_path / "memory.memsw.limit_in_bytes").read_text() == str(2 * MIB)


def chain(monkeypatch, *folders):
    monkeypatch.setattr(cgroups, "_ancestry", lambda *_: iter(folders))


def v2(folder, limit="max", enabled="cpu memory"):
    return fill(folder, memory__max=limit, cgroup__subtree_control=enabled, cgroup__procs="")


def test_group_stands_as_high_as_no_limit_is_left(tmp_path, monkeypatch):
    root, slice_, own = v2(tmp_path), v2(tmp_path / "slice"), v2(tmp_path / "slice" / "own", enabled="")
    chain(monkeypatch, own, slice_, root)
    assert cgroups._parent(2, "memory") == root
    v2(slice_, limit="1000000")
    assert cgroups._parent(2, "memory") == slice_


def test_limit_that_could_only_be_escaped_makes_groups_unavailable(tmp_path, monkeypatch):
    root, own = v2(tmp_path), v2(tmp_path / "own", limit="1000000", enabled="")
    chain(monkeypatch, own, root)
    with pytest.raises(UnavailableError, match="without leaving the limit it is under"):
        cgroups._parent(2, "memory")


def test_controller_must_be_enabled_for_children(tmp_path, monkeypatch):
    chain(monkeypatch, v2(tmp_path, enabled="pids"))
    with pytest.raises(UnavailableError, match="no group in which memory is enabled"):
        cgroups._parent(2, "memory")


@pytest.mark.parametrize(("quota", "limited"), [("-1\n", False), ("50000\n", True)])
def test_version_1_processor_quota_counts_as_a_limit(tmp_path, quota, limited):
    assert cgroups._limited(fill(tmp_path, cpu__cfs_quota_us=quota), 1) is limited


def test_version_1_writes_no_limit_as_a_large_number(tmp_path):
    assert not cgroups._limited(fill(tmp_path, memory__limit_in_bytes="9223372036854771712\n"), 1)


def test_one_version_2_group_holds_both_controllers(tmp_path, monkeypatch):
    chain(monkeypatch, v2(tmp_path))
    groups = cgroups.create(["memory", "cpu"])
    assert groups["memory"] == groups["cpu"]
    assert groups["cpu"].mechanism == "cgroup v2"
    groups["cpu"].remove()
    assert not groups["cpu"].path.exists()
