from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx
import pytest
from campaigns import Row, bare_onnxruntime, patched, random_faults
from hwbench_onnxruntime import OnnxRuntimeBackend
from models import feeds, mlp, small_cnn, static_int8

from hwbench.errors import InputError
from hwbench.faults.cuts import GraphCutter
from hwbench.faults.fault import Fault, in_channel
from hwbench.faults.segments import write_segments
from hwbench.worker.engine import Engine, LaneFault
from hwbench.worker.perturb import stored_initializers
from hwbench.worker.plan import LayerPlan

pytestmark = pytest.mark.isa
INPUTS = 9


@dataclass
class Cut:
    """A model cut at all its layers, and an engine that runs it."""

    model: onnx.ModelProto
    inputs: dict[str, np.ndarray]
    engine: Engine
    layers: list[LayerPlan]
    golden: np.ndarray

    def whole(self, fault: Row) -> np.ndarray:
        """What a plain session of the whole faulty graph gives."""
        made = bare_onnxruntime(patched(self.model, fault), self.inputs)
        assert made is not None
        return made

    def changed(self, fault: Row) -> np.ndarray:
        """The tensor a fault is in, with it."""
        return Fault(*fault).apply(self.engine.stored[fault[0]])

    def lanes(self, faults: list[Row], layer: LayerPlan) -> list[LaneFault]:
        """Those faults that lie in a layer's lanes."""
        found = []
        for trial, fault in enumerate(faults):
            if fault[0] in layer.laned:
                inside = in_channel(Fault(*fault), self.engine.stored[fault[0]], layer.parameters[fault[0]])
                found += [LaneFault(trial, fault[0], *inside)] if inside else []
        return found


def cut(model: onnx.ModelProto, folder: Path, **settings) -> Cut:
    cutter = GraphCutter(model)
    plan = write_segments(cutter, cutter.layers, folder, cutter.outputs[0])
    engine = Engine(
        OnnxRuntimeBackend(),
        {"intra_op_threads": 1},
        stored_initializers(model),
        plan["checkpoints"],
        plan["chain"],
        **settings,
    )
    inputs = feeds(model, batch=INPUTS)
    golden = bare_onnxruntime(model, inputs)
    assert golden is not None
    return Cut(model, inputs, engine, [LayerPlan.of(layer) for layer in plan["layers"]], golden)


MODELS = {"cnn": lambda: static_int8(small_cnn()), "mlp": lambda: static_int8(mlp())}


@pytest.fixture(params=MODELS)
def integer(request, tmp_path) -> Iterator[Cut]:
    made = cut(MODELS[request.param](), tmp_path)
    with closing(made.engine):
        yield made


def observed(made: Cut, faults: list[Row], most: int = 32) -> tuple[set[int], dict[tuple[int, int], np.ndarray]]:
    """The trials that lie in layers, and the output of every (trial, input) pair that the engine reports."""
    seen: dict[tuple[int, int], np.ndarray] = {}

    def observe(trials, inputs, outputs) -> None:
        assert len(trials) == len(inputs) == len(outputs)
        for trial, at, output in zip(trials.tolist(), inputs.tolist(), outputs, strict=True):
            assert (trial, at) not in seen
            seen[trial, at] = output.copy()

    run = set()
    made.engine.start(made.inputs, made.golden)
    for layer in made.layers:
        made.engine.advance(layer)
        lanes = made.lanes(faults, layer)
        for first in range(0, len(lanes), most):
            assert made.engine.lanes(layer, lanes[first : first + most], observe) == 0
        run |= {fault.trial for fault in lanes}
        for trial in set(range(len(faults))) - run:
            if faults[trial][0] in layer.own:
                out = made.engine.layer(layer, {faults[trial][0]: made.changed(faults[trial])})
                made.engine.follow(layer, trial, out, observe)
                run.add(trial)
    return run, seen


def test_the_golden_output_is_the_whole_graphs(integer):
    assert integer.engine.start(integer.inputs, integer.golden).tobytes() == integer.golden.tobytes()


def test_every_pair_has_the_output_of_the_whole_faulty_graph_and_pairs_left_out_have_the_golden_one(integer):
    faults = random_faults(integer.model, 200, kinds=("flip", "random_value", "stuck_at_1", "burst"))
    run, seen = observed(integer, faults)
    stored = {tensor for layer in integer.layers for tensor in layer.own}
    assert len(run) == sum(fault[0] in stored for fault in faults)
    golden, left_out = integer.golden, 0
    for trial in run:
        whole = integer.whole(faults[trial])
        for at in range(INPUTS):
            expected = seen.get((trial, at), golden[at])
            assert expected.tobytes() == whole[at].tobytes(), (faults[trial], at)
            left_out += (trial, at) not in seen
    assert left_out > 0


def test_how_many_faults_and_pairs_are_run_at_once_makes_no_difference(tmp_path):
    model = static_int8(small_cnn())
    faults = random_faults(model, 100)
    runs = []
    for number, (most, settings) in enumerate(
        [(32, {}), (1, {"pairs": 1, "room": 0}), (5, {"pairs": 1000}), (32, {"pairs": 7, "room": 0})]
    ):
        made = cut(model, tmp_path / str(number), **settings)
        with closing(made.engine):
            seen = observed(made, faults, most)[1]
        runs.append({pair: output.tobytes() for pair, output in seen.items()})
    assert runs[0]
    assert all(run == runs[0] for run in runs)


def test_a_fault_is_gone_with_its_batch(integer):
    faults = random_faults(integer.model, 60)
    first, again = observed(integer, faults), observed(integer, faults)
    assert {pair: out.tobytes() for pair, out in again[1].items()} == {
        pair: out.tobytes() for pair, out in first[1].items()
    }
    assert integer.engine.start(integer.inputs, integer.golden).tobytes() == integer.golden.tobytes()


def test_a_fault_that_changes_no_number_is_never_reported(integer):
    layer = integer.layers[-1]
    name = layer.laned[0]
    same = np.take(integer.engine.stored[name], 0, axis=layer.parameters[name])
    integer.engine.start(integer.inputs, integer.golden)
    for before in integer.layers:
        integer.engine.advance(before)

    def never(*pairs: object) -> None:
        pytest.fail(str(pairs))

    integer.engine.lanes(layer, [LaneFault(0, name, 0, same)], never)
    integer.engine.follow(layer, 0, integer.engine.layer(layer, {name: integer.engine.stored[name]}), never)


def test_a_layer_by_itself_gives_what_it_gives_in_the_graph(integer):
    integer.engine.start(integer.inputs, integer.golden)
    for layer in integer.layers:
        integer.engine.advance(layer)
        assert integer.engine.layer(layer, {}).tobytes() == integer.engine.golden(layer).tobytes()


def test_scales_and_zero_points_are_in_no_lane_beside_other_faults(integer):
    """A runtime that finds them not to fit computes the layer by other kernels, all of its channels."""
    for layer in integer.layers:
        assert layer.laned
        assert not [name for name in layer.laned if name.endswith(("_scale", "_zero_point"))]
        assert any(name.endswith("_scale") for name in layer.own)


def test_some_inputs_alone_give_what_they_give_among_the_others(integer):
    golden = integer.engine.start(integer.inputs, integer.golden)
    for layer in integer.layers:
        integer.engine.advance(layer)
        some = np.array([INPUTS - 1, 0, 0, 3])
        alone = integer.engine.alone(layer, some, lanes=True)
        assert alone is not None
        assert alone.tobytes() == golden[some].tobytes()


def test_a_graph_of_a_fixed_batch_is_fed_whole_batches(tmp_path):
    free, fixed = static_int8(small_cnn()), static_int8(small_cnn())
    for value in (*fixed.graph.input, *fixed.graph.value_info, *fixed.graph.output):
        if value.type.tensor_type.shape.dim:
            value.type.tensor_type.shape.dim[0].dim_value = 4
    faults = random_faults(free, 80)
    expected, made = cut(free, tmp_path / "free"), cut(fixed, tmp_path / "fixed", fixed_batch=4)
    made.inputs, made.golden = expected.inputs, expected.golden
    with closing(expected.engine), closing(made.engine):
        wanted, found = observed(expected, faults)[1], observed(made, faults)[1]
    assert {pair: out.tobytes() for pair, out in found.items()} == {pair: out.tobytes() for pair, out in wanted.items()}
    assert wanted


def test_closing_closes_every_session(integer):
    integer.engine.start(integer.inputs, integer.golden)
    sessions = list(integer.engine._sessions.values())
    integer.engine.close()
    assert sessions
    for session in sessions:
        with pytest.raises(InputError, match="closed"):
            session.run({})


def test_a_layer_released_is_run_again_as_before(integer):
    faults = random_faults(integer.model, 60)
    wanted = observed(integer, faults)[1]
    before = len(integer.engine._sessions)
    for layer in integer.layers:
        integer.engine.release(layer)
    assert len(integer.engine._sessions) <= len(integer.engine.chain) < before
    found = observed(integer, faults)[1]
    assert {pair: out.tobytes() for pair, out in found.items()} == {pair: out.tobytes() for pair, out in wanted.items()}
