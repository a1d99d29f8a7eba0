"""Task: compute each layer of a build alone, fed by the reference's tensors, so that its own error is seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
from onnx import helper

from hwbench.errors import HwbenchError
from hwbench.faults.cuts import GraphCutter
from hwbench.worker.looking import Runner, Site, State, batches, joined, save, storable
from hwbench.worker.protocol import JobContext


def run(job: JobContext) -> dict[str, Any]:
    """Compute every layer of the job from the layers before it, as the reference has them.

    A layer is the part of the graph between its tensor and the nearest other layers. It starts from floats, so that the
    build's own QuantizeLinear nodes quantize what it is fed. Each part is also fed by the build's own tensors: it should then
    give the build's own tensor, bit for bit.

    Params:
        model, inputs, n, batch: As for `hwbench.worker.tasks.layers`.
        layers: Layer to the fields of `hwbench.worker.looking.Site`; those that both graphs could be looked at in.
        reference_layers: The same of the reference's graph.
        built, reference: Layer to the ``.npy`` files, one a batch, of the build's tensor and of the reference's.

    Returns:
        Nothing. Per variant, which is a layer: ``arrays``, the files of the tensor fed by the reference's, one a batch;
        ``alone``, those of the tensor fed by the build's, empty where they are the build's own; or ``reason``, why there
        is none.
    """
    parts = _Parts(
        job,
        Runner(job.load_backend(), job.options),
        GraphCutter(onnx.load(job.params["model"])),
        _sites(job.params["layers"]),
        _sites(job.params["reference_layers"]),
        batches(job.params["inputs"], job.params["n"], job.params["batch"]),
    )
    for name in job.variants:
        job.start(name)
        job.done(name, parts.own(parts.sites[name]))
    return {}


@dataclass(frozen=True)
class _Parts:
    """A build's graph, cut at its layers."""

    job: JobContext
    run: Runner
    cutter: GraphCutter
    sites: Mapping[str, Site]
    theirs: Mapping[str, Site]
    inputs: State

    def own(self, site: Site) -> dict[str, Any]:
        """One layer, in the first form in which it computes what the build does; else in the first that runs."""
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
            if record and not record["alone"]:
                found = record
                break
        return found or {"reason": f"the layer does not run alone: {reason or 'its values are off their grid'}"}

    def _from_end(self, site: Site, end: str) -> dict[str, Any]:
        stops = [*(name for name in self.sites if name != site.name), *self.cutter.inputs]
        part = self.cutter.segment(stops, [end])
        before = [value.name for value in part.graph.input if value.name in self.sites]
        fed = [*self._fed("reference", self.theirs, before), *self._fed("built", self.sites, before)]
        made = [site.stored(end, tensors[end], self._dtype(site)) for tensors in self.run(part, fed, [end])]
        values = [value for value in made if value is not None]
        if len(values) < len(made):
            return {}
        count, stem = len(self.inputs), f"layer-{list(self.sites).index(site.name)}-{site.ends.index(end)}"
        ours = [storable(value) for value in values[count:]]
        exact = all(
            mine.tobytes() == np.load(path, allow_pickle=False).tobytes()
            for mine, path in zip(ours, self.job.params["built"][site.name], strict=True)
        )
        alone = [] if exact else save(self.job, f"{stem}-alone", ours)
        return {"arrays": save(self.job, stem, values[:count]), "alone": alone}

    def _fed(self, source: str, sites: Mapping[str, Site], names: Sequence[str]) -> State:
        """The inputs, and tensors of the build or of the reference, as floats."""
        files: Mapping[str, Sequence[str]] = self.job.params[source]
        loaded = [
            {name: sites[name].real(np.load(files[name][batch], allow_pickle=False)) for name in names}
            for batch in range(len(self.inputs))
        ]
        return joined(self.inputs, loaded)

    def _dtype(self, site: Site) -> np.dtype[Any]:
        kind = self.cutter.types[site.built].type.tensor_type.elem_type
        return np.dtype(helper.tensor_dtype_to_np_dtype(kind))


def _sites(layers: Mapping[str, Mapping[str, Any]]) -> dict[str, Site]:
    return {name: Site(name, **fields) for name, fields in layers.items()}
