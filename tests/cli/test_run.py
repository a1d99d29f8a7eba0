from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from models import saved, small_cnn, unknown_operator

from hwbench.api import Run
from hwbench.report.summary import rule_title

FIGURES = ["--studies", "accuracy,coverage", "--quiet"]


def npz(path: Path, **arrays) -> Path:
    np.savez(path, **arrays)
    return path


def images(n: int = 6) -> np.ndarray:
    return np.random.default_rng(1).standard_normal((n, 1, 8, 8)).astype(np.float32)


# What comes out


@pytest.fixture
def finished(hw, model, data, tmp_path):
    ended = hw(
        "run", model, "--data", data, "--profiles", "cpu-fp32,gpu-cuda-fp32", *FIGURES, "--out", tmp_path / "run"
    )
    return ended, tmp_path / "run"


def test_a_run_writes_every_view_and_shows_its_verdicts(finished):
    ended, out = finished
    assert ended.code == 0, ended.err
    for name in ("run.json", "measurements.parquet", "report.html", "report.md", "junit.xml"):
        assert (out / name).is_file()
    assert not (out / "jobs").exists()
    assert "cpu-fp32" in ended.out
    assert rule_title("max_accuracy_drop") in ended.out
    assert f"report: {out / 'report.html'}" in ended.out


def test_a_second_run_is_refused_resumed_or_replaced(hw, finished, model, data):
    _, out = finished
    arguments = ["run", model, "--data", data, "--profiles", "cpu-fp32,gpu-cuda-fp32", *FIGURES, "--out", out]
    before = snapshot(out)
    refused = hw(*arguments)
    assert refused.code == 2
    assert "holds a run; use --overwrite to replace it, --resume to go on with it" in refused.err
    assert snapshot(out) == before
    created = Run.open(out).record["created"], Run.open(out).record["finished"]
    assert hw(*arguments, "--resume").code == 0
    assert (Run.open(out).record["created"], Run.open(out).record["finished"]) == created
    other = hw(*arguments, "--resume", "--seed", "5")
    assert other.code == 2
    assert "made with another seed" in other.err
    assert hw(*arguments, "--overwrite", "--seed", "5").code == 0
    assert Run.open(out).record["seed"] == 5


def test_json_holds_the_record_and_the_table(hw, model, data, tmp_path):
    ended = hw(
        "run",
        model,
        "--data",
        data,
        "--profiles",
        "cpu-fp32",
        "--studies",
        "fidelity",
        "-q",
        "--json",
        "-o",
        tmp_path / "r",
    )
    assert ended.code == 0
    assert ended.json["run"]["state"] == "complete"
    run = Run.open(tmp_path / "r")
    assert len(ended.json["measurements"]) == run.table.height
    assert json.loads(ended.out, parse_constant=pytest.fail)  # infinities are no JSON


def test_progress_goes_to_standard_error_a_line_a_profile(hw, model, data, tmp_path):
    ended = hw(
        "run", model, "--data", data, "--profiles", "cpu-fp32,gpu-cuda-fp32", "--studies", "coverage", "--json",
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert sorted(ended.err.splitlines()) == ["– gpu-cuda-fp32 (unavailable)", "✓ cpu-fp32 (ok)"]
    assert ended.json["run"]["profiles"]["cpu-fp32"]["status"] == "ok"


def test_a_specification_file_with_flags_over_it(hw, model, data, tmp_path):
    (tmp_path / "own.toml").write_text('extend = "cpu-fp32"\n')
    (tmp_path / "study.toml").write_text(
        'model = "model.onnx"\nprofiles = ["own.toml"]\nstudies = ["accuracy"]\nseed = 3\n[data]\nsource = "data.npz"\n'
    )
    ended = hw("run", tmp_path / "study.toml", "--seed", "4", "--out", tmp_path / "run", "--json", "-q")
    assert ended.code == 0, ended.err
    assert ended.json["run"]["seed"] == 4
    assert list(ended.json["run"]["profiles"]) == ["own"]
    assert {row["study"] for row in ended.json["measurements"]} == {"accuracy"}


# What a run would do, and the time it may take


def test_a_plan_is_printed_and_nothing_else_is_done(hw, model, data, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    given = ("run", model, "--data", data, "--profiles", "cpu-fp32,gpu-cuda-fp32", "--studies", "accuracy", "--plan")
    before = sorted(tmp_path.rglob("*"))
    ended = hw(*given, "--budget", "10m")
    assert ended.code == 0, ended.err
    assert "accuracy" in ended.out
    assert "gpu-cuda-fp32: " in ended.out
    assert ended.out.splitlines()[-1].endswith("; the budget is 10 min 00 s")
    planned = hw(*given, "--json").json
    assert [profile["profile"] for profile in planned["profiles"]] == ["cpu-fp32", "gpu-cuda-fp32"]
    assert planned["seconds"] > 0
    assert sorted(tmp_path.rglob("*")) == before


def test_a_plan_of_what_cannot_be_run_exits_with_2(hw, model, tmp_path):
    ended = hw("run", model, "--data", tmp_path / "nowhere.npz", "--profiles", "cpu-fp32", "--plan")
    assert ended.code == 2
    assert "nowhere.npz" in ended.err


def test_a_budget_that_is_no_duration_exits_with_2(hw, model, data):
    ended = hw("run", model, "--data", data, "--profiles", "cpu-fp32", "--budget", "soon")
    assert ended.code == 2
    assert "budget: a duration is seconds or of the form 90s, 15m or 1h30m, not 'soon'" in ended.err


# Exit codes


def test_a_rule_that_fails_exits_with_1(hw, model, data, tmp_path):
    (tmp_path / "strict.toml").write_text('extend = "cpu-fp32"\n[accept]\nmax_model_mib = 0.0001\n')
    ended = hw(
        "run",
        model,
        "--data",
        data,
        "--profiles",
        tmp_path / "strict.toml",
        "--studies",
        "memory",
        "-q",
        "-o",
        tmp_path / "r",
    )
    assert ended.code == 1
    assert rule_title("max_model_mib") in ended.out


def test_a_required_profile_that_is_unavailable_exits_with_3(hw, finished, model, data):
    _, out = finished
    arguments = [
        "run",
        model,
        "--data",
        data,
        "--profiles",
        "cpu-fp32,gpu-cuda-fp32",
        *FIGURES,
        "--out",
        out,
        "--resume",
    ]
    assert hw(*arguments).code == 0
    assert hw(*arguments, "--require", "cpu-fp32").code == 0
    assert hw(*arguments, "--require", "gpu-cuda-fp32").code == 3
    assert hw(*arguments, "--strict").code == 3
    unknown = hw(*arguments, "--require", "cpu-fp23")
    assert unknown.code == 2
    assert "Did you mean 'cpu-fp32'" in unknown.err


def test_an_inconclusive_verdict_exits_with_4_under_strict(hw, model, data, tmp_path):
    arguments = [
        "run",
        model,
        "--data",
        data,
        "--profiles",
        "cpu-int8",
        "--studies",
        "accuracy,coverage",
        "-q",
        "-o",
        tmp_path / "r",
    ]
    assert hw(*arguments).code == 0  # twelve inputs say little about one per cent
    assert hw(*arguments, "--resume", "--strict").code == 4


# Bad input: what, where and what to do; exit 2; earlier results untouched


def snapshot(folder: Path) -> dict[str, tuple[bytes, int]]:
    return {
        str(path.relative_to(folder)): (path.read_bytes(), path.stat().st_mtime_ns)
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.fixture
def earlier(tmp_path):
    """A run that is there already."""
    folder = tmp_path / "earlier"
    folder.mkdir()
    (folder / "run.json").write_text('{"schema_version": 1, "state": "complete"}')
    (folder / "report.html").write_text("<p>earlier</p>")
    return folder


@pytest.fixture
def refused(hw, earlier, monkeypatch, tmp_path):
    """Runs a command that must be refused, told to replace an earlier run; returns what it said."""
    monkeypatch.chdir(tmp_path)

    def run(*arguments: object) -> str:
        before = snapshot(earlier)
        ended = hw("run", *arguments, "--out", earlier, "--overwrite", "--quiet")
        assert ended.code == 2, ended
        assert snapshot(earlier) == before
        assert ended.out == ""
        assert ended.err.startswith("error: ")
        assert "Traceback" not in ended.err
        fresh = hw("run", *arguments, "--out", tmp_path / "fresh", "--quiet")
        assert (fresh.code, fresh.err) == (2, ended.err)
        assert not (tmp_path / "fresh").exists()
        return ended.err

    return run


def models(folder: Path) -> dict[str, Path]:
    """Files that are no models hwbench can use, by what is wrong with them."""
    whole = small_cnn().SerializeToString()
    made = {name: folder / f"{name}.onnx" for name in ("truncated", "text", "empty", "operator", "opset", "outside")}
    made["truncated"].write_bytes(whole[: len(whole) // 2])
    made["text"].write_text("this is not a model")
    made["empty"].touch()
    onnx.save(unknown_operator(), made["operator"])
    late = small_cnn()
    late.opset_import[0].version = 999
    onnx.save(late, made["opset"])
    saved(small_cnn(), made["outside"], external=True)
    proto = onnx.load(made["outside"], load_external_data=False)
    for tensor in proto.graph.initializer:
        next(entry for entry in tensor.external_data if entry.key == "location").value = "../../etc/passwd"
    made["outside"].write_bytes(proto.SerializeToString())
    return {**made, "missing": folder / "missing.onnx"}


@pytest.mark.parametrize(
    ("kind", "said"),
    [
        ("missing", "missing.onnx: no such model file"),
        ("truncated", "truncated.onnx: not an ONNX file, or a truncated one"),
        ("text", "text.onnx: not an ONNX file"),
        ("empty", "empty.onnx: not an ONNX file"),
        ("opset", "opset.onnx"),
        ("outside", "refers to '../../etc/passwd', outside the model's folder; refused"),
    ],
)
def test_a_model_that_cannot_be_used(refused, data, tmp_path, kind, said):
    assert said in refused(models(tmp_path)[kind], "--data", data, "--profiles", "cpu-fp32")


def test_a_model_with_an_operator_that_the_reference_runtime_lacks(refused, tmp_path):
    data = npz(tmp_path / "four.npz", x=np.ones((3, 4), np.float32), y=np.zeros(3, np.int64))
    said = refused(models(tmp_path)["operator"], "--data", data, "--profiles", "cpu-fp32")
    assert "operator.onnx" in said
    assert "Strange" in said


def with_nan() -> np.ndarray:
    x = images()
    x[4, 0, 2, 2] = np.nan
    return x


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": np.ones((6, 1, 9, 8), np.float32)}, "a sample has shape [1, 9, 8], the model takes [1, 8, 8]"),
        ({"x": np.ones((6, 8, 8, 1), np.float32)}, "the same sizes in another order: transpose the data"),
        ({"x": np.ones((6, 1, 8, 8), np.int64)}, "the data are int64, the model takes float32; save them as float32"),
        ({"x": with_nan()}, "row 4 (counted from 0): holds nan; remove the sample or fill the gap"),
        ({"x": np.ones((0, 1, 8, 8), np.float32)}, "empty; there is not one sample to evaluate"),
        (
            {"x": images(), "y": np.array([0, 1, 2, 3, 10, 5])},
            "row 4 (counted from 0): label 10 is not one of the model's",
        ),
        ({"x": images(), "y": np.array([0, 1, -2, 3, 4, 5])}, "label -2 is not one of the model's classes 0 to 9"),
        ({"x": images(), "y": np.zeros(5, np.int64)}, "arrays differ in length (x: 6, y: 5)"),
        ({"x": images(), "y": np.array(list("abcdef"))}, "array 'y' holds <U1, not numbers"),
        ({"pixels": images(), "more": images()}, "no array for the model's input 'x'; there are: pixels, more"),
    ],
)
def test_data_that_do_not_fit(refused, model, tmp_path, arrays, said):
    message = refused(model, "--data", npz(tmp_path / "bad.npz", **arrays), "--profiles", "cpu-fp32")
    assert "bad.npz" in message
    assert said in message


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("none.npz", None, "none.npz: no such file"),
        ("cut.npz", b"PK\x03\x04cut", "cut.npz: not an .npz file, or truncated"),
        ("data.xyz", b"?", "data.xyz: not a kind of data hwbench reads"),
        ("no_such_module:load", None, "no_such_module"),
    ],
)
def test_data_that_cannot_be_read(refused, model, tmp_path, name, content, said):
    if content is not None:
        (tmp_path / name).write_bytes(content)
    assert said in refused(model, "--data", name, "--profiles", "cpu-fp32")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('backend = "onnxruntim"', "Did you mean 'onnxruntime'"),
        ('backend = "onnxruntime"\n[accept]\nmax_acuracy_drop = 1', "Did you mean 'accept.max_accuracy_drop'"),
        ('backend = "onnxruntime"\n[options]\nintra_op_thread = 1', "Did you mean 'options.intra_op_threads'"),
        ('backend = "onnxruntime"\n[precision]\nformat = "int7"', "precision.format"),
        ('backend = "tensorrt"\n[precision]\nformat = "int8"\nactivations = "u8"', "TensorRT's int8 is symmetric"),
        ("backend = ", "not valid TOML"),
        ("summary = 'nothing else'", "backend: missing"),
        ('extend = "cpu-int9"', "Did you mean 'cpu-int8'"),
    ],
)
def test_a_profile_that_cannot_be_used(refused, model, data, tmp_path, content, said):
    (tmp_path / "own.toml").write_text(content)
    assert said in refused(model, "--data", data, "--profiles", "own.toml")


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--profiles", "cpu-fp23"], "unknown profile 'cpu-fp23'. Did you mean 'cpu-fp32'?"),
        (["--profiles", "none.toml"], "profile none.toml: cannot be read: No such file or directory"),
        (["--profiles", ""], "profiles"),
        (["--profiles", "cpu-fp32", "--studies", "acuracy"], "unknown study 'acuracy'. Did you mean 'accuracy'?"),
        (["--profiles", "cpu-fp32", "--task", "guessing"], "task"),
        (["--profiles", "cpu-fp32", "--metric", "no_such_module:metric"], "no_such_module"),
        (["--profiles", "cpu-fp32", "--batch", "0"], "batch"),
        (["--profiles", "cpu-fp32", "--reference", "none.onnx"], "none.onnx: no such model file"),
        (["--profiles", "cpu-fp32", "--calibration", "none.npz"], "none.npz: no such file"),
        (["--profiles", "cpu-fp32", "--split-calibration", "2"], "split_calibration"),
    ],
)
def test_flags_that_cannot_be_carried_out(refused, model, data, flags, said):
    assert said in refused(model, "--data", data, *flags)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ("sed = 1", "unknown key 'sed'. Did you mean 'seed'?"),
        ("[settings.bit_flips]\nraets = [0.1]", "Did you mean 'settings.bit_flips.rates'?"),
        ("[settings.bitflips]\nrates = [0.1]", "unknown study 'bitflips'. Did you mean 'bit_flips'?"),
        ("[settings.latency]\nsamples = 1", "settings.latency.samples"),
        ("[", "not valid TOML"),
    ],
)
def test_a_specification_that_cannot_be_used(refused, model, data, tmp_path, change, said):
    spec = tmp_path / "study.toml"
    spec.write_text(f'model = "model.onnx"\nprofiles = ["cpu-fp32"]\ndata = {{ source = "data.npz" }}\n{change}\n')
    assert said in refused(spec)


def test_a_folder_that_holds_something_else_is_left_alone(hw, model, data, tmp_path):
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "chapter.tex").write_text("years of work")
    for flags in ([], ["--overwrite"], ["--resume"]):
        ended = hw("run", model, "--data", data, "--profiles", "cpu-fp32", *flags, "--out", tmp_path / "thesis")
        assert ended.code == 2
        assert "holds other files and no run" in ended.err
    assert [path.name for path in (tmp_path / "thesis").iterdir()] == ["chapter.tex"]
