"""Task: run fault trials over all inputs and count what became of each (masked, SDC, DUE)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from hwbench.backend import Array, Backend, Session
from hwbench.errors import HwbenchError
from hwbench.faults import names
from hwbench.faults.fault import Fault, in_channel
from hwbench.topk import topk
from hwbench.worker.chunks import Chunks, identical
from hwbench.worker.engine import Engine, LaneFault, Observer, precisions
from hwbench.worker.outcomes import Outcomes
from hwbench.worker.perturb import stored_initializers
from hwbench.worker.plan import LayerPlan
from hwbench.worker.protocol import CONTROL, JobContext
from hwbench.worker.rebuilds import Rebuilds

LOST = "lost"


def run(job: JobContext) -> dict[str, Any]:
    """Carry out a shard of trials.

    Params:
        model: Path of the deployed ONNX.
        inputs, labels: ``.npy`` paths; labels may be empty.
        n, chunk: How many inputs, and how many are held at a time.
        order: Rows of the files that are the inputs, in this order; null or absent for the first ``n``.
        ranges: For each trial the first of its inputs and the one after its last, by their place in that order; null or
            absent where every trial runs over all.
        output: The output that outcomes are told by.
        outcome: ``{"kind": "top1"}``, or ``{"kind": "tolerance", "tolerance": t}`` for outputs that are no classifier's.
        plan: Segments of the cut graph, from `hwbench.faults.segments`; empty for a full rebuild per trial.
        faults: One ``[tensor, element, bit, kind, width, value]`` a trial.
        exact: Whether the segmented golden output must equal the whole build's bit for bit (integer builds).
        only_correct: Whether only inputs count that are right when fault-free.
        batch: The batch size the graph is fixed to, or None.

    Variants, if there are any, are trials to run one by one by a full rebuild, so that one that kills the worker costs itself;
    ``"lost"`` tells what each of the trials counts if it gives nothing.

    Returns:
        ``checks``: how the segmented golden output compares with the whole build's, before and after; the ``reason`` where
        trials that lie in a layer were run by a full rebuild nevertheless; how many could not be told even so (``untold``).
        Array ``counts``: int64, one row a trial, columns `hwbench.worker.outcomes.COLUMNS`. Arrays ``max_abs_error`` and
        ``loss_change``: float64 per trial.
    """
    faults = [Fault(*fault) for fault in job.params["faults"]]
    campaign = _Campaign(job, faults)
    if job.variants:
        for name in job.variants:
            job.start(name)
            if name == LOST:
                job.done(name, {"trials": campaign.rebuilds.lost()})
                continue
            if name.startswith(CONTROL):
                campaign.rebuilds.control(int(name.removeprefix(CONTROL)))
                job.done(name, {})
                continue
            campaign.rebuilds.run([int(name)])
            job.done(name, campaign.outcomes.record(int(name)))
        return {}
    checks = campaign.segmented() if job.params["plan"] else {"segmented": False, "reason": ""}
    if campaign.left:
        campaign.rebuilds.run(campaign.left)
    job.save("counts", campaign.outcomes.counts)
    job.save("max_abs_error", campaign.outcomes.max_abs_error)
    job.save("loss_change", campaign.outcomes.loss_change)
    return {"checks": {**checks, "rebuilt": len(campaign.left), "untold": len(campaign.rebuilds.untold)}}


@dataclass
class _Work:
    """The trials of one layer.

    Attributes:
        lanes: Those that change one channel.
        whole: Those for which all channels are computed.
        between: Those in the tensor that stands in the place of a layer.
    """

    lanes: list[LaneFault] = field(default_factory=list)
    whole: list[int] = field(default_factory=list)
    between: list[int] = field(default_factory=list)

    def among(self, trials: Array) -> _Work:
        """Those of some trials, ``[trials]`` of bool."""
        if trials.all():
            return self
        whole, between = ([trial for trial in kind if trials[trial]] for kind in (self.whole, self.between))
        return _Work([fault for fault in self.lanes if trials[fault.trial]], whole, between)

    def give_up(self) -> set[int]:
        """Take all trials away, and return them."""
        trials = {*self.whole, *self.between, *(fault.trial for fault in self.lanes)}
        for kind in (self.lanes, self.whole, self.between):
            kind.clear()
        return trials


class _Campaign:
    """The trials of one shard."""

    def __init__(self, job: JobContext, faults: Sequence[Fault]) -> None:
        self._job, self._faults = job, faults
        params = job.params
        self._model, self._chunks = Path(params["model"]), Chunks(params, job.alive)
        self._backend: Backend = job.load_backend()
        self._stored = stored_initializers(onnx.load(self._model))
        labels = self._chunks.rows(Path(params["labels"]), 0, self._chunks.n) if params["labels"] else None
        self.outcomes = Outcomes(len(faults), params["outcome"], labels, only_correct=params["only_correct"])
        self.rebuilds = Rebuilds(job, faults, self.outcomes, self._chunks, self._same_answers)
        self.left = list(range(len(faults)))
        self._left_over: set[int] = set()  # trials that the engine cannot tell

    def segmented(self) -> dict[str, Any]:
        """Run every trial that lies in a lane through the engine, after proving that its golden output is the whole build's."""
        plan = self._job.params["plan"]
        layers = [LayerPlan.of(layer) for layer in plan["layers"]]
        work, self._left_over = self._sorted(layers)
        checks = {
            "golden_max_abs_diff": 0.0,
            "golden_equal": True,
            "golden_compared": 0,
            "golden_restored": True,
            "lane_max_abs_diff": 0.0,
            "reason": "",
        }
        with self._backend.compile(self._model, self._job.options) as session, closing(self._engine(session)) as engine:
            try:
                segmented = self._through(engine, layers, work, session, checks)
            except HwbenchError as error:  # the runtime takes the whole build, but not this part of it
                segmented, checks["reason"] = False, f"a part of the graph cannot be run: {error}"
        self.left = sorted(self._left_over) if segmented else self.left
        return {**checks, "segmented": segmented}

    def _engine(self, session: Session) -> Engine:
        """An engine that holds its segments against the whole build, where that does not compute in one format only."""
        plan = self._job.params["plan"]
        found = {node: precision for node, precision in precisions(session).items() if node in plan["nodes"]}
        return Engine(
            self._backend,
            self._job.options,
            self._stored,
            plan["checkpoints"],
            plan["chain"],
            self._job.params["batch"],
            precisions=found if set(found.values()) - {"fp32"} else {},
        )

    def _through(
        self,
        engine: Engine,
        layers: Sequence[LayerPlan],
        work: Mapping[str, _Work],
        session: Session,
        checks: dict[str, Any],
    ) -> bool:
        """Take all inputs through the layers; False if the segmented golden output is not the whole build's."""
        first: Array | None = None
        doubted = set()
        for start, feeds in self._chunks:
            whole = self._chunks.outputs(session, feeds)
            golden = engine.start(feeds, whole)
            if engine.chain and not self._agrees(checks, golden, whole):
                return False
            for layer in layers:
                self._job.alive()
                engine.advance(layer)
                todo = work[layer.out]
                if first is None and (doubt := self._doubt(engine, layer, golden, todo, checks)):
                    checks["reason"] = doubt
                    self._left_over |= todo.give_up()
                    doubted.add(layer.out)
                here = self._chunks.within(range(len(self._faults)), start, len(golden))
                todo = todo.among(here[:, 0] < here[:, 1])
                self._lanes(engine, layer, todo.lanes, here, start, golden, checks)
                self._whole(engine, layer, todo.whole, here, start, golden, checks)
                self._between(engine, layer, todo.between, here, start, golden)
                # without a chain of segments to compare with the whole, all inputs go from cut to cut, and on from the last
                carried = not engine.chain and layer is layers[-1] and layer.out not in doubted
                last = engine.alone(layer, np.arange(len(golden)), lanes=True) if carried else None
                if last is not None and not self._agrees(checks, last, whole):
                    return False
                if self._chunks.n <= self._chunks.size:  # no other chunk will ask for them again
                    engine.release(layer)
            first = golden if first is None else first
        _, feeds = next(iter(self._chunks))
        again = engine.start(feeds, self._chunks.outputs(session, feeds))
        checks["golden_restored"] &= first is not None and identical(again, first)
        return True

    def _lanes(
        self,
        engine: Engine,
        layer: LayerPlan,
        faults: Sequence[LaneFault],
        here: Array,
        start: int,
        golden: Array,
        checks: dict[str, Any],
    ) -> None:
        """One chunk of the trials that change one channel of a layer."""
        size = layer.lanes // 2
        for first in range(0, len(faults), size):
            batch = faults[first : first + size]
            trials = [fault.trial for fault in batch]
            places, bounds = np.arange(len(golden)), here[trials]
            wanted = (bounds[:, :1] <= places) & (places < bounds[:, 1:])
            self.outcomes.expect(np.array(trials), start, golden, wanted)
            self._job.alive()
            try:
                apart = engine.lanes(layer, batch, self._observer(start, golden), wanted)
            except HwbenchError:  # the runtime refuses one of these faults; which one, a full rebuild of each tells
                self._left_over.update(trials)
                continue
            checks["lane_max_abs_diff"] = max(checks["lane_max_abs_diff"], apart)
            if apart and self._job.params["exact"]:
                self._left_over.update(trials)

    def _whole(
        self,
        engine: Engine,
        layer: LayerPlan,
        trials: Sequence[int],
        here: Array,
        start: int,
        golden: Array,
        checks: dict[str, Any],
    ) -> None:
        """One chunk of the trials for which a layer is computed with all its channels: changed, and put back after each."""
        before = engine.layer(layer, {}) if trials else None
        for trial in trials:
            fault, inputs = self._faults[trial], slice(*here[trial])
            self.outcomes.expect(np.array([trial]), start + inputs.start, golden[inputs])
            self._job.alive()
            try:
                out = engine.layer(layer, {fault.tensor: fault.apply(self._stored[fault.tensor])}, inputs)
                engine.follow(layer, trial, out, self._observer(start, golden), inputs)
            except HwbenchError:  # the runtime refuses it; on which inputs, a full rebuild tells
                self._left_over.add(trial)
        if before is not None:
            checks["golden_restored"] &= identical(before, engine.layer(layer, {}))

    def _between(
        self, engine: Engine, tensor: LayerPlan, trials: Sequence[int], here: Array, start: int, golden: Array
    ) -> None:
        """One chunk of the trials in a tensor between operators; inputs on which its value stays as it was are masked."""
        value = engine.golden(tensor)
        batch: list[tuple[Array, Array, Array]] = []
        for at, trial in enumerate(trials, 1):
            first, last = here[trial]
            self.outcomes.expect(np.array([trial]), start + first, golden[first:last])
            inputs, faulty = self._faults[trial].in_rows(value[first:last])
            batch.append((np.full(len(inputs), trial), first + inputs, faulty))
            if at < len(trials) and sum(len(part[1]) for part in batch) < engine.pairs:
                continue
            of, inputs, faulty = (np.concatenate(parts) for parts in zip(*batch, strict=True))
            batch.clear()
            self._job.alive()
            try:
                engine.replaced(tensor, of, inputs, faulty, self._observer(start, golden))
            except HwbenchError:  # the runtime refuses one of these faults; which one, a full rebuild of each tells
                self._left_over.update(of.tolist())

    def _observer(self, start: int, golden: Array) -> Observer:
        def observe(trials: Array, inputs: Array, outputs: Array) -> None:
            self.outcomes.pairs(trials, start + inputs, outputs, golden[inputs])

        return observe

    def _doubt(self, engine: Engine, layer: LayerPlan, golden: Array, todo: _Work, checks: dict[str, Any]) -> str:
        """Why trials in a layer cannot be told by its segments; empty once golden outputs have shown that they can."""
        some, by_itself = np.resize([len(golden) - 1, 0], 3 if len(golden) == 2 else 2), None
        try:
            ways = [lanes for lanes, trials in ((True, todo.lanes), (False, todo.whole or todo.between)) if trials]
            made = [engine.alone(layer, some, lanes=way) for way in ways]
            if todo.whole and self._job.params["exact"]:
                by_itself = engine.layer(layer, {})
        except HwbenchError as error:
            return f"the graph cannot be cut after {layer.out!r}: {error}"
        if any(one is None or not self._same_answers(one, golden[some]) for one in made):
            return f"the graph after {layer.out!r} does not give the same for some inputs alone"
        if by_itself is not None and not identical(by_itself, engine.golden(layer)):
            return f"{layer.out!r} is not the same, bit for bit, where its layer is run by itself"
        for one in made:
            if one is not None:
                self._compared(checks, one, golden[some])
        return ""

    def _sorted(self, layers: Sequence[LayerPlan]) -> tuple[dict[str, _Work], set[int]]:
        """The trials of each layer, by its output, and those that are in none."""
        homes = {name: layer for layer in layers for name in layer.own}
        work = {layer.out: _Work() for layer in layers}
        left = set()
        for trial, fault in enumerate(self._faults):
            between = names.activation_of(fault.tensor)
            if between in work:
                work[between].between.append(trial)
                continue
            home = homes.get(fault.tensor)
            if home is None:
                left.add(trial)
                continue
            array = self._stored[fault.tensor]
            laned = fault.tensor in home.laned and in_channel(fault, array, home.parameters[fault.tensor])
            if laned:
                work[home.out].lanes.append(LaneFault(trial, fault.tensor, *laned))
            else:
                work[home.out].whole.append(trial)
        return work, left

    def _agrees(self, checks: dict[str, Any], golden: Array, whole: Array) -> bool:
        """Whether a chunk's segmented golden output is the whole build's, as far as this campaign asks."""
        self._compared(checks, golden, whole)
        if same := self._same_answers(golden, whole):
            return same
        checks["reason"] = "the segmented golden output is not the whole build's"
        return False

    def _compared(self, checks: dict[str, Any], golden: Array, whole: Array) -> None:
        """Keep account of how far segmented outputs are from the whole build's, and of how many were compared."""
        checks["golden_compared"] += len(golden)
        if golden.shape == whole.shape:
            apart = float(np.max(np.abs(golden.astype(np.float64) - whole), initial=0.0))
            checks["golden_max_abs_diff"] = max(checks["golden_max_abs_diff"], apart)
        checks["golden_equal"] &= identical(golden, whole)

    def _same_answers(self, a: Array, b: Array) -> bool:
        """Whether outputs are the same: bit for bit for integer builds, else in all that outcomes are told by."""
        if self._job.params["exact"] or a.shape != b.shape:
            return identical(a, b)
        if self._job.params["outcome"]["kind"] == "top1":
            return np.array_equal(topk(a, 1), topk(b, 1))
        return np.allclose(a, b, rtol=0, atol=self._job.params["outcome"]["tolerance"], equal_nan=True)
