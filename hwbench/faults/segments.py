"""Writes the segments of a cut graph as files, for the layers that faults are in."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

import onnx

from hwbench.faults.cuts import GraphCutter, Layer

LANES = 64
CHECKPOINTS = 6
_FILES = ("advance", "lane", "layer", "rest")


def write_segments(cutter: GraphCutter, layers: Sequence[Layer], folder: Path, output: str) -> dict[str, Any]:
    """Cut a deployed graph for some of its layers.

    Args:
        cutter: The deployed graph.
        layers: The layers with faults, in graph order.
        folder: Where the segments are written.
        output: The output that outcomes are told by.

    Returns:
        The plan that `hwbench.worker.tasks.campaign` reads: ``checkpoints``, ``chain``, ``layers``, without those after
        which the graph cannot be cut, and ``nodes``, the names of those that compute; empty if no layer is left.
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
        wanted = [name for name in dict.fromkeys([*cut, layer.out, layer.x]) if name not in before]
        target = next((at for at, position in enumerate(marks) if position > layer.position), len(marks))
        plans.append(
            {
                "out": layer.out,
                "x": layer.x,
                "axis": layer.axis,
                "parameters": layer.parameters,
                "depthwise": layer.depthwise,
                "lanes": LANES,
                "advance": write(before, wanted),
                "lane": write.model(cutter.lane(layer, LANES)) if layer.parameters else "",
                "laned": [name for name in layer.parameters if not cutter.is_gauge(name)],
                "layer": write([layer.x], [layer.out]),
                "own": [name for name, home in cutter.homes.items() if home.out == layer.out],
                "rest": write(cut, checkpoints[target]),
                "cut": cut,
                "checkpoint": target,
            }
        )
        before = list(dict.fromkeys([*cut, layer.out]))
    return {"checkpoints": checkpoints, "chain": chain, "layers": plans, "nodes": cutter.computing}


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
        target = next((at for at, position in enumerate(marks) if position > cutter.maker(name)), len(marks))
        plans.append(
            {
                **{"out": name, "x": name, "axis": 0, "parameters": {}, "depthwise": False, "lanes": 2, "laned": []},
                **{"lane": "", "layer": "", "own": [], "cut": cut, "checkpoint": target},
                "advance": write(before, cut),
                "rest": write(cut, checkpoints[target]),
            }
        )
        before = cut
    return {"checkpoints": checkpoints, "chain": chain, "layers": plans, "nodes": cutter.computing}


def segment_files(plan: Mapping[str, Any]) -> list[str]:
    """The files that a plan of `write_segments` or `write_tensor_segments` names."""
    named = [*plan.get("chain", ()), *(layer[key] for layer in plan.get("layers", ()) for key in _FILES)]
    return list(dict.fromkeys(name for name in named if name))


class _Writer:
    """Writes segments under the hash of what they are, so that equal ones are one file."""

    def __init__(self, cutter: GraphCutter, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._cutter, self._folder = cutter, folder

    def __call__(self, inputs: Collection[str], outputs: Sequence[str]) -> str:
        made = [name for name in outputs if name not in inputs]
        name = hashlib.sha256(json.dumps([sorted(inputs), made]).encode()).hexdigest()[:16]
        return self._write(name, self._cutter.segment(inputs, made)) if made else ""

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
    chain, before = [], cutter.inputs
    for names in checkpoints:
        chain.append(write(before, names))
        before = names
    return checkpoints, chain


def _checkpoints(cutter: GraphCutter) -> list[int]:
    """Positions of some layers, equally far apart in the graph, where changed tensors are compared with the golden ones."""
    positions = [layer.position for layer in cutter.cuttable]
    count = min(CHECKPOINTS, max(0, len(positions) - 1))
    return sorted({positions[(at + 1) * len(positions) // (count + 1)] for at in range(count)})
