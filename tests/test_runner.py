from __future__ import annotations

import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar

import numpy as np
import onnx
import onnxruntime as ort
import polars as pl
import pytest
from models import carried_state, make_model, mlp, saved, small_cnn, static_int8
from onnx import TensorProto, helper
from polars.testing import assert_frame_equal
from shared_run import LAUNCHES, STUDIES, bare_outputs, figures, some_digits

import hwbench
from hwbench import demo
from hwbench.api import Run
from hwbench.errors import DataError, ModelError, RunDirectoryError, SpecError, UnknownNameError
from hwbench.progress import Silent

BIT_FLIPS = {"rates": [1e-4, 1e-2], "draws": 3}
NOISE = {"snr_db": [5], "impulse_rates": [0.1], "weight_sigmas": [0.05], "draws": 2}


def digits_run(data: Path, out: Path, **changes) -> Run:
    """A run of numbers alone on the embedded model."""
    settings = {
        "profiles": ["cpu-int8", "cpu-fp32"],
        "studies": ["accuracy", "bit_flips", "noise", "fidelity"],
        "settings": {"bit_flips": BIT_FLIPS, "noise": NOISE, "fidelity": {"layers": 0}},
        "seed": 3,
    }
    return hwbench.run(demo.MODEL, data=data, out=out, **{**settings, **changes})


def rows_of(run: Run, profile: str, study: str) -> dict[tuple[str, str], float | None]:
    return {(row.metric, row.condition): row.value for row in run.rows if (row.profile, row.study) == (profile, study)}


def all_draws(run: Run) -> pl.DataFrame:
    return pl.concat([pl.read_parquet(part) for part in sorted(run.path.glob("draws/*/part-*.parquet"))])


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return some_digits(tmp_path_factory.mktemp("digits") / "digits.npz", n=48)[0]


@pytest.fixture(scope="module")
def one_job_at_a_time(digits, tmp_path_factory):
    return digits_run(digits, tmp_path_factory.mktemp("runs") / "one", jobs=1)


# Reproducible


@pytest.mark.slow
def test_two_jobs_at_once_give_the_same_table_and_draws(digits, one_job_at_a_time, tmp_path):
    two = digits_run(digits, tmp_path / "two", jobs=2)
    assert_frame_equal(figures(two), figures(one_job_at_a_time))
    assert_frame_equal(all_draws(two), all_draws(one_job_at_a_time))


@pytest.mark.slow
def test_a_run_that_was_killed_goes_on_where_it_stood_and_gives_the_same_table(digits, one_job_at_a_time, tmp_path):
    out = tmp_path / "killed"
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); from pathlib import Path; from test_runner import digits_run;"
        "digits_run(Path(sys.argv[2]), Path(sys.argv[3]), jobs=1)"
    )
    command = [sys.executable, "-c", program, str(Path(__file__).parent), str(digits), str(out)]
    with subprocess.Popen(command) as process:
        wait_for(lambda: len(done_jobs(out)) >= 3, process)
        process.send_signal(signal.SIGKILL)
    kept = done_jobs(out)
    assert Run.open(out).record["state"] == "running"
    assert outliving(out) == []
    with pytest.raises(RunDirectoryError, match=r"cannot be resumed: it was made with another seed"):
        digits_run(digits, out, resume=True, seed=4)
    assert done_jobs(out) == kept

    class Watching(Silent):
        seen: ClassVar[dict[str, int]] = {}

        def advance(self):
            self.seen.update(done_jobs(out))

    resumed = digits_run(digits, out, resume=True, progress=Watching())
    assert resumed.record["state"] == "complete"
    assert {job: Watching.seen[job] for job in kept} == kept  # what was done was not done again
    assert len(Watching.seen) > len(kept)
    assert_frame_equal(figures(resumed), figures(one_job_at_a_time))
    assert_frame_equal(all_draws(resumed), all_draws(one_job_at_a_time))


def done_jobs(out: Path) -> dict[str, int]:
    """The jobs a run has stored, to when each was stored."""
    return {path.parent.name: path.stat().st_mtime_ns for path in out.glob("jobs/*/done.json")}


def outliving(out: Path, seconds: float = 20) -> list[str]:
    """The worker processes of a run that outlive their parent; one that was just starting notices a moment later."""
    end = time.monotonic() + seconds
    while (left := workers_in(out)) and time.monotonic() < end:
        time.sleep(0.1)
    return left


def workers_in(out: Path) -> list[str]:
    """The worker processes of a run that are alive."""
    found = []
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # a process that has ended meanwhile
            command = path.read_bytes().decode(errors="replace")
            found += [command] if "hwbench.worker" in command and str(out) in command else []
    return found


def test_resuming_a_complete_run_leaves_it_as_it_is(digits, one_job_at_a_time):
    before = one_job_at_a_time.table
    again = digits_run(digits, one_job_at_a_time.path, resume=True)
    assert_frame_equal(again.table, before)
    assert again.record["finished"] == one_job_at_a_time.record["finished"]


def wait_for(condition, process: subprocess.Popen, seconds: float = 60) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert process.poll() is None, f"the run ended with {process.returncode} before it was interrupted"
        assert time.monotonic() < deadline
        time.sleep(0.02)


# Within a budget

LONG = {"bit_flips": {"rates": [1e-4, 1e-2], "draws": 4_000}, "noise": NOISE, "fidelity": {"layers": 0}}


@pytest.mark.slow
def test_a_run_ends_with_its_budget_and_has_rows_of_every_study(digits, tmp_path):
    began = time.monotonic()
    run = digits_run(digits, tmp_path / "run", settings=LONG, budget="40s")
    assert time.monotonic() - began < 40 + 20  # what others do on the machine aside, it is over in 40
    assert run.record["state"] == "complete"
    studies = set(run.record["fingerprint"]["studies"])
    for profile in ("cpu-int8", "cpu-fp32"):
        rows = [row for row in run.rows if row.profile == profile]
        assert {row.study for row in rows} == studies
        assert all(row.status == "ok" for row in rows if row.study in ("accuracy", "fidelity"))
        cut = [row for row in rows if row.study == "bit_flips"]
        assert any("ended by the budget of 40 s after " in row.detail for row in cut)
    budget = run.record["budget"]
    assert budget["seconds"] == 40
    assert budget["job_s"]["accuracy"] > 0
    assert run.exit_code() == 0
    report = (run.path / "report.md").read_text()
    assert "Budget" in report


@pytest.mark.slow
def test_what_alone_exceeds_the_budget_is_named_and_every_study_has_a_row(digits, tmp_path):
    run = digits_run(digits, tmp_path / "run", budget=0.001)
    assert run.record["state"] == "complete"
    assert {row.study for row in run.rows if row.profile == "reference"} == {"accuracy"}
    for profile in ("cpu-int8", "cpu-fp32"):
        rows = [row for row in run.rows if row.profile == profile]
        assert {row.study for row in rows} == set(run.record["fingerprint"]["studies"])
        assert {row.status for row in rows} == {"unavailable"}
        assert all("budget" in row.detail for row in rows)
    assert run.exit_code() == 0
    assert run.exit_code(["cpu-int8"]) == 3


@pytest.mark.slow
def test_a_budget_that_suffices_changes_no_figure(digits, one_job_at_a_time, tmp_path):
    run = digits_run(digits, tmp_path / "run", budget="10m")
    assert_frame_equal(figures(run), figures(one_job_at_a_time))
    assert run.record["budget"]["declined"] == []


# Profiles


@pytest.fixture(scope="module")
def twins(digits, tmp_path_factory):
    """cpu-int8, and a profile of the user's that asks for the same build and other limits."""
    folder = tmp_path_factory.mktemp("twins")
    (folder / "twin.toml").write_text('extend = "cpu-int8"\n[accept]\nmax_accuracy_drop = 0.5\nmin_accuracy = 0.999\n')
    planned = []

    class Counting(Silent):
        def plan(self, jobs):
            planned.append(jobs)

    run = digits_run(
        digits,
        folder / "run",
        profiles=["cpu-int8", str(folder / "twin.toml")],
        studies=["coverage", "accuracy"],
        settings={},
        progress=Counting(),
    )
    return run, planned


def test_profiles_that_ask_for_the_same_build_share_it_and_its_jobs(twins):
    run, planned = twins
    assert planned == [2]  # one evaluation, one look at the coverage; the reference's is done
    profiles = run.record["profiles"]
    assert profiles["cpu-int8"]["build"] == profiles["twin"]["build"]
    assert profiles["twin"]["shares_build_with"] == ["cpu-int8"]
    same = rows_of(run, "cpu-int8", "accuracy")
    assert same == rows_of(run, "twin", "accuracy")
    assert ("top1", "{}") in same


def test_each_profile_is_held_against_its_own_limits(twins):
    run, _ = twins
    outcomes = {(verdict.profile, verdict.rule): verdict.outcome for verdict in run.verdicts}
    assert outcomes["twin", "max_accuracy_drop"] == "pass"
    assert outcomes["twin", "min_accuracy"] == "fail"
    assert outcomes["cpu-int8", "as_asked"] == "pass"
    assert run.exit_code() == 1


def test_the_record_says_what_was_asked_and_what_ran(twins):
    run, _ = twins
    entry = run.record["profiles"]["cpu-int8"]
    assert entry["status"] == "ok"
    assert entry["asked"]["format"] == "int8"
    assert entry["ran"]["device"] == "cpu"
    assert entry["ran"]["precision"]["int8"] > 0
    assert "onnxruntime" in entry["ran"]["versions"]


def test_calibration_on_the_evaluation_inputs_is_said(twins):
    run, _ = twins
    build = run.path / "builds" / run.record["profiles"]["cpu-int8"]["build"]
    manifest = json.loads((build / "manifest.json").read_text())
    assert "evaluation inputs themselves" in manifest["calibration"]["note"]
    assert run.record["data"]["calibration"]["n"] == 48


def test_held_out_samples_calibrate_and_are_not_evaluated(digits, tmp_path):
    run = digits_run(
        digits, tmp_path / "run", studies=["accuracy"], settings={}, split_calibration=0.25, profiles=["cpu-int8"]
    )
    assert run.record["data"]["n"] == 36
    assert run.record["data"]["calibration"]["n"] == 12
    assert {row.n for row in run.rows if row.condition == "{}" and row.metric == "top1"} == {36}


# Kinds of model and data


def test_regression(tmp_path):
    model = single_output_mlp(tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((80, 8)).astype(np.float32)
    y = bare_outputs(model, x)[:, 0] + np.random.default_rng(1).standard_normal(80) / 4
    np.savez(tmp_path / "data.npz", x=x, y=y)
    run = hwbench.run(
        model,
        data=tmp_path / "data.npz",
        profiles=["cpu-int8"],
        studies=["accuracy", "bit_flips", "noise"],
        settings={"bit_flips": BIT_FLIPS, "noise": NOISE},
        out=tmp_path / "run",
    )
    predicted = bare_outputs(deployed(run, "cpu-int8"), x)[:, 0].astype(np.float64)
    rmse, exact = np.sqrt(np.mean((predicted - y) ** 2)), np.sqrt(np.mean((bare_outputs(model, x)[:, 0] - y) ** 2))
    found = rows_of(run, "cpu-int8", "accuracy")
    assert run.record["task"] == "regression"
    assert run.record["primary"] == "rmse"
    assert found["rmse", "{}"] == pytest.approx(rmse)
    assert found["mae", "{}"] == pytest.approx(np.mean(np.abs(predicted - y)))
    assert found["r2", "{}"] == pytest.approx(1 - np.sum((predicted - y) ** 2) / np.sum((y - y.mean()) ** 2))
    assert found["accuracy_drop", "{}"] == pytest.approx(rmse - exact)  # a larger error is a loss
    flips = rows_of(run, "cpu-int8", "bit_flips")
    assert ("due_rate", '{"ber": 0.01}') in flips
    assert not any(metric == "sdc_rate" for metric, _ in flips)  # there is no best class to change
    assert flips["rmse", '{"ber": 0.01, "draw": "worst"}'] >= flips["rmse", '{"ber": 0.01}'] > rmse
    assert rows_of(run, "cpu-int8", "noise")["accuracy_drop", '{"snr_db": 5}'] > 0


@pytest.mark.parametrize("dtype", [np.float32, np.int64])
def test_one_hot_labels_give_the_accuracy_of_their_classes(digits, tmp_path, dtype):
    stored = np.load(digits)
    np.savez(tmp_path / "data.npz", x=stored["x"], y=np.eye(10, dtype=dtype)[stored["y"]])
    run = hwbench.run(
        demo.MODEL, data=tmp_path / "data.npz", profiles=["cpu-fp32"], studies=["accuracy"], out=tmp_path / "run"
    )
    right = (bare_outputs(demo.MODEL, stored["x"]).argmax(axis=1) == stored["y"]).mean()
    assert run.record["task"] == "classification"
    assert run.record["data"]["label_note"] == "one-hot rows, read as class numbers"
    assert rows_of(run, "cpu-fp32", "accuracy")["top1", "{}"] == pytest.approx(right)


def test_an_embedding_without_labels_is_held_against_the_references_outputs(tmp_path):
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((40, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    run = hwbench.run(
        tmp_path / "model.onnx",
        data=tmp_path / "data.npz",
        task="embedding",
        profiles=["cpu-int8"],
        studies=["accuracy", "bit_flips"],
        settings={"bit_flips": BIT_FLIPS},
        out=tmp_path / "run",
    )
    a = bare_outputs(tmp_path / "model.onnx", x).astype(np.float64)
    b = bare_outputs(deployed(run, "cpu-int8"), x).astype(np.float64)
    cosine = np.mean((a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1))
    assert rows_of(run, "reference", "accuracy")["cosine", "{}"] == pytest.approx(1)
    found = rows_of(run, "cpu-int8", "accuracy")
    assert found["cosine", "{}"] == pytest.approx(cosine)
    assert found["accuracy_drop", "{}"] == pytest.approx(1 - cosine)
    flips = rows_of(run, "cpu-int8", "bit_flips")
    assert flips["cosine", '{"ber": 0.01}'] < cosine
    assert ("tolerated_ber", "{}") in flips


def test_without_labels_accuracy_is_unavailable_and_what_compares_with_the_golden_output_runs(tmp_path):
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((40, 1, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x)
    run = hwbench.run(
        tmp_path / "model.onnx",
        data=tmp_path / "data.npz",
        profiles=["cpu-int8"],
        studies=["accuracy", "fidelity", "bit_flips", "noise"],
        settings={"bit_flips": BIT_FLIPS, "noise": NOISE, "fidelity": {"layers": 0}},
        out=tmp_path / "run",
    )
    statuses = {(row.study, row.metric, row.condition): row.status for row in run.rows if row.profile == "cpu-int8"}
    assert statuses["accuracy", "accuracy", "{}"] == statuses["noise", "accuracy_drop", "{}"] == "unavailable"
    assert statuses["bit_flips", "tolerated_ber", "{}"] == "unavailable"
    assert statuses["fidelity", "top1_agreement", "{}"] == "ok"
    flips = rows_of(run, "cpu-int8", "bit_flips")
    assert flips["sdc_rate", '{"ber": 0.01}'] > 0
    assert ("due_rate", '{"ber": 0.01}') in flips
    assert all_draws(run)["top1"].is_null().all()
    (drop,) = [verdict for verdict in run.verdicts if verdict.rule == "max_accuracy_drop"]
    same = rows_of(run, "cpu-int8", "fidelity")["top1_agreement", "{}"]
    assert drop.outcome == "inconclusive"  # 40 inputs do not show a loss below 0.01
    assert drop.value == pytest.approx(1 - same)
    assert "no labels" in drop.detail
    assert run.exit_code() == 0


def test_a_model_without_labels_and_classes_is_no_regression(tmp_path):
    model = single_output_mlp(tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.random.default_rng(0).standard_normal((40, 8)).astype(np.float32))
    run = hwbench.run(
        model,
        data=tmp_path / "data.npz",
        profiles=["cpu-fp32", "cpu-int8"],
        studies=["accuracy", "fidelity", "coverage"],
        out=tmp_path / "run",
    )
    assert run.record["task"] == "unlabeled"
    assert not any(row.metric in ("rmse", "mae", "r2") for row in run.rows)
    report = (run.path / "report.md").read_text()
    assert "RMSE" not in report
    assert "could not run" not in report
    assert "The data have no labels: builds are judged by their agreement with the reference." in report
    assert re.search(r"\| Profile \| Fidelity \(SQNR\)", report)
    assert "RMSE" not in (run.path / "report.html").read_text()


def test_a_metric_of_the_users_own(tmp_path, monkeypatch):
    (tmp_path / "own_metric.py").write_text(
        "import numpy as np\n\ndef margin(outputs, labels):\n"
        "    ranked = np.sort(outputs, axis=1)\n    return ranked[:, -1] - ranked[:, -2]\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    onnx.save(mlp(), tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((40, 64)).astype(np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.zeros(40, np.int64))
    run = hwbench.run(
        tmp_path / "model.onnx",
        data=tmp_path / "data.npz",
        metric="own_metric:margin",
        profiles=["cpu-int8"],
        studies=["accuracy"],
        out=tmp_path / "run",
    )
    ranked = np.sort(bare_outputs(deployed(run, "cpu-int8"), x), axis=1)
    assert (run.record["task"], run.record["primary"]) == ("custom", "margin")
    assert rows_of(run, "cpu-int8", "accuracy")["margin", "{}"] == pytest.approx((ranked[:, -1] - ranked[:, -2]).mean())


@pytest.mark.slow
def test_a_transformer_of_ids_and_mask(tmp_path):
    model = transformer(tmp_path / "model.onnx")
    generator = np.random.default_rng(0)
    ids, mask = generator.integers(0, 32, (40, 6)), np.ones((40, 6), np.int64)
    mask[::2, 4:] = 0
    np.savez(tmp_path / "data.npz", ids=ids, mask=mask, y=generator.integers(0, 3, 40))
    run = hwbench.run(
        model,
        data=tmp_path / "data.npz",
        profiles=["cpu-int8", "openvino-int8"],
        studies=list(STUDIES),
        settings={"bit_flips": BIT_FLIPS, "noise": NOISE, "latency": LAUNCHES, "throughput": LAUNCHES},
        out=tmp_path / "run",
    )
    for profile in ("cpu-int8", "openvino-int8"):
        noise = {row.condition: row for row in run.rows if (row.profile, row.study) == (profile, "noise")}
        assert noise["{}"].status == "unavailable"
        assert "no input of this model is a floating-point tensor" in noise["{}"].detail
        assert noise['{"weight_sigma": 0.05}'].status == "ok"
        others = [row for row in run.rows if row.profile == profile and row.study != "noise"]
        layers = [
            row for row in others if "tensor" in row.condition
        ]  # around what stays in float some cannot be observed
        assert {row.status for row in others if row not in layers} == {"ok"}
        assert any(row.status == "ok" for row in layers)
        assert "masked" in run.record["profiles"][profile]["kept_in_float"]


@pytest.mark.slow
def test_a_graph_of_a_fixed_batch_is_fed_whole_batches(tmp_path):
    model = mlp()
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_value = 4
    onnx.save(model, tmp_path / "model.onnx")
    onnx.save(mlp(), tmp_path / "free.onnx")
    x = np.random.default_rng(0).standard_normal((10, 64)).astype(np.float32)
    y = bare_outputs(tmp_path / "free.onnx", x).argmax(1)
    assert len(set(y)) > 3
    np.savez(tmp_path / "data.npz", x=x, y=y)
    run = hwbench.run(
        tmp_path / "model.onnx",
        data=tmp_path / "data.npz",
        profiles=["cpu-fp32", "openvino-fp32"],
        studies=["accuracy", "latency", "throughput", "fidelity"],
        settings={"latency": LAUNCHES, "throughput": {"batches": [1, 8], **LAUNCHES}},
        out=tmp_path / "run",
    )
    for profile in ("cpu-fp32", "openvino-fp32"):
        assert rows_of(run, profile, "accuracy")["top1", "{}"] == 1
        assert ("p50_ms", '{"batch": 4}') in rows_of(run, profile, "latency")
        batches = {json.loads(setting).get("batch") for _, setting in rows_of(run, profile, "throughput")}
        assert batches == {4, None}
        assert rows_of(run, profile, "fidelity")["top1_agreement", "{}"] == 1
    assert {row.status for row in run.rows} == {"ok"}


def test_an_image_folder(tmp_path):
    from PIL import Image

    generator = np.random.default_rng(0)
    pixels = generator.integers(0, 256, (6, 8, 8), dtype=np.uint8)
    for index, image in enumerate(pixels):
        place = tmp_path / "images" / ("cat", "dog", "eel")[index % 3]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(place / f"{index}.png")
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    run = hwbench.run(
        tmp_path / "model.onnx",
        data={
            "source": str(tmp_path / "images"),
            "classes": {"cat": 0, "dog": 1, "eel": 2},
            "preprocess": {"color": "gray", "mean": [0.5], "std": [0.25]},
        },
        profiles=["cpu-fp32"],
        studies=["accuracy"],
        out=tmp_path / "run",
    )
    x = ((pixels[:, None] / np.float32(255) - 0.5) / 0.25).astype(np.float32)
    right = bare_outputs(tmp_path / "model.onnx", x).argmax(1) == np.arange(6) % 3
    assert rows_of(run, "cpu-fp32", "accuracy")["top1", "{}"] == right.mean()
    assert run.record["data"]["n"] == 6


def carried_data(folder: Path, batch: int | str = "N", n: int = 24) -> tuple[Path, Path]:
    """A model with carried state and its data, labels as ONNX Runtime answers them by itself."""
    model = saved(carried_state(batch=batch), folder / "model.onnx")
    rng = np.random.default_rng(0)
    x, state = (rng.standard_normal(shape).astype(np.float32) for shape in ((n, 64), (n, 2, 16)))
    session = ort.InferenceSession(saved(carried_state(), folder / "dynamic.onnx"), providers=["CPUExecutionProvider"])
    y = session.run(["y"], {"x": x, "state": state.transpose(1, 0, 2), "rate": np.array(8000)})[0].argmax(1)
    np.savez(folder / "data.npz", x=x, state=state, rate=8000, y=y)
    return model, folder / "data.npz"


@pytest.mark.parametrize("batch", ["N", 1])
def test_a_batch_on_another_axis_and_an_input_without_one(tmp_path, batch):
    model, data = carried_data(tmp_path, batch)
    run = hwbench.run(
        model,
        data=data,
        batch_axis={} if batch == "N" else {"state": 1, "next": 1},
        profiles=["cpu-fp32", "cpu-int8", "openvino-fp32"],
        studies=["accuracy", "fidelity", "noise", "faults"],
        settings={
            "faults": {"trials": 60},
            "noise": {"snr_db": [5], "impulse_rates": [], "weight_sigmas": [], "draws": 2},
        },
        out=tmp_path / "run",
    )
    assert run.record["model"]["batch_axes"] == {"rate": None, "state": 1, "next": 1}
    for profile in ("reference", "cpu-fp32", "openvino-fp32"):
        assert rows_of(run, profile, "accuracy")["top1", "{}"] == 1
    assert rows_of(run, "cpu-int8", "accuracy")["top1", "{}"] >= 0.75
    assert [row for row in run.rows if row.status != "ok" and not row.metric.startswith("snr_at")] == []
    assert rows_of(run, "cpu-fp32", "faults")["verified_trials", "{}"] >= 1


def test_the_value_of_an_input_without_a_batch_may_be_in_the_specification(tmp_path):
    model, data = carried_data(tmp_path)
    with np.load(data) as arrays:
        np.savez(tmp_path / "rest.npz", **{name: arrays[name] for name in ("x", "state", "y")})
    source = {"source": str(tmp_path / "rest.npz"), "constants": {"rate": 8000}}
    run = hwbench.run(model, data=source, profiles=["cpu-fp32"], studies=["accuracy"], out=tmp_path / "run")
    assert rows_of(run, "cpu-fp32", "accuracy")["top1", "{}"] == 1
    assert run.record["warnings"] == []
    for changes, message in (
        ({"constants": {}}, "for an input that is the same for all samples, set data.constants"),
        ({"constants": {"rate": [8000]}}, r"shape \[1\], the model takes \[\]"),
        ({"constants": {"rate": 0.5}}, "0.5 is not an integer, and the model takes int64"),
        ({"constants": {"rate": 2**63}}, "9223372036854775808 does not fit int64"),
        ({"constants": {"rte": 8000}}, "unknown input in data.constants 'rte'. Did you mean 'rate'"),
        ({"constants": {"rate": 8000, "state": 0}}, "the model's input has a batch axis"),
    ):
        with pytest.raises((DataError, UnknownNameError), match=message):
            hwbench.run(model, data=source | changes, profiles=["cpu-fp32"], out=tmp_path / "refused")
    with pytest.raises(UnknownNameError, match="unknown input or output in batch_axis 'stat'"):
        hwbench.run(model, data=source, batch_axis={"stat": 1}, profiles=["cpu-fp32"], out=tmp_path / "refused")
    with np.load(data) as arrays:
        np.savez(tmp_path / "rates.npz", **{**arrays, "rate": np.array([8000] * 20 + [16000] * 4)})
    with pytest.raises(DataError, match=r"row 20 .*differs from row 0"):
        hwbench.run(model, data=tmp_path / "rates.npz", profiles=["cpu-fp32"], out=tmp_path / "refused")


def test_a_reference_that_is_not_above_chance_is_a_warning_at_the_top(tmp_path):
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    x = np.random.default_rng(0).standard_normal((60, 1, 8, 8)).astype(np.float32)
    y = bare_outputs(tmp_path / "model.onnx", x).argmax(1)
    np.savez(tmp_path / "wrong.npz", x=x, y=(y + 1) % 10)
    command = [sys.executable, "-m", "hwbench", "run", "model.onnx", "--data", "wrong.npz", "--profiles", "cpu-fp32"]
    command += ["--studies", "accuracy", "--out", "run", "--quiet"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "Warning: The reference's top-1 accuracy, 0.000" in done.stdout
    for report in ("report.html", "report.md"):
        text = (tmp_path / "run" / report).read_text()
        assert text.index("is not above chance") < text.lower().index("verdicts")


def test_a_quantized_file_is_validated_as_it_stands_on_every_backend(tmp_path):
    onnx.save(small_cnn(), tmp_path / "fp32.onnx")
    quantized = static_int8(small_cnn())
    onnx.save(quantized, tmp_path / "int8.onnx")
    for backend in ("onnxruntime", "openvino"):
        (tmp_path / f"{backend}.toml").write_text(f'backend = "{backend}"\n[precision]\nformat = "as-is"\n')
    x = np.random.default_rng(0).standard_normal((40, 1, 8, 8)).astype(np.float32)
    y = bare_outputs(tmp_path / "fp32.onnx", x).argmax(1)
    np.savez(tmp_path / "data.npz", x=x, y=y)
    run = hwbench.run(
        tmp_path / "int8.onnx",
        reference=str(tmp_path / "fp32.onnx"),
        data=tmp_path / "data.npz",
        profiles=[str(tmp_path / "onnxruntime.toml"), str(tmp_path / "openvino.toml")],
        studies=["accuracy", "fidelity", "coverage"],
        out=tmp_path / "run",
    )
    assert rows_of(run, "reference", "accuracy")["top1", "{}"] == 1
    ours = bare_outputs(tmp_path / "int8.onnx", x).argmax(1)
    assert rows_of(run, "onnxruntime", "accuracy")["top1", "{}"] == (ours == y).mean()
    error = np.abs(bare_outputs(tmp_path / "int8.onnx", x) - bare_outputs(tmp_path / "fp32.onnx", x)).max()
    assert rows_of(run, "onnxruntime", "fidelity")["max_abs_error", "{}"] == pytest.approx(error)
    built = [onnx.load(deployed(run, profile)).graph for profile in ("onnxruntime", "openvino")]
    stored = {tensor.name: onnx.numpy_helper.to_array(tensor) for tensor in quantized.graph.initializer}
    for graph in built:  # nothing was requantized: every stored number is the file's own
        assert {tensor.name for tensor in graph.initializer} == set(stored)
        assert all(
            np.array_equal(onnx.numpy_helper.to_array(tensor), stored[tensor.name]) for tensor in graph.initializer
        )
    assert rows_of(run, "openvino", "fidelity")["sqnr_db", "{}"] > 10


# What is refused, before anything is written


def test_a_reference_that_takes_other_inputs_is_refused(digits, tmp_path):
    onnx.save(mlp(), tmp_path / "mlp.onnx")
    with pytest.raises(ModelError, match="take different inputs"):
        digits_run(digits, tmp_path / "run", reference=str(tmp_path / "mlp.onnx"))
    assert not (tmp_path / "run").exists()


def test_labels_that_do_not_fit_the_output_are_refused_before_anything_is_written(tmp_path):
    model = single_output_mlp(tmp_path / "model.onnx")
    x = np.zeros((10, 8), np.float32)
    np.savez(tmp_path / "data.npz", x=x, y=np.zeros((10, 3)))
    with pytest.raises(DataError, match=r"data\.npz: rmse: .*hold different numbers of values"):
        hwbench.run(model, data=tmp_path / "data.npz", profiles=["cpu-fp32"], out=tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"studies": []}, SpecError, "no study is chosen"),
        ({"settings": {"bit_flip": {}}}, UnknownNameError, r"unknown study 'bit_flip'. Did you mean 'bit_flips'"),
        (
            {"settings": {"bit_flips": {"rate": [0.1]}}},
            UnknownNameError,
            r"unknown key 'settings.bit_flips.rate'. Did you mean 'settings.bit_flips.rates'",
        ),
        (
            {"settings": {"bit_flips": {"rates": [1.5]}}},
            SpecError,
            r"settings\.bit_flips\.rates\.0: .*less than or equal",
        ),
        ({"settings": {"noise": {"impulse_rates": [-1]}}}, SpecError, r"settings\.noise\.impulse_rates\.0: "),
        ({"settings": {"throughput": {"batches": [0]}}}, SpecError, r"settings\.throughput\.batches\.0: "),
        ({"profiles": ["cpu-fp32", "reference.toml"]}, SpecError, "cannot be called 'reference'"),
        ({"profiles": ["cpu-fp32", "cpu-fp32.toml"]}, SpecError, "two profiles of this run are called 'cpu-fp32'"),
        ({"output": "logit"}, UnknownNameError, "unknown output 'logit'"),
        ({"metric": "top2"}, UnknownNameError, "unknown metric"),
    ],
)
def test_a_specification_that_cannot_be_carried_out_writes_nothing(
    digits, tmp_path, monkeypatch, changes, error, message
):
    monkeypatch.chdir(tmp_path)
    for name in ("reference", "cpu-fp32"):
        Path(f"{name}.toml").write_text('extend = "cpu-int8"\n')
    with pytest.raises(error, match=message):
        digits_run(digits, tmp_path / "run", **changes)
    assert not (tmp_path / "run").exists()


# What cannot be built


def test_a_profile_whose_build_cannot_be_made_does_not_stop_the_others(tmp_path):
    nodes = [helper.make_node("Relu", ["x"], ["y"], "relu")]
    onnx.save(make_model(nodes, {"x": (1, ["N", 4])}, {"y": (1, ["N", 4])}), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((8, 4), np.float32), y=np.zeros(8, np.int64))
    run = hwbench.run(
        tmp_path / "model.onnx",
        data=tmp_path / "data.npz",
        profiles=["cpu-int4", "cpu-fp32"],
        studies=["accuracy"],
        out=tmp_path / "run",
    )
    (row,) = [row for row in run.rows if row.profile == "cpu-int4"]
    assert (row.status, row.metric) == ("unavailable", "accuracy")
    assert "nothing to quantize" in row.detail
    assert run.record["profiles"]["cpu-int4"]["status"] == "unavailable"
    assert rows_of(run, "cpu-fp32", "accuracy")["top1", "{}"] == 1
    assert run.exit_code() == 0
    assert run.exit_code(["cpu-int4"]) == 3


def deployed(run: Run, profile: str) -> Path:
    return run.path / "builds" / run.record["profiles"][profile]["build"] / "model.onnx"


def single_output_mlp(path: Path) -> Path:
    """``x`` (N, 8) to one number."""
    generator = np.random.default_rng(5)
    weights = {
        "w1": generator.standard_normal((8, 32)).astype(np.float32),
        "w2": generator.standard_normal((32, 1)).astype(np.float32) / 4,
    }
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"], "hidden"),
        helper.make_node("Relu", ["h"], ["r"], "relu"),
        helper.make_node("MatMul", ["r", "w2"], ["y"], "head"),
    ]
    onnx.save(make_model(nodes, {"x": (1, ["N", 8])}, {"y": (1, ["N", 1])}, weights), path)
    return path


def transformer(path: Path) -> Path:
    """One attention head over ``ids`` and ``mask``, int64 (N, S), to ``logits`` (N, 3); some inner tensors lead with S."""
    generator = np.random.default_rng(9)
    shapes = {"table": (32, 16), "wq": (16, 16), "wk": (16, 16), "wv": (16, 16), "wo": (16, 3)}
    weights = {name: (generator.standard_normal(shape) / 4).astype(np.float32) for name, shape in shapes.items()}
    weights |= {"ones": np.array([1, 2]), "low": np.array(-1e4, np.float32), "one": np.array(1, np.float32)}
    nodes = [
        helper.make_node("Gather", ["table", "ids"], ["batch_first"], "embed"),
        helper.make_node("Transpose", ["batch_first"], ["words_first"], "turn", perm=[1, 0, 2]),
        helper.make_node("Relu", ["words_first"], ["bent"], "bend"),
        helper.make_node("Transpose", ["bent"], ["h"], "turn_back", perm=[1, 0, 2]),
        helper.make_node("MatMul", ["h", "wq"], ["q"], "query"),
        helper.make_node("MatMul", ["h", "wk"], ["k"], "key"),
        helper.make_node("MatMul", ["h", "wv"], ["v"], "value"),
        helper.make_node("Transpose", ["k"], ["kt"], "key_t", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["q", "kt"], ["scores"], "scores"),
        helper.make_node("Cast", ["mask"], ["float_mask"], "mask_cast", to=TensorProto.FLOAT),
        helper.make_node("Unsqueeze", ["float_mask", "middle"], ["wide"], "mask_wide"),
        helper.make_node("Sub", ["one", "wide"], ["hidden"], "mask_invert"),
        helper.make_node("Mul", ["hidden", "low"], ["penalty"], "mask_scale"),
        helper.make_node("Add", ["scores", "penalty"], ["masked"], "mask_add"),
        helper.make_node("Softmax", ["masked"], ["weights"], "softmax", axis=-1),
        helper.make_node("MatMul", ["weights", "v"], ["mixed"], "mix"),
        helper.make_node("ReduceMean", ["mixed", "middle"], ["pooled"], "pool", keepdims=0),
        helper.make_node("MatMul", ["pooled", "wo"], ["logits"], "head"),
    ]
    weights["middle"] = weights.pop("ones")[:1]
    inputs = {name: (TensorProto.INT64, ["N", "S"]) for name in ("ids", "mask")}
    onnx.save(make_model(nodes, inputs, {"logits": (1, ["N", 3])}, weights), path)
    return path
