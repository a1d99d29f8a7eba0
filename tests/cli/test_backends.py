from __future__ import annotations

import onnxruntime
import openvino
import pytest


@pytest.fixture(scope="module")
def probed():
    from hwbench.cli.backends import probe_all

    return probe_all()


def test_what_is_here_works_with_its_devices_and_versions(probed):
    assert probed["onnxruntime"]["available"]
    assert "cpu" in probed["onnxruntime"]["devices"]
    assert probed["onnxruntime"]["versions"]["onnxruntime"] == onnxruntime.__version__
    assert "CPU" in probed["openvino"]["devices"]
    assert openvino.__version__.startswith(probed["openvino"]["versions"]["openvino"][:6])


def test_what_is_missing_says_why_and_what_would_help(probed):
    for backend in probed.values():
        if not backend["available"]:
            assert backend["reason"]
            assert backend["hint"]
    devices = probed["onnxruntime"]["devices"]
    assert set(probed["onnxruntime"]["hints"]) == {"cuda", "tensorrt", "openvino"} - set(devices)


def test_the_table_and_the_json_say_the_same(hw, probed):
    ended = hw("backends")
    assert ended.code == 0
    assert all(name in ended.out for name in probed)
    again = hw("backends", "--json").json
    assert {name: backend["available"] for name, backend in again.items()} == {
        name: backend["available"] for name, backend in probed.items()
    }
