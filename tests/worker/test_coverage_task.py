from __future__ import annotations

import onnx
import pytest
from models import mlp, static_int8, unknown_operator

from hwbench.worker.protocol import JobContext
from hwbench.worker.tasks import coverage, probe

BACKENDS = ["hwbench_onnxruntime:OnnxRuntimeBackend", "hwbench_openvino:OpenVinoBackend"]


@pytest.mark.parametrize("backend", BACKENDS)
def test_every_node_is_told_and_what_ran(tmp_path, backend):
    onnx.save(static_int8(mlp()), tmp_path / "model.onnx")
    found = coverage.run(JobContext(tmp_path, {"model": str(tmp_path / "model.onnx")}, backend))
    assert len(found["nodes"]) == len(onnx.load(tmp_path / "model.onnx").graph.node)
    assert all(node["supported"] for node in found["nodes"])
    assert {"int8"} <= {node["precision"] for node in found["executed"]}


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_node_that_is_not_supported_is_named_and_nothing_is_compiled(tmp_path, backend):
    onnx.save(unknown_operator(), tmp_path / "model.onnx")
    found = coverage.run(JobContext(tmp_path, {"model": str(tmp_path / "model.onnx")}, backend))
    (bad,) = [node for node in found["nodes"] if not node["supported"]]
    assert (bad["node"], bad["op_type"]) == ("strange", "Strange")
    assert bad["reason"]
    assert found["executed"] == []


@pytest.mark.parametrize(("backend", "device"), [(BACKENDS[0], "cpu"), (BACKENDS[1], "CPU")])
def test_probing_tells_devices_and_versions(tmp_path, backend, device):
    found = probe.run(JobContext(tmp_path, {}, backend))
    assert found["available"]
    assert device in found["devices"]
    assert backend.partition("_")[2].partition(":")[0] in found["versions"]
