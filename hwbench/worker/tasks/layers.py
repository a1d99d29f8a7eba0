"""Task: look at tensors inside a build, in graphs that are shown to compute what the uncut build computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hwbench.backend import Array
from hwbench.errors import HwbenchError
from hwbench.faults.cuts import GraphCutter
from hwbench.worker.looking import Runner, Site, State, batches, joined, same, save, storable
from hwbench.worker.progress import Progress
from hwbench.worker.protocol import JobContext

CHANGED = "not observable without changing it"


def run(job: JobContext) -> dict[str, Any]:
    """Look at every layer of the job and keep its values.

    Params:
        model: Path of the deployed ONNX.
        inputs: Input name to ``.npy`` path.
        n: How many inputs; where ``measure`` shows that all layers of so many take more than ``room``, fewer, in whole batches.
        batch: Inputs per run.
        layers: Layer to the fields of `hwbench.worker.looking.Site`.
        measure: Whether layers have sizes that the graph does not state, so that one batch is run to learn them.
        room: Bytes for all layers by which inputs are then chosen.
        most: Bytes after which no further layer is kept; missing for any number.
        fixed: The batch size that the graph is fixed to; 0 or missing if it takes any.

    Returns:
        ``n``, the number of inputs. Per variant, which is a layer: ``arrays``, the name of a file for every batch, and
        ``graph``, ``"returned"`` or ``"cut"``; or ``reason``, why it cannot be looked at, or is not kept.
    """
    n = _fitting(job, job.params["room"]) if job.params.get("measure") else job.params["n"]
    look = Look.of(job, n)
    seen = look.together([look.sites[name] for name in job.variants])
    left = job.params.get("most", math.inf) - _taken(job)
    for name in job.variants:
        job.start(name)
        found = seen.pop(name, None) or look.alone(look.sites[name])
        record, size = _kept(job, name, found, left)
        left -= size
        job.done(name, record)
    return {"n": n}


def _fitting(job: JobContext, room: int) -> int:
    """The number of inputs whose layers fit into ``room`` bytes: whole batches, and at least one."""
    size = job.params.get("fixed") or 1
    look = Look.of(job, size)
    seen = look.together([look.sites[name] for name in job.params["layers"]])
    bytes_ = sum(storable(value).nbytes for one in seen.values() for value in one.values)
    return int(min(job.params["n"], max(1, room // max(1, bytes_)) * size))


def _taken(job: JobContext) -> int:
    """Bytes of the layers that an earlier worker of the job has kept."""
    records = Progress.read(job.folder).finished.values()
    return sum((job.folder / f"{stem}.npy").stat().st_size for record in records for stem in record.get("arrays", ()))


def _kept(job: JobContext, name: str, found: Seen, left: float) -> tuple[dict[str, Any], int]:
    """The record of a layer, and the bytes that its values take."""
    if found.reason:
        return {"reason": found.reason}, 0
    size = sum(storable(value).nbytes for value in found.values)
    if size > left:
        return {"reason": f"its values take {size >> 20} MiB, more than the layers before it leave"}, 0
    stem = f"layer-{list(job.params['layers']).index(name)}"
    return {"graph": found.graph, "arrays": save(job, stem, found.values)}, size


@dataclass(frozen=True)
class Seen:
    """A layer's values, one a batch, and the graph that gave them; or the reason that there are none."""

    values: Sequence[Array] = ()
    graph: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Look:
    """A build, its graph, and what it gives for the inputs.

    A runtime that has to return an inner tensor may fuse other operators around it, and compute something else. A layer is
    therefore looked at in the first of these graphs that passes its check: the build that also returns all layers, some of
    them, or this one alone, if its own outputs are those of the plain build, bit for bit; the build cut in two after the layer,
    if the second part makes those outputs of what the first part gives.
    """

    run: Runner
    cutter: GraphCutter
    sites: Mapping[str, Site]
    inputs: State
    whole: State

    @classmethod
    def of(cls, job: JobContext, n: int) -> Look:
        """The build of a job with the parameters of `run`, and ``n`` of its inputs."""
        path = Path(job.params["model"])
        cutter = GraphCutter(onnx.load(path))
        sites = {name: Site(name, **fields) for name, fields in job.params["layers"].items()}
        runner = Runner(job.load_backend(), job.options)
        size = job.params["batch"] if job.params.get("fixed") else min(job.params["batch"], n)
        inputs = batches(job.params["inputs"], n, size)
        return cls(runner, cutter, sites, inputs, runner(path, inputs, cutter.outputs))

    def together(self, sites: Sequence[Site]) -> dict[str, Seen]:
        """The layers that can be looked at many in one graph: all, or a block that passes the check."""
        if found := self._returned(sites):
            return found
        step = math.isqrt(max(0, len(sites) - 1)) + 1
        blocks = [sites[start : start + step] for start in range(0, len(sites), step)] if step > 1 else []
        return {name: seen for block in blocks for name, seen in self._returned(block).items()}

    def alone(self, site: Site) -> Seen:
        """One layer, in a graph of its own."""
        return self._returned([site]).get(site.name) or self._cut(site)

    def _returned(self, sites: Sequence[Site]) -> dict[str, Seen]:
        """Layers in the build that returns them too; none where it is then another."""
        for ends in _ends(sites):
            try:
                made = self.run(self._returning(ends), self.inputs, [*self.cutter.outputs, *ends])
            except HwbenchError:
                continue  # a runtime may refuse to return some tensors; others may be had
            if same(made, self.whole, self.cutter.outputs):
                return dict(self._kept(sites, ends, made))
        return {}

    def _kept(self, sites: Sequence[Site], ends: Sequence[str], made: State) -> Iterator[tuple[str, Seen]]:
        for site, end in zip(sites, ends, strict=True):
            values = [site.stored(end, tensors[end], self._dtype(site.built)) for tensors in made]
            whole = [value for value in values if value is not None]
            if len(whole) == len(values):
                yield site.name, Seen(whole, "returned")

    def _cut(self, site: Site) -> Seen:
        """A layer as the first part of the cut build gives it, where the second part makes the build's outputs of that."""
        cutter = self.cutter
        cut = cutter.cut_after(cutter.maker(site.built))
        made = [name for name in cut if name not in cutter.inputs]
        after = [name for name in cutter.outputs if name not in cut]
        if site.built not in cut or not after:
            return Seen(reason=f"{CHANGED}: no cut carries it")
        try:
            state = joined(self.inputs, self.run(cutter.segment(cutter.inputs, made), self.inputs, made))
            whole = joined(state, self.run(cutter.segment(cut, after), state, after))
        except KeyError as error:
            return Seen(reason=f"{CHANGED}: the type of {error.args[0]!r}, at which the graph is cut, is not known")
        except HwbenchError as error:
            return Seen(reason=f"{CHANGED}: {error}"[:300])
        if not same(whole, self.whole, cutter.outputs):
            return Seen(reason=f"{CHANGED}: returning it, or cutting there, changes the output")
        return Seen([tensors[site.built] for tensors in state], "cut")

    def _returning(self, names: Sequence[str]) -> onnx.ModelProto:
        """The build with ``names`` among its outputs; the runtime infers what they are."""
        model = onnx.ModelProto()
        model.CopyFrom(self.cutter.model)
        added = [name for name in dict.fromkeys(names) if name not in self.cutter.outputs]
        model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in added)
        return model

    def _dtype(self, tensor: str) -> np.dtype[Any]:
        known = self.cutter.types.get(tensor)
        kind = known.type.tensor_type.elem_type if known is not None else onnx.TensorProto.UINT8
        return np.dtype(helper.tensor_dtype_to_np_dtype(kind))


def _ends(sites: Sequence[Site]) -> list[list[str]]:
    """The tensors to return for some layers: as they are built, then as they are dequantized."""
    built, dequantized = [site.ends[0] for site in sites], [site.ends[-1] for site in sites]
    return [built] if built == dequantized else [built, dequantized]
