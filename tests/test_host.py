"""What run.json says of the machine and its packages."""

import json
import os
import platform
from importlib.metadata import version

from hwbench.host import PACKAGES, describe_host, package_versions


def test_this_machine_is_described_in_json():
    host = describe_host()
    assert json.loads(json.dumps(host)) == host
    assert host["cores_logical"] == os.cpu_count()
    assert host["machine"] == platform.machine()
    assert host["python"] == platform.python_version()
    assert host["memory_mib"] > 0
    assert host["cpu_model"]
    assert host["os"]


def test_the_system_is_named_where_no_release_file_is(monkeypatch):
    def missing():
        raise OSError("no os-release")

    monkeypatch.setattr(platform, "freedesktop_os_release", missing)
    assert describe_host()["os"] == platform.system()


def test_versions_are_those_of_the_installed_packages(monkeypatch):
    monkeypatch.setattr("hwbench.host.PACKAGES", (*PACKAGES, "no-such-package-as-this"))
    found = package_versions()
    assert {"hwbench-ml", "numpy", "onnx", "onnx-ir", "polars", "scipy"} <= set(found) <= set(PACKAGES)
    assert found["numpy"] == version("numpy")
