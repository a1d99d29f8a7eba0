from __future__ import annotations

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from campaigns import Row, bare_onnxruntime, run_campaign
from models import dynamic_int8, feeds, int4, mlp, small_cnn, static_int8, two_inputs
from onnx import helper

from hwbench.faults import names
from hwbench.faults.activations import Activations
from hwbench.faults.cuts import GraphCutter

pytestmark = pytest.mark.isa
KINDS = ("flip", "stuck_at_0", "stuck_at_1", "burst", "random_value")
Array = np.ndarray


def faults_between(model: onnx.ModelProto, each: int, seed: int = 0) -> list[Row]:
    """Faults in every tensor between operators and every input: a tensor's first is in a high bit."""
    rng, faults = np.random.default_rng(seed), list[Row]()
    for tensor in Activations.of(GraphCutter(model)).space.tensors:
        for at in range(each):
            kind = KINDS[at % len(KINDS)]
            bit = tensor.width - 2 if not at else int(rng.integers(tensor.width))
            width = int(rng.integers(2, 12)) if kind == "burst" else 1
            value = int(rng.integers(2 ** min(tensor.width, 62))) if kind == "random_value" else 0
            faults.append((tensor.name, int(rng.integers(tensor.elements)), bit, kind, width, value))
    return faults


def session(model: onnx.ModelProto) -> ort.InferenceSession:
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    return ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])


def naive_outputs(model: onnx.ModelProto, inputs: dict[str, Array], faults: list[Row]) -> list[Array]:
    """The output of every fault: the tensor is returned by one plain session and fed, faulty, to another."""
    outputs = []
    for fault in faults:
        tensor = names.activation_of(fault[0])
        assert tensor is not None
        value = inputs[tensor] if tensor in inputs else returned(model, inputs, tensor)
        rows = np.stack([np.frombuffer(faulty(row.tobytes(), fault, row.dtype), row.dtype) for row in value])
        outputs.append(fed(model, inputs, tensor, rows.reshape(value.shape)))
    return outputs


def returned(model: onnx.ModelProto, inputs: dict[str, Array], tensor: str) -> Array:
    shown = onnx.ModelProto()
    shown.CopyFrom(model)
    shown.graph.output.append(onnx.ValueInfoProto(name=tensor))
    return session(shown).run([tensor], inputs)[0]


def fed(model: onnx.ModelProto, inputs: dict[str, Array], tensor: str, value: Array) -> Array:
    cut = onnx.ModelProto()
    cut.CopyFrom(model)
    for node in cut.graph.node:
        for at, name in enumerate(node.output):
            if name == tensor:
                node.output[at] = f"{name} that nobody reads"
    if tensor not in inputs:
        kind = helper.np_dtype_to_tensor_dtype(value.dtype)
        cut.graph.input.append(helper.make_tensor_value_info(tensor, kind, [None, *value.shape[1:]]))
    return session(cut).run(["y"], {**inputs, tensor: value})[0]


def faulty(stored: bytes, fault: Row, dtype: np.dtype) -> bytes:
    """One input's part of a tensor, as bits in memory, with the fault in it."""
    _, element, bit, kind, width, value = fault
    per, number, size = 8 * dtype.itemsize, int.from_bytes(stored, "little"), 8 * len(stored)
    first = element * per + bit
    if kind == "random_value":
        number = number & ~(((1 << per) - 1) << element * per) | value << element * per
    elif kind == "stuck_at_1":
        number |= 1 << first
    elif kind == "stuck_at_0":
        number &= ~(1 << first)
    else:
        number ^= sum(1 << at for at in range(first, min(first + (width if kind == "burst" else 1), size)))
    return number.to_bytes(len(stored), "little")


def outcomes(golden: Array, outputs: list[Array]) -> list[tuple[int, int]]:
    counts = []
    for out in outputs:
        due = ~np.isfinite(out).all(axis=1)
        counts.append((int((~due & (out.argmax(axis=1) != golden.argmax(axis=1))).sum()), int(due.sum())))
    return counts


MODELS = {
    "fp32": small_cnn,
    "int8": lambda: static_int8(small_cnn()),
    "int8-mlp": lambda: static_int8(mlp()),
    "blocks": lambda: int4(mlp()),
    "dynamic": lambda: dynamic_int8(mlp()),
    "ids": two_inputs,
}


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("segmented", [True, False], ids=["engine", "halves"])
def test_every_trial_is_that_of_a_plain_session_fed_with_the_faulty_tensor(tmp_path, name, segmented):
    model = MODELS[name]()
    inputs, faults = feeds(model, batch=12), faults_between(model, 8)
    exact = name.startswith("int8")
    done = run_campaign(model, inputs, faults, tmp_path / "job", segmented=segmented, exact=exact, chunk=12)
    golden = bare_onnxruntime(model, inputs)
    assert golden is not None
    expected = outcomes(golden, naive_outputs(model, inputs, faults))
    assert list(zip(done["n_changed"], done["n_due"], strict=True)) == expected
    assert sum(changed > 0 for changed, _ in expected) * 20 > len(faults)
    assert set(done["n_inputs"]) == {12}
    assert done.checks["untold"] == 0
    if segmented and exact:
        assert (done.checks["segmented"], done.checks["reason"], done.checks["rebuilt"]) == (True, "", 0)
        assert (done.checks["golden_equal"], done.checks["golden_restored"]) == (True, True)
