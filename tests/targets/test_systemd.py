"""Scopes of the user's service manager: used where there is one, and named where there is none."""

import shutil

import pytest

from hwbench.errors import UnavailableError
from hwbench.targets import cgroups, open_target, systemd
from hwbench.targets.limits import Enforcement, mechanism
from hwbench.worker.protocol import Job, Limits


@pytest.fixture
def manager(monkeypatch):
    """A machine on which the manager is the best there is."""
    try:
        systemd.Scope(Limits(memory_mib=1024))
    except UnavailableError as error:
        pytest.skip(str(error))

    def refuse(controllers):
        raise UnavailableError("read-only file system")

    monkeypatch.setattr(cgroups, "create", refuse)


def test_cap_is_held_by_the_manager(manager, tmp_path):
    within, beyond = (
        open_target("local").run(
            Job("sample_tasks:allocates", {"mib": mib}, limits=Limits(memory_mib=256)), tmp_path / str(mib)
        )
        for mib in (50, 512)
    )
    assert within.ok, within.detail
    assert (within.usage["mechanism"], within.usage["mechanism_reason"]) == ("systemd-run", "read-only file system")
    assert beyond.status in ("oom", "crash")  # managers before version 253 do not tell
    assert not systemd._systemctl("list-units", "--plain", "--no-legend", "hwbench-*.scope")


def test_without_systemd_the_reason_says_so(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(UnavailableError, match="systemd-run: not installed"):
        systemd.Scope(Limits(memory_mib=64))
    systemd.sweep()


@pytest.mark.skipif(shutil.which("systemd-run") is None, reason="systemd-run is not installed")
def test_without_a_manager_its_own_words_are_passed_on(monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    monkeypatch.delenv("DBUS_SESSION_BUS_ADDRESS", raising=False)
    with pytest.raises(UnavailableError, match=r"systemd-run --user --scope: .*bus"):
        systemd.Scope(Limits(memory_mib=64))
    systemd.sweep()

    def refuse(controllers):
        raise UnavailableError("read-only file system")

    monkeypatch.setattr(cgroups, "create", refuse)
    support = mechanism()
    assert support.memory == "rlimit"
    assert support.memory_reason.startswith("read-only file system; systemd-run --user --scope: ")
    with Enforcement(Limits(memory_mib=64)) as enforcement:
        assert enforcement.usage()["mechanism_reason"] == support.memory_reason
