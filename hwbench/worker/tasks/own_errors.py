"""Task: compare every layer of a build with the reference's, as the build computes it and fed by the reference's tensors.

Comparisons are made here, where the tensors are: only their sums come back, so that no tensor of the build is ever stored.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from onnx import helper

from hwbench.backend import Array
from hwbench.errors import HwbenchError
from hwbench.metrics import Fidelity
from hwbench.worker.looking import Site, State, joined, storable
from hwbench.worker.progress import Progress
from hwbench.worker.protocol import JobContext
from hwbench.worker.tasks.layers import Look, Seen


def run(job: JobContext) -> dict[str, Any]:
    """Compare every layer of the job.

    A layer's accumulated error is that of the build's tensor. Its own error is that of the part of the graph between its tensor
    and the nearest other layers, fed by the reference's tensors. The part starts from floats, so that the build's own
    QuantizeLinear nodes quantize what it is fed. It is also fed by the build's own tensors: it should then give the build's own
    tensor, bit for bit.

    Params:
        model, inputs, n, batch, fixed: As for `hwbench.worker.tasks.layers`.
        layers: Layer to the fields of `hwbench.worker.looking.Site`, for those that the reference could be looked at in.
        reference_layers: The same of the reference's graph.
        reference: Layer to the ``.npy`` files, one a batch, of the reference's tensor.

    Returns:
        Nothing. Per variant, which is a layer: ``reason``, why the build cannot be looked at in it; or ``graph``, as for
        `hwbench.worker.tasks.layers`, and ``accumulated``, a state of `hwbench.metrics.Fidelity`. Then ``own``, another, and
        ``agreement_db``, the SQNR of the layer fed by the build's tensors against the same layer in the build; or
        ``own_reason``, why it does not run alone.
    """
    look = Look.of(job, job.params["n"])
    seen = _seen(job, look)
    parts = _Parts(job, look, {name: one.values for name, one in seen.items() if not one.reason})
    for name in job.variants:
        job.start(name)
        job.done(name, parts.compared(name, seen[name]))
    return {}


def _seen(job: JobContext, look: Look) -> dict[str, Seen]:
    """All layers of the build, since any of them may feed another; without those in whose own graph a worker died."""
    seen = look.together(list(look.sites.values()))
    for name in (name for name in look.sites if name not in seen):
        if name in job.variants or name in Progress.read(job.folder).finished:
            job.start(name)
            seen[name] = look.alone(look.sites[name])
    return seen


@dataclass(frozen=True)
class _Parts:
    """A build's graph, cut at its layers, and the values of these."""

    job: JobContext
    look: Look
    built: Mapping[str, Sequence[Array]]

    def compared(self, name: str, seen: Seen) -> dict[str, Any]:
        """The record of one layer."""
        if seen.reason:
            return {"reason": seen.reason}
        record = {"graph": seen.graph, "accumulated": self._against_reference(name, seen.values).state()}
        return record | self._own(self.look.sites[name])

    def _own(self, site: Site) -> dict[str, Any]:
        """One layer alone, in the first form in which it computes what the build does; else in the first that runs."""
        found: dict[str, Any] = {}
        reason = ""
        for end in site.ends:
            try:
                record = self._from_end(site, end)
            except KeyError as error:
                reason = reason or f"the type of {error.args[0]!r} is not known"
                continue
            except HwbenchError as error:
                reason = reason or str(error)[:300]
                continue
            found = found or record
            if record and math.isinf(record["agreement_db"]):
                found = record
                break
        return found or {"own_reason": f"the layer does not run alone: {reason or 'its values are off their grid'}"}

    def _from_end(self, site: Site, end: str) -> dict[str, Any]:
        cutter = self.look.cutter
        stops = [*(name for name in self.built if name != site.name), *cutter.inputs]
        part = cutter.segment(stops, [end])
        before = [value.name for value in part.graph.input if value.name in self.built]
        fed = [*self._from_reference(before), *self._from_build(before)]
        made = [site.stored(end, tensors[end], self._dtype(site)) for tensors in self.look.run(part, fed, [end])]
        values = [value for value in made if value is not None]
        if len(values) < len(made):
            return {}
        count = len(self.look.inputs)
        own = self._against_reference(site.name, values[:count])
        return {"own": own.state(), "agreement_db": self._agreement(site, values[count:])}

    def _against_reference(self, name: str, values: Sequence[Array]) -> Fidelity:
        fidelity, theirs = Fidelity(), Site(name, **self.job.params["reference_layers"][name])
        for batch, value in enumerate(values):
            fidelity.add(_number(theirs, self._reference(name, batch)), _number(self.look.sites[name], value))
        return fidelity

    def _agreement(self, site: Site, values: Sequence[Array]) -> float:
        """SQNR of a layer computed alone against the same layer in the build, in dB; infinite where they are equal."""
        fidelity = Fidelity()
        pairs = [(storable(wanted), storable(got)) for wanted, got in zip(self.built[site.name], values, strict=True)]
        if all(wanted.tobytes() == got.tobytes() for wanted, got in pairs):
            return math.inf
        for wanted, got in pairs:
            fidelity.add(_number(site, wanted), _number(site, got))
        return fidelity.result().sqnr_db

    def _from_reference(self, names: Sequence[str]) -> State:
        """The inputs, and tensors of the reference, as floats."""
        sites = {name: Site(name, **self.job.params["reference_layers"][name]) for name in names}
        count = len(self.look.inputs)
        loaded = [{name: sites[name].real(self._reference(name, batch)) for name in names} for batch in range(count)]
        return joined(self.look.inputs, loaded)

    def _from_build(self, names: Sequence[str]) -> State:
        """The inputs, and tensors of the build, as floats."""
        sites, count = self.look.sites, len(self.look.inputs)
        found = [
            {name: sites[name].real(storable(self.built[name][batch])) for name in names} for batch in range(count)
        ]
        return joined(self.look.inputs, found)

    def _reference(self, name: str, batch: int) -> Array:
        loaded: Array = np.load(Path(self.job.params["reference"][name][batch]), allow_pickle=False)
        return loaded

    def _dtype(self, site: Site) -> np.dtype[Any]:
        kind = self.look.cutter.types[site.built].type.tensor_type.elem_type
        return np.dtype(helper.tensor_dtype_to_np_dtype(kind))


def _number(site: Site, value: Array) -> Array:
    """A layer's value as float32, with an axis at least."""
    return np.atleast_1d(site.number(storable(value)))
