"""Runs faults through the segments of a cut graph, so that each costs only what comes after it.

For one chunk of inputs at a time the golden tensors are carried from layer to layer. A batch of faults in one layer is
computed as lanes (one output channel a fault), put in place of the golden channels; a fault that reaches more than a channel
is computed with its whole layer. Only the inputs on which something changed go on, through the rest of the graph up to the
next checkpoint; there, those whose tensors equal the golden ones again are dropped: nothing that follows can tell them from
the fault-free run.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from hwbench.backend import Array, Backend, Session
from hwbench.errors import UnsupportedError
from hwbench.worker.plan import LayerPlan, UpdatePlan

State = dict[str, Array]
_ALL = slice(None)


@dataclass(frozen=True)
class LaneFault:
    """One fault that changes one output channel of a layer.

    Attributes:
        trial: Its place among the trials.
        tensor: The initializer.
        channel: The channel.
        value: The channel's slice of the initializer, with the fault.
    """

    trial: int
    tensor: str
    channel: int
    value: Array


Flags = np.ndarray[Any, np.dtype[np.bool_]]
Observer = Callable[[np.ndarray[Any, np.dtype[np.int64]], np.ndarray[Any, np.dtype[np.int64]], Array], None]


@dataclass
class Engine:
    """The sessions of a cut graph and the golden tensors of the present chunk.

    Attributes:
        backend: What compiles the segments.
        options: Its options.
        stored: The build's initializers.
        checkpoints: The tensors at each checkpoint; the last one is the model's output.
        chain: The segments from inputs to the first checkpoint, from there to the second, ...; empty without checkpoints before
            the output.
        fixed_batch: The batch size the graph is fixed to; None if it takes any.
        pairs: How many (fault, input) pairs are run at once, at least.
        room: Bytes; more pairs are run at once where what they start from fits in.
        precisions: What nodes of the whole graph compute in. A segment in which one computes in something else is refused: its
            kernels are others, so that its numbers may be, for a fault, even where the golden ones agree.
    """

    backend: Backend
    options: Mapping[str, Any]
    stored: Mapping[str, Array]
    checkpoints: Sequence[Sequence[str]]
    chain: Sequence[str]
    fixed_batch: int | None = None
    pairs: int = 16
    room: int = 1 << 21
    precisions: Mapping[str, str] = field(default_factory=dict)
    _sessions: dict[tuple[str, tuple[str, ...]], Session] = field(default_factory=dict)
    _golden: list[State] = field(default_factory=list)
    _here: State = field(default_factory=dict)
    _rows: State = field(default_factory=dict)

    def start(self, inputs: State, whole: Array) -> Array:
        """Take a chunk of inputs.

        Args:
            inputs: The chunk.
            whole: The whole build's output for it.

        Returns:
            The golden output of the chain of segments; where there is none, the whole build's.
        """
        output = self.checkpoints[-1][0]
        self._here, self._golden, state = inputs, [], inputs
        for file, names in zip(self.chain, self.checkpoints, strict=False):
            state = self._run(file, state, names)
            self._golden.append(state)
        self._golden = self._golden or [{output: whole}]
        return self._golden[-1][output]

    def advance(self, layer: LayerPlan) -> None:
        """Carry the golden tensors to just after a layer; layers come in graph order."""
        update = [layer.update.y] if layer.update else []
        wanted = list(dict.fromkeys([*layer.cut, layer.out, layer.x, *update]))
        made = self._run(layer.advance, self._here, wanted)
        self._rows = {}
        self._x, self._y = made[layer.x], made[update[0]] if update else np.empty(0)
        self._here = {name: made[name] for name in {*layer.cut, layer.out}}

    def lanes(
        self, layer: LayerPlan, faults: Sequence[LaneFault], observe: Observer, wanted: Flags | None = None
    ) -> float:
        """Run a batch of at most ``layer.lanes // 2`` faults of one layer over the chunk.

        Args:
            layer: The layer, which `advance` has reached.
            faults: Faults in its parameters.
            observe: Called with trial numbers ``[b]``, input indices ``[b]`` and outputs ``[b, ...]`` of the pairs whose output
                may differ from the golden one, which it must not keep: their memory is used again; pairs it is never called
                with are masked.
            wanted: Whether a fault is run on an input of the chunk, ``[faults, inputs]``; None for all.

        Returns:
            How far the lanes' fault-free channels are from the layer's own, at most; 0 for integer builds.
        """
        faulty, golden = self._channels(layer, faults)
        own = np.moveaxis(self._here[layer.out], layer.axis, 0)[[fault.channel for fault in faults]]
        apart = float(np.max(np.abs(golden.astype(np.float64) - own), initial=0.0))
        changed = _differs(faulty, golden, leading=2) & (True if wanted is None else wanted)
        fault_index, input_index = np.nonzero(changed)
        update = self._update(layer)
        size = self._at_once(layer)
        for start in range(0, len(fault_index), size):
            some, inputs = fault_index[start : start + size], input_index[start : start + size]
            channels = np.array([faults[at].channel for at in some])
            state = self._gathered({name: self._here[name] for name in (update or layer).cut}, inputs)
            out = state.get(layer.out)
            if out is not None:
                np.moveaxis(out, layer.axis, 1)[np.arange(len(some)), channels] = faulty[some, inputs]
            if update:
                with np.errstate(all="ignore"):
                    change = faulty[some, inputs] - golden[some, inputs]
                state |= self._updated(update, inputs, change, channels)
            trials = np.array([faults[at].trial for at in some])
            self._finish(layer, update, state, trials, inputs, observe)
        return apart

    def layer(self, layer: LayerPlan, changes: State, inputs: slice = _ALL) -> Array:
        """A layer's output for the chunk, all its channels computed.

        Args:
            layer: The layer, which `advance` has reached.
            changes: New content of some of its own initializers.
            inputs: Which of the chunk's inputs.
        """
        session = self._session(layer.layer, tuple(layer.own))
        for name, value in changes.items():
            session.update(name, value)
        try:
            return self._call(session, {layer.x: self._x[inputs]}, [layer.out])[layer.out]
        finally:
            for name in changes:
                session.update(name, self.stored[name])

    def golden(self, layer: LayerPlan) -> Array:
        """The golden output of a layer, which `advance` has reached."""
        return self._here[layer.out]

    def follow(self, layer: LayerPlan, trial: int, out: Array, observe: Observer, inputs: slice = _ALL) -> None:
        """Take what a fault makes of a layer's output through the rest of the graph.

        Args:
            layer: The layer.
            trial: The fault's place among the trials.
            out: From `layer`.
            observe: As for `lanes`.
            inputs: As for `layer`.
        """
        first = inputs.start or 0
        changed = np.flatnonzero(_differs(out, self._here[layer.out][inputs]))
        size = self._at_once(layer)
        for start in range(0, len(changed), size):
            some = changed[start : start + size]
            state = {name: out[some] if name == layer.out else self._here[name][first + some] for name in layer.cut}
            self._finish(layer, None, state, np.full(len(some), trial), first + some, observe)

    def replaced(self, layer: LayerPlan, trials: Array, inputs: Array, out: Array, observe: Observer) -> None:
        """Take (trial, input) pairs, each with a layer's output of its own, through the rest of the graph.

        Args:
            layer: The layer, or the tensor in place of one.
            trials: Trial of each pair, ``[b]``.
            inputs: Input of each pair, an index in the chunk, ``[b]``.
            out: What stands for ``layer.out``, ``[b, ...]``.
            observe: As for `lanes`.
        """
        size = self._at_once(layer)
        for start in range(0, len(inputs), size):
            some = slice(start, start + size)
            state = {name: out[some] if name == layer.out else self._here[name][inputs[some]] for name in layer.cut}
            self._finish(layer, None, state, trials[some], inputs[some], observe)

    def alone(self, layer: LayerPlan, inputs: Array, *, lanes: bool) -> Array | None:
        """The golden output of some of the chunk's inputs, run without the others from the cut after a layer on.

        Args:
            layer: The layer, which `advance` has reached.
            inputs: Their indices, in any order.
            lanes: Whether by the way that faults of one channel go, or by that of the others.

        Returns:
            ``[len(inputs), ...]``; None if a tensor of the cut has not one row an input.
        """
        state = {name: self._here[name] for name in layer.cut}
        if any(value.shape[:1] != self._golden[-1][self.checkpoints[-1][0]].shape[:1] for value in state.values()):
            return None
        update = self._update(layer) if lanes else None
        state = {name: value[inputs] for name, value in state.items()}
        if update:
            unchanged = np.zeros_like(np.take(self._here[layer.out][inputs], 0, axis=layer.axis))
            state |= self._updated(update, inputs, unchanged, np.zeros(len(inputs), dtype=np.int64))
        for file, at in self._steps(layer, update):
            state = self._run(file, state, self.checkpoints[at])
        return state[self.checkpoints[-1][0]]

    def release(self, layer: LayerPlan) -> None:
        """Give back the memory of a layer's sessions, which are compiled again if they are asked for again."""
        files = {layer.advance, layer.lane, layer.layer, layer.rest, layer.update.file if layer.update else ""}
        for key in [key for key in self._sessions if key[0] in files.difference(self.chain)]:
            self._sessions.pop(key).close()

    def close(self) -> None:
        """Release all sessions."""
        for session in self._sessions.values():
            session.close()

    def _channels(self, layer: LayerPlan, faults: Sequence[LaneFault]) -> tuple[Array, Array]:
        """The faulty and the golden channel of every fault, ``[faults, inputs, ...]``, computed by the same kernel."""
        session = self._session(layer.lane, tuple(layer.parameters))
        channels = np.array([fault.channel for fault in faults])
        places = np.resize(np.concatenate([channels, channels]), layer.lanes)
        for name, axis in layer.parameters.items():
            value = np.take(self.stored[name], places, axis=axis)
            view = np.moveaxis(value, axis, 0)
            for lane, fault in enumerate(faults):
                if fault.tensor == name:
                    view[lane] = fault.value
            session.update(name, value)
        x = np.take(self._x, places, axis=1) if layer.depthwise else self._x
        made = np.moveaxis(self._call(session, {layer.x: x}, [layer.out])[layer.out], layer.axis, 0)
        return made[: len(faults)], made[len(faults) : 2 * len(faults)]

    def _at_once(self, layer: LayerPlan) -> int:
        """How many pairs are run at once: a call costs something, and so does what does not fit into a processor's cache."""
        row = sum(self._here[name][:1].nbytes for name in layer.cut)
        return max(self.pairs, self.room // max(1, row))

    def _update(self, layer: LayerPlan) -> UpdatePlan | None:
        """A layer's update; none in a graph that computes in other formats too, where rounding makes more of a difference."""
        return None if self.precisions else layer.update

    def _updated(self, update: UpdatePlan, inputs: Array, change: Array, channels: Array) -> State:
        """What an update reads besides the cut: rows of some inputs, of which each has a change in a channel of its own."""
        column = np.moveaxis(np.take(self.stored[update.weight], channels, axis=1), 1, 0)
        golden = self._gathered({update.golden: self._y}, inputs)
        return {**golden, update.change: change[:, None], update.column: column}

    def _gathered(self, tensors: State, inputs: Array) -> State:
        """Rows of tensors, to be overwritten, in memory that the next call uses again."""
        state = {}
        for name, value in tensors.items():
            if name not in self._rows or len(self._rows[name]) < len(inputs):
                self._rows[name] = np.empty((len(inputs), *value.shape[1:]), value.dtype)
            # mode: with the default one numpy copies twice, so that an index out of range leaves no half-written output
            state[name] = np.take(value, inputs, axis=0, out=self._rows[name][: len(inputs)], mode="clip")
        return state

    def _finish(
        self,
        layer: LayerPlan,
        update: UpdatePlan | None,
        state: State,
        trials: Array,
        inputs: Array,
        observe: Observer,
    ) -> None:
        for file, at in self._steps(layer, update):
            names = self.checkpoints[at]
            state = self._run(file, state, names)
            if at + 1 == len(self.checkpoints):
                observe(trials, inputs, state[names[0]])
                return
            kept = np.zeros(len(inputs), dtype=bool)
            for name in names:
                kept |= _differs(state[name], self._golden[at][name][inputs])
            if not kept.any():
                return
            if not kept.all():
                state = {name: value[kept] for name, value in state.items()}
                trials, inputs = trials[kept], inputs[kept]

    def _steps(self, layer: LayerPlan, update: UpdatePlan | None) -> Iterator[tuple[str, int]]:
        """The segments from the cut after a layer to the output, each with the checkpoint it leads to."""
        steps = [update.file if update else layer.rest, *self.chain[layer.checkpoint + 1 :]]
        return zip(steps, range(layer.checkpoint, len(self.checkpoints)), strict=True)

    def _run(self, file: str, state: State, outputs: Sequence[str]) -> State:
        """Run a segment; tensors asked for that it does not make are passed through."""
        passed = {name: state[name] for name in outputs if name in state}
        made = [name for name in outputs if name not in passed]
        if not made:
            return passed
        return {**passed, **self._call(self._session(file), state, made)}

    def _call(self, session: Session, state: State, outputs: Sequence[str]) -> State:
        feeds = {spec.name: np.ascontiguousarray(state[spec.name]) for spec in session.inputs}
        count = len(next(iter(feeds.values())))
        if self.fixed_batch in (None, count):
            made = session.run(feeds)
            return {name: made[name] for name in outputs}
        size = self.fixed_batch or count
        parts: dict[str, list[Array]] = {name: [] for name in outputs}
        for start in range(0, count, size):
            part = {name: value[start : start + size] for name, value in feeds.items()}
            short = size - len(next(iter(part.values())))
            full = {name: np.concatenate([value, np.repeat(value[-1:], short, axis=0)]) for name, value in part.items()}
            made = session.run(full)
            for name in outputs:
                parts[name].append(made[name][: size - short])
        return {name: np.concatenate(values) for name, values in parts.items()}

    def _session(self, file: str, mutable: tuple[str, ...] = ()) -> Session:
        key = file, mutable
        if key not in self._sessions:
            self._sessions[key] = self._compiled(Path(file), mutable)
        return self._sessions[key]

    def _compiled(self, file: Path, mutable: tuple[str, ...]) -> Session:
        session = self.backend.compile(file, self.options, mutable)
        for node, precision in precisions(session).items() if self.precisions else ():
            whole = self.precisions.get(node, precision)
            if precision != whole:
                session.close()
                raise UnsupportedError(
                    f"{node!r} computes in {precision} in a part of the graph, in {whole} in the whole"
                )
        return session


def precisions(session: Session) -> dict[str, str]:
    """What the ONNX nodes of a session compute in, as far as its runtime tells."""
    return {node: made.precision for made in session.executed() for node in made.onnx_nodes if made.precision}


def _differs(a: Array, b: Array, leading: int = 1) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Whether arrays differ anywhere, for each place of their ``leading`` axes; a NaN differs from everything."""
    different: np.ndarray[Any, np.dtype[np.bool_]] = (a != b).reshape(*a.shape[:leading], -1).any(axis=-1)
    return different
