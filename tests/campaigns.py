"""Runs fault campaigns in this process, and beside them the plainest thing that gives the same figures: the tests' oracle."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes  # noqa: F401  gives numpy the names of the small number formats
import numpy as np
import onnx
import onnxruntime as ort
from onnx import numpy_helper
from onnxruntime.capi import onnxruntime_pybind11_state as state

from hwbench.faults import names
from hwbench.faults.cuts import GraphCutter
from hwbench.faults.segments import write_segments, write_tensor_segments
from hwbench.worker.outcomes import COLUMNS
from hwbench.worker.progress import Progress
from hwbench.worker.protocol import JobContext
from hwbench.worker.tasks import campaign

ORT = "hwbench_onnxruntime:OnnxRuntimeBackend"
_REFUSALS = (state.Fail, state.InvalidArgument, state.InvalidGraph, state.NotImplemented, state.RuntimeException)
Array = np.ndarray[Any, np.dtype[Any]]
Row = tuple[str, int, int, str, int, int]


@dataclass(frozen=True)
class Done:
    """What a campaign came to."""

    checks: dict[str, Any]
    counts: Array
    max_abs_error: Array

    def __getitem__(self, column: str) -> list[int]:
        return self.counts[:, COLUMNS.index(column)].tolist()


def run_campaign(
    model: onnx.ModelProto,
    inputs: dict[str, Array],
    faults: Sequence[Row],
    folder: Path,
    *,
    segmented: bool = True,
    **given: Any,
) -> Done:
    """Run faults over inputs through the task itself; ``given`` are parameters of the task, or ``backend`` and ``options``."""
    folder.mkdir(parents=True)
    onnx.save(model, folder / "model.onnx")
    model = onnx.load(folder / "model.onnx")
    for name, value in {**inputs, **({"labels": given["labels"]} if "labels" in given else {})}.items():
        np.save(folder / f"{name}.npy", value)
    output = model.graph.output[0].name
    cutter = GraphCutter(model)
    touched = {cutter.homes[fault[0]].out for fault in faults if fault[0] in cutter.homes}
    layers = [layer for layer in cutter.layers if layer.out in touched]
    inner = {tensor for fault in faults if (tensor := names.activation_of(fault[0]))}
    plan = write_segments(cutter, layers, folder / "segments", output) if segmented and layers else {}
    if segmented and inner:
        plan = write_tensor_segments(cutter, inner, folder / "segments", output)
    params = {
        "model": str(folder / "model.onnx"),
        "inputs": {name: str(folder / f"{name}.npy") for name in inputs},
        "n": len(next(iter(inputs.values()))),
        "chunk": 64,
        "output": output,
        "outcome": {"kind": "top1"},
        "plan": plan,
        "faults": [list(fault) for fault in faults],
        "exact": False,
        "only_correct": False,
        "batch": None,
        **{key: value for key, value in given.items() if key not in ("backend", "options", "variants")},
        "labels": str(folder / "labels.npy") if "labels" in given else "",
    }
    options = {"intra_op_threads": 1} if given.get("backend", ORT) == ORT else {}
    context = JobContext(
        folder, params, given.get("backend", ORT), given.get("options", options), given.get("variants", ())
    )
    returned = campaign.run(context)
    if context.variants:
        return Done(Progress.read(folder).finished, np.empty((0, len(COLUMNS))), np.empty(0))
    return Done(returned["checks"], np.load(folder / "counts.npy"), np.load(folder / "max_abs_error.npy"))


def random_faults(model: onnx.ModelProto, n: int, seed: int = 0, kinds: Sequence[str] = ("flip",)) -> list[Row]:
    """Faults for every kind of stored number alike: first a tensor, then an element and a bit of it."""
    rng = np.random.default_rng(seed)
    tensors = [tensor for tensor in model.graph.initializer if np.prod(tensor.dims)]
    faults: list[Row] = []
    for at in range(n):
        tensor, kind = tensors[at % len(tensors)], kinds[at // len(tensors) % len(kinds)]
        value = numpy_helper.to_array(tensor)
        width = _width(value)
        element, bit = int(rng.integers(value.size)), int(rng.integers(width))
        word = int(rng.integers(2 ** min(width, 62))) if kind == "random_value" else 0
        faults.append((tensor.name, element, bit, kind, int(rng.integers(2, 12)) if kind == "burst" else 1, word))
    return faults


def naive_counts(
    model: onnx.ModelProto,
    inputs: dict[str, Array],
    faults: Sequence[Row],
    run: Callable[[onnx.ModelProto, dict[str, Array]], Array | None] | None = None,
) -> list[tuple[int, int]]:
    """(n_changed, n_due) of every fault: a fresh session each, on a file with the fault in its raw bytes.

    Args:
        model: The model.
        inputs: Its inputs.
        faults: The faults.
        run: What runs a model; None if the runtime refuses it. Default: ONNX Runtime.
    """
    run = run or bare_onnxruntime
    golden = run(model, inputs)
    assert golden is not None
    counts = []
    for fault in faults:
        out = run(patched(model, fault), inputs)
        if out is None or out.shape != golden.shape:
            counts.append((0, len(golden)))
            continue
        due = ~np.isfinite(out.reshape(len(out), -1)).all(axis=1)
        changed = ~due & (out.argmax(axis=1) != golden.argmax(axis=1))
        counts.append((int(changed.sum()), int(due.sum())))
    return counts


def patched(model: onnx.ModelProto, fault: Row) -> onnx.ModelProto:
    """A copy of a model with a fault in the raw bytes of one of its initializers, in which int4 numbers lie two a byte."""
    tensor_name, element, bit, kind, width, value = fault
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(tensor for tensor in copy.graph.initializer if tensor.name == tensor_name)
    whole = numpy_helper.from_array(numpy_helper.to_array(tensor), tensor.name)
    per, size = _width(numpy_helper.to_array(tensor)), int(np.prod(tensor.dims))
    stored = int.from_bytes(whole.raw_data, "little")
    first = element * per + bit
    if kind == "random_value":
        stored = stored & ~(((1 << per) - 1) << element * per) | value << element * per
    elif kind in ("flip", "burst"):
        for place in range(first, min(first + (width if kind == "burst" else 1), size * per)):
            stored ^= 1 << place
    elif kind == "stuck_at_1":
        stored |= 1 << first
    else:
        stored &= ~(1 << first)
    whole.raw_data = stored.to_bytes(len(whole.raw_data), "little")
    tensor.CopyFrom(whole)
    return copy


def _width(value: Array) -> int:
    name = value.dtype.name
    return 1 if name == "bool" else int("".join(character for character in name if character.isdigit()))


def bare_onnxruntime(model: onnx.ModelProto, inputs: dict[str, Array]) -> Array | None:
    """What plain ONNX Runtime gives; None where it refuses the model."""
    options = ort.SessionOptions()
    options.intra_op_num_threads, options.log_severity_level = 1, 4
    try:
        session = ort.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
        return np.asarray(session.run(None, dict(inputs))[0])
    except _REFUSALS:
        return None
