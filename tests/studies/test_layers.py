from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from models import make_model, saved, small_cnn, static_int8
from onnx import helper

from hwbench.build import Build
from hwbench.studies import layers
from hwbench.worker.protocol import JobResult


@pytest.fixture
def case(make_case, tmp_path):
    """An int8 build and its reference, which is never run."""
    subjects = {}
    for name, model in (("build", static_int8(small_cnn())), ("reference", small_cnn())):
        (tmp_path / name).mkdir()
        saved(model, tmp_path / name / "model.onnx")
        subjects[name] = Build(name, tmp_path / name, {"sha256": name, "contents": {"bytes": 100}})
    made = make_case()
    subject = replace(made.subject, build=subjects["build"])
    return replace(made, subject=subject, reference=replace(made.reference, build=subjects["reference"]))


def test_the_reference_is_looked_at_once_for_all_builds(case):
    as_is = replace(case, subject=case.reference)
    assert layers.looking(case, 3, reference=True).key == layers.looking(as_is, 3, reference=True).key
    assert layers.looking(case, 3).key != layers.looking(as_is, 3).key
    built = {layer.name: layer for layer in layers.layers_of(case)}
    assert built.keys() <= layers.reference_layers(case).keys()
    assert built["r1"].dequantized == "r1_DequantizeLinear_Output"


def test_large_layers_are_looked_at_with_few_inputs(case, monkeypatch):
    assert layers.few(case, 32) == case.data.n == 5
    assert layers.few(case, 2) == 2
    row = 4 * sum(layer.elements for layer in layers.reference_layers(case).values())
    assert row == 4 * (5 * 8 * 8 * 8 + 2 * 8 + 10)  # five feature maps, pooled, flat, output
    monkeypatch.setattr(layers, "_ROOM", 3 * row)
    assert layers.few(case, 32) == 3
    monkeypatch.setattr(layers, "_ROOM", 1)
    assert layers.few(case, 32) == 1


def test_a_graph_of_a_fixed_batch_is_looked_at_in_whole_batches(case, tmp_path):
    node = helper.make_node("Relu", ["x"], ["y"], "relu")
    fixed = make_model([node], {"x": (1, [4, 1])}, {"y": (1, [4, 1])})
    (tmp_path / "fixed").mkdir()
    saved(fixed, tmp_path / "fixed" / "model.onnx")
    build = Build("fixed", tmp_path / "fixed", {"sha256": "fixed", "contents": {"bytes": 100}})
    case = replace(case, subject=replace(case.subject, build=build), reference=replace(case.reference, build=build))
    assert [layers.few(case, most) for most in (1, 4, 5)] == [4, 4, 5]
    assert layers.looking(case, 5).params["batch"] == 4


def test_layers_that_the_reference_could_not_be_looked_at_in_are_not_compared(case, tmp_path):
    def result(label: str, *names: str) -> JobResult:
        folder = tmp_path / label
        folder.mkdir()
        np.save(folder / "stored.npy", np.zeros(3, np.float32))
        hidden = {"reason": "not observable without changing it"}
        records = {layer.name: hidden for layer in layers.layers_of(case)}
        return JobResult("ok", folder, {"n": 3, "variants": records | {name: {"arrays": ["stored"]} for name in names}})

    reference = result("job-of-reference", "y", "pooled")
    job = layers.comparing(case, reference)
    assert job is not None
    assert set(job.variants) == set(job.params["layers"]) == {"y", "pooled"}
    assert job.params["n"] == 3
    assert str(reference.folder / "stored.npy") in job.files
    assert job.identity["reference"] == "job-of-reference"  # what the files hold decides the job's key
    (r1,) = [layer for layer in layers.layers_of(case) if layer.name == "r1"]
    assert layers.reason(reference, r1) == "not observable without changing it"
    assert layers.comparing(case, result("other")) is None
