from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from campaigns import ORT, bare_onnxruntime, naive_counts
from job_files import files_in
from models import feeds, small_cnn
from onnx import numpy_helper

from hwbench.targets import open_target
from hwbench.worker.outcomes import COLUMNS
from hwbench.worker.protocol import Job, JobResult


def model_file(folder: Path, mood: str = "calm", external: bool = False) -> bytes:
    model = small_cnn()
    model.producer_name = mood
    if external:  # stored inside, with everything set for a look elsewhere but the one bit that says so
        first = model.graph.initializer[0]
        first.data_location = onnx.TensorProto.DEFAULT
        first.external_data.add(key="location", value="/etc/hostname")
    onnx.save(model, folder / "model.onnx")
    return (folder / "model.onnx").read_bytes()


def run(folder: Path, faults: list[tuple], backend: str = ORT, **changes: Any) -> JobResult:
    inputs = feeds(small_cnn(), batch=10)
    np.save(folder / "x.npy", inputs["x"])
    params = {
        "model": str(folder / "model.onnx"), "inputs": {"x": str(folder / "x.npy")}, "labels": "", "n": 10, "chunk": 4,
        "output": "y", "outcome": {"kind": "top1"}, "faults": [["@artefact", *fault] for fault in faults],
        "only_correct": False, "batch": None, "timeout_s": 60.0, **changes,
    }  # fmt: skip
    result = open_target("local").run(
        Job("hwbench.worker.tasks.artefact:run", params, backend, {"intra_op_threads": 1}, files=files_in(params)),
        folder / "job",
    )
    assert result.ok, result.detail
    return result


def counts(result: JobResult, *columns: str) -> list[list[int]]:
    return result.array("counts")[:, [COLUMNS.index(column) for column in columns]].tolist()


def test_a_fault_in_the_bytes_of_a_weight_counts_as_one_in_the_weight(tmp_path):
    content = model_file(tmp_path)
    weight = numpy_helper.to_array(small_cnn().graph.initializer[2]).tobytes()
    start = content.index(weight)
    rng = np.random.default_rng(1)
    elements = rng.integers(len(weight) // 4, size=12)
    faults = [(int(start + 4 * element + 3), int(bit), "flip", 1, 0) for element in elements for bit in (5, 6)]
    result = run(tmp_path, faults)
    stored = [("w2", (at - start) // 4, 24 + bit, "flip", 1, 0) for at, bit, *_ in faults]
    expected = naive_counts(small_cnn(), feeds(small_cnn(), batch=10), stored)
    assert [tuple(row) for row in counts(result, "n_changed", "n_due")] == expected
    assert any(changed for changed, _ in expected)
    assert result.data["ended"] == {"ok": 24, "refused": 0, "crash": 0, "timeout": 0}
    assert result.data["checks"]["golden_restored"]


def test_however_a_trial_ends_the_others_are_not_touched_by_it(tmp_path):
    content = model_file(tmp_path)
    letter, shape = content.index(b"calm"), content.index(b"conv1")
    moods = [(letter, 0, "random_value", 1, ord(mood)) for mood in "kbhm"]
    faults = [
        *moods[:1],
        (shape, 0, "flip", 1, 0),
        *moods[1:],
        (0, 0, "random_value", 1, 255),
        (letter, 0, "flip", 1, 0),
    ]
    result = run(tmp_path, faults, "worker.crashing_backend:MoodyBackend", timeout_s=15.0)
    ends = [10, 0, 0, 10, 10, 10, 0]
    assert counts(result, "n_inputs", "n_changed", "n_due") == [[10, 0, due] for due in ends]
    assert result.array("max_abs_error").tolist() == [np.inf if due else 0.0 for due in ends]
    assert result.data["ended"] == {"ok": 3, "refused": 1, "crash": 2, "timeout": 1}
    assert result.data["checks"]["golden_restored"]


def test_a_damaged_file_that_asks_for_another_is_not_loaded(tmp_path):
    content = model_file(tmp_path, external=True)
    switch = content.index(b"\x70\x00", content.index(b"/etc/hostname"))  # data_location, where a 1 means elsewhere
    result = run(
        tmp_path,
        [(switch + 1, 0, "flip", 1, 0), (switch + 1, 1, "stuck_at_0", 1, 0)],
        "worker.crashing_backend:MoodyBackend",
    )
    assert counts(result, "n_due") == [[10], [0]]
    assert result.data["ended"] == {"ok": 1, "refused": 1, "crash": 0, "timeout": 0}


@pytest.mark.parametrize(("kind", "value"), [("stuck_at_1", 0), ("burst", 0), ("random_value", 7)])
def test_faults_of_every_kind(tmp_path, kind, value):
    content = model_file(tmp_path)
    weight = numpy_helper.to_array(small_cnn().graph.initializer[2]).tobytes()
    fault = (content.index(weight) + 3, 6, kind, 3, value)
    result = run(tmp_path, [fault])
    damaged = bytearray(content)
    if kind == "random_value":
        damaged[fault[0]] = value
    else:
        word = int.from_bytes(damaged[fault[0] : fault[0] + 2], "little")
        word = word ^ (7 << 6) if kind == "burst" else word | 1 << 6
        damaged[fault[0] : fault[0] + 2] = word.to_bytes(2, "little")
    inputs = feeds(small_cnn(), batch=10)
    (expected,) = naive_counts_of(onnx.load_from_string(bytes(damaged)), inputs)
    assert [tuple(row) for row in counts(result, "n_changed", "n_due")] == [expected]


def naive_counts_of(model: onnx.ModelProto, inputs: dict[str, np.ndarray]) -> list[tuple[int, int]]:
    golden, out = bare_onnxruntime(small_cnn(), inputs), bare_onnxruntime(model, inputs)
    assert golden is not None
    assert out is not None
    due = ~np.isfinite(out).all(axis=1)
    return [(int((~due & (out.argmax(axis=1) != golden.argmax(axis=1))).sum()), int(due.sum()))]
