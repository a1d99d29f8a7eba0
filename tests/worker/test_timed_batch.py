import numpy as np
import onnx
import pytest
from models import mlp

from hwbench.worker.protocol import JobContext
from hwbench.worker.tasks import timed_batch


@pytest.mark.parametrize("batch", [2, 16])
def test_a_batch_is_timed_and_filled_up_where_there_are_fewer_inputs(tmp_path, batch):
    onnx.save(mlp(), tmp_path / "model.onnx")
    np.save(tmp_path / "x.npy", np.zeros((3, 64), np.float32))
    params = {"model": str(tmp_path / "model.onnx"), "inputs": {"x": str(tmp_path / "x.npy")}, "n": 3, "batch": batch}
    found = timed_batch.run(JobContext(tmp_path, params, "hwbench_onnxruntime:OnnxRuntimeBackend"))
    assert 0 < found["compile_s"] < found["load_s"]
    assert 0 < found["input_s"] < 1
