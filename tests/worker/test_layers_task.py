from __future__ import annotations

import os
import platform
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort
import pytest
from emulation import needs_x86
from models import feeds, make_model, mlp, saved, small_cnn, static_int8
from onnx import helper, numpy_helper, shape_inference
from onnx.reference import ReferenceEvaluator
from onnx.utils import Extractor

from hwbench.backend import backends
from hwbench.graph import Layer, matching_layers
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
    job = Job("hwbench.worker.tasks.layers:run", params, backends.reference(backend), options, variants=names)
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


def alone(built: tuple[list[Layer], JobResult], theirs: tuple[list[Layer], JobResult], folder: Path) -> JobResult:
    """Each layer fed by the reference's tensors."""
    both = [
        layer for layer in built[0] if all("arrays" in one[1].data["variants"][layer.name] for one in (built, theirs))
    ]
    own = {layer.name: layer for layer in theirs[0]}
    params: dict[str, Any] = {
        "model": str(folder / "model.onnx"),
        "inputs": {"x": str(folder / "x.npy")},
        "n": N,
        "batch": N,
        "layers": sites(both),
        "reference_layers": sites([own[layer.name] for layer in both]),
        "built": files(built[1], both),
        "reference": files(theirs[1], both),
    }
    names = tuple(layer.name for layer in both)
    options = ONE_THREAD["onnxruntime"]
    job = Job("hwbench.worker.tasks.own_errors:run", params, backends.reference("onnxruntime"), options, variants=names)
    result = open_target("local").run(job, folder / "alone")
    assert result.ok, result.detail
    return result


def files(result: JobResult, layers: list[Layer]) -> Mapping[str, list[str]]:
    return {
        layer.name: [str(result.folder / f"{stem}.npy") for stem in result.data["variants"][layer.name]["arrays"]]
        for layer in layers
    }


def test_a_layer_alone_is_its_operators_fed_by_the_reference(tmp_path):
    """The oracle takes the layer out of the build with ONNX's own tool and runs it in ONNX's reference evaluator."""
    (tmp_path / "theirs").mkdir()
    model = static_int8(mlp(), reduce_range=True)
    built, theirs = looked_at(model, tmp_path, reference=mlp()), looked_at(mlp(), tmp_path / "theirs")
    result = alone(built, theirs, tmp_path)
    assert all(record["alone"] == [] for record in result.data["variants"].values())
    reference = {layer.name: values(theirs[1], layer) for layer in theirs[0]}
    typed = shape_inference.infer_shapes(model)
    layers = {layer.name: layer for layer in built[0]}
    for layer, before in ((layers["r"], "x"), (layers["z"], "r")):
        part = Extractor(typed).extract_model([before], [layer.built])
        fed = {before: feeds(model, batch=N)["x"] if before == "x" else reference[before]}
        wanted = ReferenceEvaluator(part).run(None, fed)[0].astype(np.int64)
        apart = np.abs(values(result, layer).astype(np.int64) - wanted)
        assert apart.max() <= 1  # a tie may be rounded either way
        assert (apart == 0).mean() > 0.98


def test_a_layer_whose_values_the_build_gets_wrong_is_wrong_alone_and_those_after_it_are_right(tmp_path):
    (tmp_path / "theirs").mkdir()
    model = static_int8(mlp(), reduce_range=True)
    (scale,) = [one for one in model.graph.initializer if one.name == "w1_scale"]
    scale.CopyFrom(numpy_helper.from_array(numpy_helper.to_array(scale) * np.float32(4), scale.name))
    built, theirs = looked_at(model, tmp_path, reference=mlp()), looked_at(mlp(), tmp_path / "theirs")
    result = alone(built, theirs, tmp_path)
    reference = {layer.name: values(theirs[1], layer) for layer in theirs[0]}
    errors = {
        layer.name: np.linalg.norm(layer.real(values(result, layer)) - reference[layer.name])
        / np.linalg.norm(reference[layer.name])
        for layer in built[0]
    }
    assert errors["r"] > 1
    assert errors["z"] < 0.1
    assert errors["y"] < 0.1
