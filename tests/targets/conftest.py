"""What the tests of targets share."""

from pathlib import Path

import pytest

from hwbench.errors import UnavailableError
from hwbench.targets import cgroups, systemd


@pytest.fixture(autouse=True)
def sample_tasks_importable(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parents[1] / "worker")


@pytest.fixture
def no_cgroups(monkeypatch):
    def refuse(controllers):
        raise UnavailableError("read-only file system", cgroups.HINT)

    def refuse_too(limits):
        raise UnavailableError("no service manager")

    monkeypatch.setattr(cgroups, "create", refuse)
    monkeypatch.setattr(systemd, "Scope", refuse_too)


@pytest.fixture
def with_cgroups():
    try:
        groups = cgroups.create(["memory", "cpu"])
    except UnavailableError as error:
        pytest.skip(f"no control group can be made here: {error}")
    for group in set(groups.values()):
        group.remove()
