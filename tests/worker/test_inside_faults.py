"""Faults in attributes, branches and bodies: the task's counts are those of a script that edits the file and runs it."""

from __future__ import annotations

import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from signal import SIGPROF
from typing import Any

import numpy as np
import onnx
import pytest
from campaigns import Array, Row, bare_onnxruntime, run_campaign
from models import branches, feeds, trees

from hwbench.worker.protocol import JobContext
from hwbench.worker.tasks import evaluate

ATTRIBUTE = "@attribute/forest/"
INNER = "@graph/outer_if/else_branch/@graph/inner_if/"


def flipped(fault: Row) -> onnx.ModelProto:
    """The forest with one bit of an attribute flipped."""
    model = trees(n_trees=4)
    name, element, bit = fault[0].removeprefix(ATTRIBUTE), fault[1], fault[2]
    attribute = next(attribute for attribute in model.graph.node[0].attribute if attribute.name == name)
    if attribute.ints:
        (word,) = struct.unpack("<Q", struct.pack("<q", attribute.ints[element]))
        (attribute.ints[element],) = struct.unpack("<q", struct.pack("<Q", word ^ 1 << bit))
    else:
        (word,) = struct.unpack("<I", struct.pack("<f", attribute.floats[element]))
        (attribute.floats[element],) = struct.unpack("<f", struct.pack("<I", word ^ 1 << bit))
    return model


def forest_faults(n: int) -> Iterator[Row]:
    """Flips after which ONNX Runtime neither loops nor reads outside of the input."""
    rng = np.random.default_rng(0)
    lists = {a.name: list(a.ints or a.floats) for a in trees(n_trees=4).graph.node[0].attribute if a.ints or a.floats}
    names = sorted(lists)
    while n:
        name = names[n % len(names)]
        wide = isinstance(lists[name][0], int)
        element, bit = int(rng.integers(len(lists[name]))), int(rng.integers(64 if wide else 32))
        if name == "nodes_featureids":
            bit %= 3
            if lists[name][element] ^ 1 << bit >= 6:
                continue
        if name in ("nodes_truenodeids", "nodes_falsenodeids"):
            bit = 8 + bit % 40
        n -= 1
        yield ATTRIBUTE + name, element, bit, "flip", 1, 0


def inner_tensor(model: onnx.ModelProto, name: str) -> onnx.TensorProto:
    nodes = {node.name: node for node in model.graph.node}
    graphs = {attribute.name: attribute.g for node in nodes.values() for attribute in node.attribute}
    if name.startswith(INNER):
        inside = {attribute.name: attribute.g for attribute in graphs["else_branch"].node[0].attribute}
        if name.endswith("/value"):
            return inside["else_branch"].node[0].attribute[0].t
        return inside["then_branch"].initializer[0]
    if name.startswith("@graph"):
        return graphs["body" if "loop" in name else "then_branch"].initializer[0]
    return next(tensor for tensor in model.graph.initializer if tensor.name == name)


def flipped_inside(fault: Row) -> onnx.ModelProto:
    model = branches()
    tensor = inner_tensor(model, fault[0])
    content = bytearray(tensor.raw_data)
    place = fault[1] * len(content) * 8 // int(np.prod(tensor.dims)) + fault[2]
    content[place // 8] ^= 1 << place % 8
    tensor.raw_data = bytes(content)
    return model


def inside_faults(n: int) -> Iterator[Row]:
    rng = np.random.default_rng(1)
    names = ["w", f"{INNER}else_branch/@attribute/shift/value", f"{INNER}then_branch/v"]
    names += ["@graph/outer_if/then_branch/v", "@graph/loop/body/v"]
    for at in range(n):
        tensor = inner_tensor(branches(), names[at % len(names)])
        yield names[at % len(names)], int(rng.integers(np.prod(tensor.dims))), int(rng.integers(32)), "flip", 1, 0


def outcomes(
    model: onnx.ModelProto | None, inputs: dict[str, Array], golden: Array, output: int = 0
) -> tuple[int, int]:
    """(n_changed, n_due) of one faulty model; see `campaigns.naive_counts`."""
    made = None if model is None else bare_onnxruntime(model, inputs)
    if made is None:
        return 0, len(golden)
    due = ~np.isfinite(made).all(axis=1)
    return int((~due & (made.argmax(axis=1) != golden.argmax(axis=1))).sum()), int(due.sum())


CASES = [
    pytest.param(trees(n_trees=4), flipped, list(forest_faults(150)), id="forest"),
    pytest.param(branches(), flipped_inside, list(inside_faults(150)), id="branches"),
]


@pytest.mark.parametrize(("low", "high"), [(-1.0, 4.0), (-4.0, 1.0), (-1.0, 1.0)])
@pytest.mark.parametrize(("model", "edit", "faults"), CASES)
def test_every_outcome_is_what_an_edited_file_gives(
    model: onnx.ModelProto,
    edit: Callable[[Row], onnx.ModelProto],
    faults: list[Row],
    low: float,
    high: float,
    tmp_path: Path,
):
    """The highest and the lowest input decide on the branch that is taken."""
    inputs = {"x": np.clip(np.random.default_rng(0).standard_normal((20, 6)), low, high).astype(np.float32)}
    inputs["x"][0, :2] = low, high
    golden = bare_onnxruntime(model, inputs)
    expected = [outcomes(edit(fault), inputs, golden) for fault in faults]
    done = run_campaign(model, inputs, faults, tmp_path / "job")
    assert list(zip(done["n_changed"], done["n_due"], strict=True)) == expected
    assert any(changed for changed, _ in expected)


def test_faults_in_branches_on_openvino_are_those_of_an_edited_file_there(tmp_path):
    openvino = pytest.importorskip("openvino")
    core = openvino.Core()

    def bare(model: onnx.ModelProto) -> Array:
        compiled = core.compile_model(
            core.read_model(model.SerializeToString()), "CPU", {"INFERENCE_PRECISION_HINT": "f32"}
        )
        return np.array(compiled(inputs)[0])

    inputs, faults = feeds(branches(), batch=20), list(inside_faults(30))
    golden = bare(branches())
    made = [bare(flipped_inside(fault)) for fault in faults]
    due = [int((~np.isfinite(one)).any(axis=1).sum()) for one in made]
    changed = [
        int((np.isfinite(one).all(axis=1) & (one.argmax(axis=1) != golden.argmax(axis=1))).sum()) for one in made
    ]
    done = run_campaign(branches(), inputs, faults, tmp_path / "job", backend="hwbench_openvino:OpenVinoBackend")
    assert (done["n_changed"], done["n_due"]) == (changed, due)
    assert any(changed)


@pytest.mark.parametrize(("model", "edit", "faults"), CASES)
def test_an_evaluation_runs_the_edited_file(model, edit, faults, tmp_path):
    inputs = feeds(model, batch=20)
    np.save(tmp_path / "x.npy", inputs["x"])
    onnx.save(model, tmp_path / "model.onnx")
    variants: dict[str, Any] = {str(at): {"kind": "faults", "faults": [fault]} for at, fault in enumerate(faults[:40])}
    params = {"model": str(tmp_path / "model.onnx"), "inputs": {"x": str(tmp_path / "x.npy")}, "n": 20, "batch": 20}
    params |= {"outputs": ["y"], "keep": "full", "variants": {"golden": {"kind": "golden"}, **variants}}
    context = JobContext(tmp_path, params, "hwbench_onnxruntime:OnnxRuntimeBackend", {}, ("golden", *variants))
    assert evaluate.run(context)["restored"]
    records = {name: record for name, record in finished(context).items() if name in variants}
    assert len(records) == 40
    for name, record in records.items():
        expected = bare_onnxruntime(edit(faults[int(name)]), inputs)
        assert ("failed" in record) == (expected is None)
        if expected is not None:
            np.testing.assert_array_equal(np.load(tmp_path / f"{record['arrays'][0]}.npy"), expected)


def finished(context: JobContext) -> dict[str, Any]:
    from hwbench.worker.progress import Progress

    found: dict[str, Any] = Progress.read(context.folder).finished
    return found


def test_rates_reach_every_place_in_proportion_to_its_bits():
    from hwbench.faults.bits import stored_bits
    from hwbench.worker.perturb import WeightPerturber

    perturber = WeightPerturber.from_model(trees(n_trees=40))
    total = sum(map(stored_bits, perturber.tensors.values()))
    changed = dict.fromkeys(perturber.tensors, 0)
    for draw in range(20):
        made = perturber.changes({"kind": "bit_errors", "rate": 0.01, "seed": 0, "draw": draw})
        for name, value in made.tensors.items():
            before = perturber.tensors[name].tobytes()
            changed[name] += sum((a ^ b).bit_count() for a, b in zip(before, value.tobytes(), strict=True))
    assert sum(changed.values()) == pytest.approx(0.01 * 20 * total, rel=0.02)
    for name, count in changed.items():
        mean = 0.01 * 20 * stored_bits(perturber.tensors[name])
        assert abs(count - mean) < 5 * mean**0.5 + 1, name


def test_a_tree_that_loops_ends_the_worker_by_its_processor_time(tmp_path):
    """The way from a node leads back to its parent; no exception would end that."""
    script = f"""
import sys
sys.path[:0] = {[str(Path(__file__).parents[1]), *sys.path]!r}
from pathlib import Path
import numpy as np
from campaigns import run_campaign
from models import trees
from hwbench.worker import patience
patience._GRACE_S, patience._TIMES = 0.5, 1
inputs = {{"x": np.full((4, 6), -9, np.float32)}}
for bit in (40, 1):
    fault = "@attribute/forest/nodes_truenodeids", 3, bit, "burst", 2, 0
    run_campaign(trees(1, depth=3), inputs, [fault], Path("job") / str(bit))
    print("ended", bit, flush=True)
"""
    done = subprocess.run([sys.executable, "-c", script], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout.split()) == (-SIGPROF, ["ended", "40"]), done.stderr
