from __future__ import annotations

import json

import numpy as np
import onnx
import pytest
from models import make_model, mlp, small_cnn, static_int8
from onnx import helper
from shared_run import bare_outputs

from hwbench.npy import content_hash
from hwbench.worker.inputs import chosen_inputs
from hwbench.worker.progress import Progress
from hwbench.worker.protocol import PROGRESS_FILE, JobContext
from hwbench.worker.tasks import evaluate

ORT = "hwbench_onnxruntime:OnnxRuntimeBackend"
GOLDEN = {"golden": {"kind": "golden"}}


@pytest.fixture
def evaluated(tmp_path):
    """Runs the task in a folder of its own; what comes back reads a variant's array."""

    def run(model: onnx.ModelProto, x: np.ndarray, variants=GOLDEN, n: int | None = None, batch: int = 4, **params):
        folder = tmp_path / f"job{len(list(tmp_path.glob('job*')))}"
        folder.mkdir()
        onnx.save(model, folder / "model.onnx")
        np.save(folder / "x.npy", x)
        settings = {
            "model": str(folder / "model.onnx"),
            "inputs": {"x": str(folder / "x.npy")},
            "n": len(x) if n is None else n,
            "batch": batch,
            "outputs": ["y"],
            "keep": "full",
            "variants": variants,
            **params,
        }
        returned = evaluate.run(JobContext(folder, settings, ORT, {}, tuple(variants)))
        finished = Progress.read(folder).finished

        def array(variant: str, output: int = 0) -> np.ndarray:
            return np.load(folder / f"{finished[variant]['arrays'][output]}.npy")

        return returned, finished, array

    return run


@pytest.fixture
def x():
    return np.random.default_rng(0).standard_normal((10, 64)).astype(np.float32)


@pytest.fixture
def images():
    return np.random.default_rng(0).standard_normal((10, 1, 8, 8)).astype(np.float32)


@pytest.mark.parametrize("batch", [1, 3, 4, 10, 64])
def test_the_golden_outputs_are_the_models_one_a_row_whatever_the_batch(evaluated, x, tmp_path, batch):
    _, _, array = evaluated(mlp(), x, batch=batch)
    onnx.save(mlp(), tmp_path / "bare.onnx")
    assert array("golden").shape == (10, 10)
    np.testing.assert_allclose(array("golden"), bare_outputs(tmp_path / "bare.onnx", x), atol=1e-5)


def test_only_the_first_n_inputs_are_run(evaluated, x):
    _, _, array = evaluated(mlp(), x, n=5)
    assert len(array("golden")) == 5


def test_the_best_classes_are_kept_best_first_and_minus_one_where_an_output_is_not_finite(evaluated, x):
    x[3] = np.inf
    _, _, full = evaluated(mlp(), x)
    _, _, top = evaluated(mlp(), x, keep="top")
    finite = np.arange(10) != 3
    assert not np.isfinite(full("golden")[3]).all()
    assert np.array_equal(top("golden")[finite], np.argsort(-full("golden")[finite], axis=1)[:, :5])
    assert (top("golden")[3] == -1).all()


def test_faults_are_undone_and_the_golden_output_comes_back_bit_for_bit(evaluated, images):
    faulty = {f"d{draw}": {"kind": "bit_errors", "seed": 1, "draw": draw, "rate": 0.01} for draw in range(3)}
    variants = {**GOLDEN, **faulty, "again": {"kind": "golden"}}
    returned, finished, array = evaluated(static_int8(small_cnn()), images, variants)
    assert returned == {"restored": True, "first": [content_hash(array("golden")[:4])]}
    np.testing.assert_array_equal(array("again"), array("golden"))
    assert all(finished[name]["n_faults"] > 0 for name in faulty)
    assert any(not np.array_equal(array(name), array("golden")) for name in faulty if "failed" not in finished[name])


def test_a_draw_without_a_fault_is_the_golden_run_and_costs_none(evaluated, images):
    rates = {f"r{rate}": {"kind": "bit_errors", "seed": 1, "draw": 0, "rate": rate} for rate in (1e-12, 1e-11)}
    _, finished, _ = evaluated(static_int8(small_cnn()), images, {**GOLDEN, **rates})
    assert [finished[name]["n_faults"] for name in rates] == [0, 0]
    assert {tuple(finished[name]["arrays"]) for name in ("golden", *rates)} == {tuple(finished["golden"]["arrays"])}


def test_without_a_golden_variant_a_draw_without_a_fault_runs_nothing(evaluated, images):
    _, finished, _ = evaluated(
        static_int8(small_cnn()), images, {"r": {"kind": "bit_errors", "seed": 1, "draw": 0, "rate": 1e-12}}
    )
    assert finished["r"] == {"n_faults": 0, "arrays": [], "golden": True}


def test_a_faulty_build_that_the_runtime_refuses_is_that_variants_outcome_alone(evaluated, images):
    nodes = [
        helper.make_node("Reshape", ["x", "shape"], ["flat"], "flatten"),
        helper.make_node("MatMul", ["flat", "w"], ["y"], "matmul"),
    ]
    weights = {"shape": np.array([-1, 64]), "w": np.ones((64, 3), np.float32)}
    model = make_model(nodes, {"x": (1, ["N", 1, 8, 8])}, {"y": (1, ["N", 3])}, weights)
    bad = {"kind": "bit_errors", "seed": 0, "draw": 0, "rate": 0.5}
    returned, finished, array = evaluated(model, images, {**GOLDEN, "bad": bad, "after": {"kind": "golden"}})
    assert finished["bad"]["arrays"] == []
    assert finished["bad"]["failed"].startswith("UnsupportedError: ")
    np.testing.assert_array_equal(array("after"), array("golden"))
    assert returned["restored"]


def test_noise_on_inputs_does_not_depend_on_the_batch(evaluated, x):
    noise = {"noisy": {"kind": "gaussian_input", "seed": 1, "draw": 0, "snr_db": 10}}
    made = [evaluated(mlp(), x, noise, batch=batch)[2]("noisy") for batch in (3, 10)]
    np.testing.assert_allclose(made[0], made[1], atol=1e-5)
    assert not np.allclose(made[0], evaluated(mlp(), x)[2]("golden"))


def test_each_variant_is_recorded_as_it_is_done(evaluated, x, tmp_path):
    noise = {"noisy": {"kind": "gaussian_input", "seed": 1, "draw": 0, "snr_db": 10}}
    evaluated(mlp(), x, {**GOLDEN, **noise})
    lines = [json.loads(line) for line in (tmp_path / "job0" / PROGRESS_FILE).read_text().splitlines() if line]
    assert [next(iter(line)) for line in lines] == ["start", "done", "start", "done"]


@pytest.mark.parametrize("chunk_bytes", [1, 8 << 20])
@pytest.mark.parametrize("kind", ["bit_errors", "gaussian_input"])
def test_a_draw_over_some_inputs_gives_what_it_gives_for_them_over_all(evaluated, x, monkeypatch, kind, chunk_bytes):
    monkeypatch.setattr(evaluate, "_CHUNK_BYTES", chunk_bytes)
    draw = {"kind": kind, "seed": 1, "draw": 2, "rate": 1e-3, "snr_db": 10}
    _, _, array = evaluated(mlp(), x, {"all": draw, "some": {**draw, "draw": 2, "inputs": 4}})
    chosen = chosen_inputs(1, 2, len(x), 4)
    assert array("some").shape == (4, 10)
    np.testing.assert_allclose(array("some"), array("all")[chosen], atol=1e-5)
