from __future__ import annotations

import math
import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from emulation import needs_x86
from job_files import files_in
from models import feeds, make_model, mlp, saved, small_cnn, static_int8
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from onnx.utils import Extractor

from hwbench.backend import backends
from hwbench.graph import Layer, matching_layers
from hwbench.metrics import Fidelity, FidelityResult
from hwbench.targets import open_target
from hwbench.worker.protocol import Job, JobResult

N = 12
ONE_THREAD = {"onnxruntime": {"intra_op_threads": 1}, "openvino": {"inference_num_threads": 1}}
needs_onednn = pytest.mark.skipif(platform.machine() not in ("x86_64", "AMD64"), reason="needs an x86-64 processor")
Array = np.ndarray[Any, np.dtype[Any]]


def looked_at(
    model: onnx.ModelProto,
    folder: Path,
    backend: str = "onnxruntime",
    reference: onnx.ModelProto | None = None,
    batch: int = N,
    **machine: str,
) -> tuple[list[Layer], JobResult]:
    """The layers of a model, and what the task says of each."""
    path = saved(model, folder / "model.onnx")
    layers = matching_layers(path, path if reference is None else saved(reference, folder / "reference.onnx"))
    inputs = {}
    for name, value in feeds(model, batch=N).items():
        np.save(folder / f"{name}.npy", value)
        inputs[name] = str(folder / f"{name}.npy")
    params = {"model": str(path), "inputs": inputs, "n": N, "batch": batch, "layers": sites(layers)}
    names = tuple(layer.name for layer in layers)
    options = ONE_THREAD[backend]
    reference, named = backends.reference(backend), files_in(params)
    job = Job("hwbench.worker.tasks.layers:run", params, reference, options, variants=names, files=named)
    kind = {"kind": "emulated", **machine} if machine else {"kind": "local"}
    result = open_target(**kind).run(job, folder / "job")
    assert result.ok, result.detail
    assert not result.failed
    return layers, result


def sites(layers: list[Layer]) -> dict[str, dict[str, Any]]:
    return {
        layer.name: {
            "built": layer.built,
            "scale": layer.scale,
            "zero_point": layer.zero_point,
            "dequantized": layer.dequantized,
        }
        for layer in layers
    }


def values(result: JobResult, layer: Layer) -> Array:
    return np.concatenate([result.array(stem) for stem in result.data["variants"][layer.name]["arrays"]])


def bare(model: onnx.ModelProto, tensor: str = "", outputs: int = 1) -> list[Array]:
    """What a plain session gives, its outputs first, then one inner tensor; the oracle, with none of hwbench in it."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    if tensor and tensor not in {value.name for value in model.graph.output}:
        copy.graph.output.append(onnx.ValueInfoProto(name=tensor))
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(copy.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds(model, batch=N))


def normal(*shape: int) -> Array:
    return (np.random.default_rng(sum(shape)).standard_normal(shape) / np.sqrt(shape[-1])).astype(np.float32)


MODELS = {
    "float cnn": small_cnn,
    "float mlp": mlp,
    "int8 cnn": lambda: static_int8(small_cnn()),
    "int8 mlp": lambda: static_int8(mlp()),
    "s8 mlp": lambda: static_int8(mlp(), activations="s8"),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_layer_is_given_where_looking_at_it_does_not_change_the_output(tmp_path, name):
    """On whatever processor: a plain session is the judge."""
    model = MODELS[name]()
    (whole,) = bare(model)
    layers, result = looked_at(model, tmp_path)
    for layer in layers:
        record = result.data["variants"][layer.name]
        output, *inner = bare(model, layer.built)
        unchanged = output.tobytes() == whole.tobytes()
        if "arrays" in record and unchanged and record["graph"] == "returned":
            assert values(result, layer).tobytes() == (inner or [output])[0].tobytes()
        elif "arrays" not in record:
            assert not unchanged
            assert record["reason"].startswith("not observable without changing it")


def test_the_output_is_a_layer_that_can_always_be_looked_at(tmp_path):
    model = static_int8(mlp())
    layers, result = looked_at(model, tmp_path, reference=mlp())
    assert layers[-1].name == "y"
    assert values(result, layers[-1]).tobytes() == bare(model)[0].tobytes()


@pytest.mark.parametrize("batch", [1, 5, N])
def test_batches_of_any_size_give_the_same(tmp_path, batch):
    model = static_int8(small_cnn())
    layers, result = looked_at(model, tmp_path, batch=batch)
    assert all("arrays" in record for record in result.data["variants"].values())
    for layer in layers:
        np.testing.assert_array_equal(values(result, layer)[:N], bare(model, layer.built)[-1][:N])


def side_branch() -> onnx.ModelProto:
    """A tensor between layers that is a single number, and one that nothing reads but an output."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["h"], "layer"),
        helper.make_node("ReduceMax", ["h"], ["largest"], "largest", keepdims=0),
        helper.make_node("Div", ["h", "largest"], ["y"], "scale"),
        helper.make_node("Neg", ["h"], ["z"], "other"),
    ]
    outputs = {"y": (1, ["N", 8]), "z": (1, ["N", 8])}
    return make_model(nodes, {"x": (1, ["N", 16])}, outputs, {"w": normal(16, 8)})


def test_tensors_of_any_shape_are_looked_at_and_every_output_is_checked(tmp_path):
    layers, result = looked_at(side_branch(), tmp_path)
    assert [layer.name for layer in layers] == ["h", "largest", "y", "z"]
    (largest,) = (result.array(stem) for stem in result.data["variants"]["largest"]["arrays"])
    assert largest.shape == ()
    assert largest == bare(side_branch(), "h")[-1].max()


@pytest.mark.slow
@needs_x86
@pytest.mark.parametrize("make", [small_cnn, mlp])
def test_onnx_runtime_on_avx2_is_caught_where_looking_changes_it(tmp_path, make):
    """With s8 activations it multiplies in other kernels where a tensor has to be returned, and they saturate otherwise."""
    model = static_int8(make(), activations="s8", symmetric=True)
    _, result = looked_at(model, tmp_path, arch="x86_64", cpu="Haswell")
    records = result.data["variants"]
    changed = [name for name, record in records.items() if record.get("graph") != "returned"]
    assert changed
    assert records["y"]["graph"] == "returned"


NAIVE = """
import sys, numpy as np, onnx, openvino as ov
model = onnx.load(sys.argv[1])
whole, names = model.SerializeToString(), sys.argv[4:]
model.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names if name != "y")
made = []
for source in (whole, model.SerializeToString()):
    settings = {"INFERENCE_PRECISION_HINT": "f32", "INFERENCE_NUM_THREADS": 1}
    compiled = ov.Core().compile_model(ov.Core().read_model(source), "CPU", settings)
    made.append(compiled(np.load(sys.argv[2])))
print(int(np.array_equal(made[0][0], made[1][0])))
np.savez(sys.argv[3], **{name: made[1][index] for index, name in enumerate(["y", *(n for n in names if n != "y")])})
"""


@needs_onednn
def test_openvino_on_avx2_is_caught_where_looking_changes_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    model = static_int8(small_cnn(), activations="s8", symmetric=True)
    layers, result = looked_at(model, tmp_path, backend="openvino", reference=small_cnn())
    built = [layer.built for layer in layers]
    command = [sys.executable, "-c", NAIVE, *(str(tmp_path / name) for name in ("model.onnx", "x.npy", "naive.npz"))]
    done = subprocess.run([*command, *built], capture_output=True, text=True, check=True, env=os.environ)
    assert done.stdout.split()[-1] == "0"  # returning all layers changes the output
    naive = np.load(tmp_path / "naive.npz")
    records = result.data["variants"]
    differ = [
        layer.name
        for layer in layers
        if "arrays" in records[layer.name] and values(result, layer).tobytes() != naive[layer.built].tobytes()
    ]
    assert differ or any("reason" in record for record in records.values())


# Layers alone


def compared(layers: list[Layer], theirs: tuple[list[Layer], JobResult], folder: Path, **changes: Any) -> JobResult:
    """Every layer of the build in a folder against the reference's."""
    own = {layer.name: layer for layer in theirs[0]}
    both = [layer for layer in layers if "arrays" in theirs[1].data["variants"].get(layer.name, {})]
    params: dict[str, Any] = {
        "model": str(folder / "model.onnx"),
        "inputs": {"x": str(folder / "x.npy")},
        "n": N,
        "batch": N,
        "layers": sites(both),
        "reference_layers": sites([own[layer.name] for layer in both]),
        "reference": files(theirs[1], both),
    }
    names = tuple(layer.name for layer in both)
    options = ONE_THREAD["onnxruntime"]
    reference, named = backends.reference("onnxruntime"), files_in(params)
    job = Job("hwbench.worker.tasks.own_errors:run", params, reference, options, variants=names, files=named)
    result = open_target("local").run(replace(job, **changes), folder / "compared")
    assert result.ok, result.detail
    return result


def figures(result: JobResult, layer: Layer, key: str) -> FidelityResult:
    return Fidelity.restored(result.data["variants"][layer.name][key]).result()


def files(result: JobResult, layers: list[Layer]) -> Mapping[str, list[str]]:
    return {
        layer.name: [str(result.folder / f"{stem}.npy") for stem in result.data["variants"][layer.name]["arrays"]]
        for layer in layers
    }


def noise_db(wanted: Array, got: Array) -> float:
    wanted = wanted.astype(np.float64)
    return float(10 * np.log10((wanted**2).sum() / ((got - wanted) ** 2).sum()))


def test_a_layer_alone_is_its_operators_fed_by_the_reference(tmp_path):
    """The oracle takes the layer out of the build with ONNX's own tool and runs it in ONNX's reference evaluator."""
    (tmp_path / "theirs").mkdir()
    model = static_int8(mlp(), reduce_range=True)
    built, theirs = looked_at(model, tmp_path, reference=mlp()), looked_at(mlp(), tmp_path / "theirs")
    result = compared(built[0], theirs, tmp_path)
    assert {record["agreement_db"] for record in result.data["variants"].values()} == {math.inf}
    reference = {layer.name: values(theirs[1], layer) for layer in theirs[0]}
    typed = shape_inference.infer_shapes(model)
    layers = {layer.name: layer for layer in built[0]}
    for layer, before in ((layers["r"], "x"), (layers["z"], "r")):
        part = Extractor(typed).extract_model([before], [layer.built])
        fed = {before: feeds(model, batch=N)["x"] if before == "x" else reference[before]}
        wanted = layer.real(ReferenceEvaluator(part).run(None, fed)[0])
        # A tie may be rounded either way.
        own_db = noise_db(reference[layer.name], wanted)
        assert figures(result, layer, "own").sqnr_db == pytest.approx(own_db, abs=0.2)


def test_the_accumulated_error_is_that_of_the_stored_tensors(tmp_path):
    (tmp_path / "theirs").mkdir()
    built, theirs = (
        looked_at(static_int8(small_cnn()), tmp_path, reference=small_cnn()),
        looked_at(small_cnn(), tmp_path / "theirs"),
    )
    result = compared(built[0], theirs, tmp_path)
    assert not list(result.folder.glob("*.npy"))  # the tensors of the build are stored nowhere
    looked = [layer for layer in built[0] if "accumulated" in result.data["variants"].get(layer.name, {})]
    assert len(looked) > 2
    for layer in looked:
        wanted, got = values(theirs[1], layer), layer.real(values(built[1], layer))
        found = figures(result, layer, "accumulated")
        assert found.sqnr_db == pytest.approx(noise_db(wanted, got))
        assert found.max_abs_error == pytest.approx(np.abs(wanted - got).max())
        assert found.elements == wanted.size


def test_a_layer_whose_values_the_build_gets_wrong_is_wrong_alone_and_those_after_it_are_right(tmp_path):
    (tmp_path / "theirs").mkdir()
    model = static_int8(mlp(), reduce_range=True)
    (scale,) = [one for one in model.graph.initializer if one.name == "w1_scale"]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(4), scale.name))
    built, theirs = looked_at(model, tmp_path, reference=mlp()), looked_at(mlp(), tmp_path / "theirs")
    result = compared(built[0], theirs, tmp_path)
    own = {layer.name: figures(result, layer, "own").sqnr_db for layer in built[0]}
    assert own["r"] < 0
    assert own["z"] > 20
    assert own["y"] > 20


# Room


def job_of(folder: Path, model: onnx.ModelProto, **params: Any) -> tuple[list[Layer], JobResult]:
    path = saved(model, folder / "model.onnx")
    layers = matching_layers(path, path)
    np.save(folder / "x.npy", feeds(model, batch=N)["x"])
    every = {"model": str(path), "inputs": {"x": str(folder / "x.npy")}, "n": N, "batch": N, "layers": sites(layers)}
    names = tuple(layer.name for layer in layers)
    reference, options = backends.reference("onnxruntime"), ONE_THREAD["onnxruntime"]
    given = every | params
    job = Job("hwbench.worker.tasks.layers:run", given, reference, options, variants=names, files=files_in(given))
    result = open_target("local").run(job, folder / "job")
    assert result.ok, result.detail
    return layers, result


@pytest.mark.parametrize(("inputs", "n"), [(0.5, 1), (3.7, 3), (100, N)])
def test_inputs_are_chosen_by_the_measured_size_of_all_layers(tmp_path, inputs, n):
    layers, whole = job_of(tmp_path, mlp())
    row = sum(values(whole, layer)[:1].nbytes for layer in layers)
    _, result = job_of(tmp_path, mlp(), measure=True, room=int(inputs * row))
    assert result.data["n"] == n
    for layer in layers:
        np.testing.assert_array_equal(values(result, layer), values(whole, layer)[:n])


def test_layers_that_find_no_room_are_named_and_the_files_stay_within_it(tmp_path):
    layers, whole = job_of(tmp_path, mlp())
    sizes = [values(whole, layer).nbytes for layer in layers]
    most = sum(sizes[:2]) + min(sizes)
    _, result = job_of(tmp_path, mlp(), most=most)
    kept = [layer for layer in layers if "arrays" in result.data["variants"][layer.name]]
    assert kept[:2] == layers[:2]
    assert sum(values(result, layer).nbytes for layer in kept) <= most
    missing = [layer for layer in layers if layer not in kept]
    assert missing
    assert all(
        "more than the layers before it leave" in result.data["variants"][layer.name]["reason"] for layer in missing
    )
