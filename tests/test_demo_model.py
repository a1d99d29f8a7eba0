"""The embedded model and data keep what the demo and its report promise of them."""

from __future__ import annotations

import re
import subprocess
import sys

import numpy as np
import onnx
import pytest

from hwbench.demo import CALIBRATION, DATA, FOLDER, MODEL

pytestmark = pytest.mark.isa
ort = pytest.importorskip("onnxruntime")


@pytest.fixture(scope="module")
def digits() -> tuple[np.ndarray, np.ndarray]:
    with np.load(DATA, allow_pickle=False) as arrays:
        return arrays["x"], arrays["y"]


@pytest.fixture(scope="module")
def graph() -> onnx.GraphProto:
    return onnx.load(MODEL).graph


def run(images: np.ndarray) -> np.ndarray:
    session = ort.InferenceSession(MODEL, providers=["CPUExecutionProvider"])
    [logits] = session.run(["logits"], {"image": images})
    return logits


def test_accuracy_on_the_held_out_digits(digits):
    images, labels = digits
    assert (run(images).argmax(axis=1) == labels).mean() >= 0.97


@pytest.mark.parametrize("batch", [1, 64])
def test_any_batch_runs(digits, batch):
    assert run(digits[0][:batch]).shape == (batch, 10)


def test_data_are_balanced_images_in_the_unit_range(digits):
    images, labels = digits
    assert (images.dtype, images.shape, labels.dtype) == (np.float32, (1000, 1, 28, 28), np.int64)
    assert (images.min(), images.max()) == (0.0, 1.0)
    assert np.bincount(labels).tolist() == [100] * 10


def test_calibration_images_are_not_evaluation_images(digits):
    with np.load(CALIBRATION, allow_pickle=False) as arrays:
        assert arrays.files == ["x"]
        images = arrays["x"]
    assert (images.dtype, images.shape) == (np.float32, (256, 1, 28, 28))
    evaluated = {image.tobytes() for image in digits[0]}
    assert len(evaluated) == 1000
    assert not evaluated & {image.tobytes() for image in images}


def test_everything_fits_in_one_and_a_half_megabytes():
    files = [path for path in FOLDER.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) < 1_500_000


def test_the_model_is_a_single_file_that_older_runtimes_read():
    model = onnx.load(MODEL, load_external_data=False)
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version == 10
    assert [(entry.domain, entry.version) for entry in model.opset_import] == [("", 18)]
    assert all(tensor.data_location == onnx.TensorProto.DEFAULT for tensor in model.graph.initializer)


def test_the_model_holds_no_path_of_the_machine_it_was_made_on():
    model = onnx.load(MODEL)
    for tensor in model.graph.initializer:
        tensor.ClearField("raw_data")  # random numbers may look like anything
    assert not re.search(r"[/\\]|\.py|Traceback", str(model))


def test_the_classifier_is_a_matmul_wide_enough_for_int4_blocks(graph):
    weights = {tensor.name: tuple(tensor.dims) for tensor in graph.initializer}
    products = [node for node in graph.node if node.op_type == "MatMul"]
    assert [weights[node.input[1]] for node in products] == [(512, 64), (64, 10)]
    assert [node.op_type for node in graph.node][-2:] == ["MatMul", "Add"]
    assert "Gemm" not in {node.op_type for node in graph.node}


def test_the_paths_import_nothing_heavy():
    code = (
        "import sys; import hwbench.demo; print(sorted({'numpy', 'torch', 'onnx', 'onnxruntime'} & sys.modules.keys()))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
