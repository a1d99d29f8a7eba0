"""Plugins found through entry points, with real distributions on the path."""

import sys

import pytest

from hwbench.backend import Backend, backends
from hwbench.errors import InputError, UnknownNameError
from hwbench.registry import Registry
from hwbench.studies import Study, studies

GROUP = "hwbench.tests"


@pytest.fixture
def distribution(tmp_path, monkeypatch):
    """Puts a distribution with entry points on the path."""

    def install(name, **points):
        folder = tmp_path / name
        info = folder / f"{name}-1.0.dist-info"
        info.mkdir(parents=True)
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        lines = [f"{key} = {value}" for key, value in points.items()]
        (info / "entry_points.txt").write_text("\n".join([f"[{GROUP}]", *lines]))
        monkeypatch.syspath_prepend(folder)
        return folder

    return install


def test_names_are_known_without_importing_anything(distribution):
    distribution("first", beta="no_such_module:Thing", alpha="colorsys:ONE_THIRD")
    registry = Registry(GROUP, "thing")
    assert registry.names() == ["alpha", "beta"]
    assert registry.reference("beta") == "no_such_module:Thing"


def test_what_a_name_stands_for_is_loaded_when_asked_for(distribution, monkeypatch):
    folder = distribution("first", thing="registered_in_test:THING")
    (folder / "registered_in_test.py").write_text("THING = object()\n")
    registry = Registry(GROUP, "thing")
    registry.names()
    assert "registered_in_test" not in sys.modules
    thing = registry.get("thing")
    assert thing is sys.modules.pop("registered_in_test").THING


def test_unknown_names_are_refused_with_the_nearest(distribution):
    distribution("first", alpha="a:A")
    registry = Registry(GROUP, "thing")
    for ask in (registry.get, registry.reference):
        with pytest.raises(UnknownNameError, match=r"unknown thing 'alpah'\. Did you mean 'alpha'\?"):
            ask("alpah")


def test_two_distributions_may_not_claim_one_name_for_different_things(distribution):
    distribution("first", alpha="a:A")
    distribution("second", alpha="b:B")
    with pytest.raises(InputError, match="two distributions declare the thing 'alpha'") as refused:
        Registry(GROUP, "thing").names()
    for origin in ("a:A from first", "b:B from second", "uninstall one"):
        assert origin in str(refused.value)


def test_one_distribution_found_twice_is_no_conflict(distribution):
    distribution("first", alpha="a:A")
    distribution("second", alpha="a:A")
    assert Registry(GROUP, "thing").names() == ["alpha"]


def test_a_group_without_plugins_is_empty():
    registry = Registry("hwbench.no_such_group", "thing")
    assert registry.names() == []
    with pytest.raises(UnknownNameError, match="Known: none"):
        registry.get("x")


@pytest.mark.parametrize(("registry", "kind"), [(backends, Backend), (studies, Study)])
def test_every_shipped_plugin_is_what_its_group_promises(registry, kind):
    assert registry.names()
    for name in registry.names():
        plugin = registry.get(name)
        assert issubclass(plugin, kind)
        assert plugin.name == name
