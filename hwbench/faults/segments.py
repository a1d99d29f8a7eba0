"""Writes the segments of a cut graph as files, for the layers that faults are in."""

from __future__ import annotations

import hashlib
import json
import os
import secrets
from bisect import bisect_right
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from hwbench.faults import updates
from hwbench.faults.cuts import GraphCutter, Layer

LANES = 64
CHECKPOINTS = 6
_FILES = ("advance", "lane", "layer", "rest")
_LARGE = 1024  # bytes
_ALIGNED = 4096  # bytes: runtimes map whole pages


def write_segments(cutter: GraphCutter, layers: Sequence[Layer], folder: Path, output: str) -> dict[str, Any]:
    """Cut a deployed graph for some of its layers.

    Args:
        cutter: The deployed graph.
        layers: The layers with faults, in graph order.
        folder: Where the segments are written.
        output: The output that outcomes are told by.

    Returns:
        The plan that `hwbench.worker.tasks.campaign` reads: ``checkpoints``, ``chain``, ``layers``, without those after
        which the graph cannot be cut, ``nodes``, the names of those that compute, and ``weights``, the file beside the
        segments that holds their large initializers; empty if no layer is left.
    """
    layers = [layer for layer in layers if layer in cutter.cuttable]
    if not layers:
        return {}
    write = _Writer(cutter, folder)
    marks = _checkpoints(cutter)
    checkpoints, chain = _chain(cutter, write, marks, output)
    plans, before = [], cutter.inputs
    for layer in layers:
        cut = cutter.cut_after(layer.position)
        update = updates.update_after(cutter, layer) if layer.parameters else None
        wanted = dict.fromkeys([*cut, layer.out, layer.x, *([update.y] if update else [])])
        target = bisect_right(marks, layer.position)
        plans.append(
            {
                "out": layer.out,
                "x": layer.x,
                "axis": layer.axis,
                "parameters": layer.parameters,
                "depthwise": layer.depthwise,
                "lanes": LANES,
                "advance": write(before, list(wanted)),
                "lane": write.model(cutter.lane(layer, LANES)) if layer.parameters else "",
                "laned": [name for name in layer.parameters if not cutter.is_gauge(name)],
                "layer": write([layer.x], [layer.out]),
                "own": [name for name, home in cutter.homes.items() if home.out == layer.out],
                "rest": write(cut, checkpoints[target]),
                "cut": cut,
                "update": _update(cutter, update, write, cut, checkpoints[target]) if update else None,
                "checkpoint": target,
            }
        )
        before = list(dict.fromkeys([*cut, layer.out]))
    return {
        "checkpoints": checkpoints,
        "chain": chain,
        "layers": plans,
        "nodes": cutter.computing,
        "weights": write.weights,
    }


def write_tensor_segments(cutter: GraphCutter, tensors: Collection[str], folder: Path, output: str) -> dict[str, Any]:
    """Cut a deployed graph right after some of its tensors are made, for faults in these.

    Args:
        cutter: The deployed graph.
        tensors: Tensors between operators, or inputs.
        folder: Where the segments are written.
        output: The output that outcomes are told by.

    Returns:
        As `write_segments`, with a cut in the place of each layer; without the tensors at which the graph cannot be cut.
    """
    found = [name for name in sorted(tensors, key=lambda name: (cutter.maker(name), name)) if cutter.is_cuttable(name)]
    if not found:
        return {}
    write = _Writer(cutter, folder)
    marks = _checkpoints(cutter)
    checkpoints, chain = _chain(cutter, write, marks, output)
    plans, before = [], cutter.inputs
    for name in found:
        cut = cutter.cut_after(cutter.maker(name))
        target = bisect_right(marks, cutter.maker(name))
        plans.append(
            {
                **{"out": name, "x": name, "axis": 0, "parameters": {}, "depthwise": False, "lanes": 2, "laned": []},
                **{"lane": "", "layer": "", "own": [], "cut": cut, "checkpoint": target, "update": None},
                "advance": write(before, cut),
                "rest": write(cut, checkpoints[target]),
            }
        )
        before = cut
    return {
        "checkpoints": checkpoints,
        "chain": chain,
        "layers": plans,
        "nodes": cutter.computing,
        "weights": write.weights,
    }


def segment_files(plan: Mapping[str, Any]) -> list[str]:
    """The files that a plan of `write_segments` or `write_tensor_segments` names."""
    layers = plan.get("layers", ())
    named = [plan.get("weights", ""), *plan.get("chain", ()), *(layer[key] for layer in layers for key in _FILES)]
    named += [layer["update"]["file"] for layer in layers if layer["update"]]
    return list(dict.fromkeys(name for name in named if name))


def _update(
    cutter: GraphCutter, update: updates.Update, write: _Writer, cut: Sequence[str], outputs: Sequence[str]
) -> dict[str, Any]:
    """What `hwbench.worker.plan.UpdatePlan` holds."""
    model = updates.segment(cutter, update, cut, outputs, write.constants)
    given = {value.name for value in model.graph.input}
    return {
        "y": update.y,
        "weight": update.weight,
        "file": write.model(model),
        "cut": [name for name in cut if name in given],
        **update.inputs,
    }


class _Writer:
    """Writes segments under the hash of what they are, so that equal ones are one file.

    Attributes:
        weights: The file that holds the large initializers, for all segments.
        constants: The graph's initializers, those in it without their content.
    """

    def __init__(self, cutter: GraphCutter, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._cutter, self._folder = cutter, folder
        self.weights = str(folder / "weights.bin")
        self.constants = _shared(cutter.constants, Path(self.weights))

    def __call__(self, inputs: Collection[str], outputs: Sequence[str]) -> str:
        made = [name for name in outputs if name not in inputs]
        name = hashlib.sha256(json.dumps([sorted(inputs), made]).encode()).hexdigest()[:16]
        return self._write(name, self._cutter.segment(inputs, made, self.constants)) if made else ""

    def model(self, model: onnx.ModelProto) -> str:
        return self._write(hashlib.sha256(model.SerializeToString(deterministic=True)).hexdigest()[:16], model)

    def _write(self, name: str, model: onnx.ModelProto) -> str:
        path = self._folder / f"{name}.onnx"
        if not path.exists():
            onnx.save(model, path)
        return str(path)


def _chain(cutter: GraphCutter, write: _Writer, marks: Sequence[int], output: str) -> tuple[list[list[str]], list[str]]:
    """The tensors at each checkpoint, the output behind them, and the segments that lead from one to the next."""
    checkpoints = [*(cutter.cut_after(position) for position in marks), [output]]
    chain, before = list[str](), cutter.inputs
    for names in checkpoints if marks else ():  # without checkpoints it would be the whole graph
        chain.append(write(before, names))
        before = names
    return checkpoints, chain


def _shared(constants: Mapping[str, onnx.TensorProto], path: Path) -> dict[str, onnx.TensorProto]:
    """The initializers, the content of large ones in a file beside the segments: each would be in many of them."""
    found, size, contents = dict(constants), 0, []
    for name, tensor in constants.items():
        if len(tensor.raw_data) >= _LARGE:
            place = {"location": path.name, "offset": size, "length": len(tensor.raw_data)}
            found[name] = onnx.TensorProto(
                name=name,
                data_type=tensor.data_type,
                dims=tensor.dims,
                data_location=onnx.TensorProto.EXTERNAL,
                external_data=[onnx.StringStringEntryProto(key=key, value=str(value)) for key, value in place.items()],
            )
            padding = -len(tensor.raw_data) % _ALIGNED
            contents += [tensor.raw_data, bytes(padding)]
            size += len(tensor.raw_data) + padding
    if not path.exists():
        partial = path.with_name(f".{path.name}-{os.getpid()}-{secrets.token_hex(4)}")
        partial.write_bytes(b"".join(contents))
        partial.replace(path)
    return found


def _checkpoints(cutter: GraphCutter) -> list[int]:
    """Positions of some layers, equally far apart in the graph, where changed tensors are compared with the golden ones.

    None in a graph of floats: hardly a fault vanishes there once it has left its layer, so that to compare costs, and gains
    nothing.
    """
    positions = [layer.position for layer in cutter.cuttable]
    count = min(CHECKPOINTS if cutter.quantizes else 0, max(0, len(positions) - 1))
    return sorted({positions[(at + 1) * len(positions) // (count + 1)] for at in range(count)})
