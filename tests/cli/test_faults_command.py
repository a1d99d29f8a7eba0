from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import onnx
import polars as pl
import pytest
from models import make_model
from onnx import helper
from polars.testing import assert_frame_equal

from hwbench import demo
from hwbench.api import Run
from hwbench.cli.faults import number_range
from hwbench.errors import InputError
from hwbench.faults.listing import write_faults
from hwbench.worker.perturb import stored_initializers

FAULT = ["tensor", "element", "bit", "kind", "width", "value"]


def trials(out: Path, profile: str = "cpu-int8") -> pl.DataFrame:
    return pl.read_parquet(out / "trials" / profile / "part-*.parquet")


def deployed(out: Path, profile: str = "cpu-int8") -> onnx.ModelProto:
    return onnx.load(out / "builds" / Run.open(out).record["profiles"][profile]["build"] / "model.onnx")


def figures(out: Path) -> pl.DataFrame:
    return Run.open(out).table.filter(pl.col("study") == "faults").drop("model", "profile", "build")


# What comes out


@pytest.mark.slow
def test_a_campaign_on_the_demo(hw, tmp_path):
    stored = np.load(demo.DATA)
    np.savez(tmp_path / "digits.npz", x=stored["x"][:100], y=stored["y"][:100])
    ended = hw(
        "faults", demo.MODEL, "--data", tmp_path / "digits.npz", "--profile", "cpu-int8",
        "--calibration", demo.CALIBRATION, "--trials", "60", "--seed", "5", "--out", tmp_path / "run", "--quiet",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    assert f"report: {tmp_path / 'run' / 'report.html'}" in ended.out
    table = trials(tmp_path / "run")
    assert table.height == 60
    assert set(table["n_inputs"]) == {100}
    names = {tensor.name for tensor in deployed(tmp_path / "run").graph.initializer}
    assert set(table["tensor"]) <= names
    rates = {
        row.metric: row for row in Run.open(tmp_path / "run").rows if row.condition == "{}" and row.study == "faults"
    }
    assert rates["sdc_rate"].value == pytest.approx((table["n_changed"] / 100).mean())
    assert rates["due_rate"].value == pytest.approx((table["n_due"] / 100).mean())
    assert rates["verified_trials"].value == 5
    assert "SDC" in (tmp_path / "run" / "report.html").read_text()


@pytest.fixture
def faults(hw, model, data, tmp_path):
    """Runs a campaign on the small network."""

    def run(*arguments: object, out: str = "run", profile: object = "cpu-int8"):
        return hw("faults", model, "--data", data, "--profile", profile, *arguments, "--out", tmp_path / out, "--quiet")

    return run


def test_every_flag_says_which_faults(faults, tmp_path):
    ended = faults(
        "--trials", "12", "--kind", "burst", "--width", "3", "--tensors", "w*", "--ops", "Conv", "--roles", "weight,scale",
        "--bits", "5-6", "--depth", "0-1", "--confidence", "0.8", "--json",
    )  # fmt: skip
    assert ended.code == 0, ended.err
    table = trials(tmp_path / "run")
    assert (table.height, set(table["kind"]), set(table["width"])) == (12, {"burst"}, {3})
    assert set(table["tensor"]) <= {"w1_quantized", "w1_scale", "w2_quantized", "w2_scale"}
    assert set(table["bit"]) <= {5, 6}
    overall = [row for row in ended.json["measurements"] if (row["metric"], row["condition"]) == ("sdc_rate", "{}")]
    assert [row["ci_level"] for row in overall] == [0.8]


@pytest.mark.slow
def test_faults_are_replayed_on_another_build_of_the_model(faults, tmp_path):
    assert faults("--trials", "40", "--roles", "weight").code == 0
    drawn = trials(tmp_path / "run")
    listed = tmp_path / "list.csv"
    write_faults(listed, drawn.select(FAULT), stored_initializers(deployed(tmp_path / "run")))
    (tmp_path / "coarse.toml").write_text('extend = "cpu-int8"\n[precision]\nper_channel = false\n')
    other = faults("--faults", listed, out="coarse", profile=tmp_path / "coarse.toml")
    assert other.code == 0, other.err
    assert_frame_equal(trials(tmp_path / "coarse", "coarse").select(FAULT), drawn.select(FAULT))
    assert deployed(tmp_path / "coarse", "coarse") != deployed(tmp_path / "run")

    refused = faults("--faults", listed, out="float", profile="cpu-fp32")
    assert refused.code == 2
    assert f"error: {listed}, line 2: the build has no initializer '{drawn['tensor'][0]}'" in refused.err


# Interruptions


@pytest.mark.slow
def test_a_campaign_that_was_killed_goes_on_and_gives_the_same_table(faults, model, data, tmp_path):
    flags = ["--trials", "600", "--jobs", "1"]
    assert faults(*flags, out="whole").code == 0
    out = tmp_path / "killed"
    arguments = ["faults", model, "--data", data, "--profile", "cpu-int8", *flags, "--out", out, "--quiet"]
    command = [sys.executable, "-c", "from hwbench.cli import main; main()", *map(str, arguments)]
    with subprocess.Popen(command) as process:
        deadline = time.monotonic() + 120
        while not any((path / "counts.npy").exists() for path in out.glob("jobs/*") if (path / "done.json").exists()):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
    assert Run.open(out).record["state"] == "running"
    refused = faults("--trials", "1200", "--resume", out="killed")
    assert refused.code == 2
    assert "cannot be resumed" in refused.err
    kept = {path: path.stat().st_mtime_ns for path in out.glob("jobs/*/done.json")}
    assert faults(*flags[:2], "--jobs", "2", "--resume", out="killed").code == 0
    assert kept
    assert_frame_equal(trials(out), trials(tmp_path / "whole"))
    assert_frame_equal(figures(out), figures(tmp_path / "whole"))


# Bad input


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--bits", "high"], "--bits 'high' is not of the form FIRST-LAST, e.g. 24-31"),
        (["--depth", "deep"], "--depth 'deep' is not of the form FIRST-LAST, e.g. 0-3"),
        (["--places", "elsewhere"], "settings.faults.places"),
        (["--tolerance", "0.1"], "to which --tolerance means nothing; leave it out"),
        (["--save-faults", "no/such/list.csv"], "no/such/list.csv: cannot be written: its folder is missing"),
        (["--save-faults", Path(__file__)], "is there already; name another file, or use --overwrite"),
        (["--kind", "melt"], "settings.faults.kind"),
        (["--trials", "0"], "settings.faults.trials"),
        (["--roles", "weights"], "settings.faults.roles"),
        (["--width", "0"], "settings.faults.width"),
        (["--confidence", "1"], "settings.faults.confidence"),
        (["--trials", "9", "--faults", "list.csv"], "give one of them"),
    ],
)
def test_flags_that_cannot_be_carried_out(faults, tmp_path, flags, said):
    ended = faults(*flags)
    assert ended.code == 2
    assert ended.err.startswith("error: ")
    assert said in ended.err
    assert not (tmp_path / "run").exists()


def test_an_unknown_profile(faults):
    ended = faults(profile="cpu-int9")
    assert (ended.code, "Did you mean 'cpu-int8'" in ended.err) == (2, True)


def without_labels(folder: Path) -> Path:
    np.savez(folder / "bare.npz", x=np.load(folder / "data.npz")["x"])
    return folder / "bare.npz"


def test_what_cannot_be_told_of_these_data_is_refused_and_earlier_results_stay(hw, model, data, tmp_path):
    earlier = tmp_path / "earlier"
    earlier.mkdir()
    (earlier / "run.json").write_text('{"schema_version": 1, "state": "complete"}')
    (tmp_path / "list.csv").write_text("tensor,element,bit\nw1,0,0\n")
    cases = [
        (without_labels(tmp_path), ["--only-correct"], "bare.npz: there are no labels, and only_correct counts only"),
        (data, ["--faults", tmp_path / "none.csv"], "none.csv: cannot be read: No such file or directory"),
        (data, ["--faults", tmp_path / "list.csv"], "list.csv: the column 'kind' is missing"),
    ]
    for source, flags, said in cases:
        ended = hw(
            "faults", model, "--data", source, "--profile", "cpu-fp32", *flags, "--out", earlier, "--overwrite", "-q"
        )
        assert ended.code == 2
        assert said in ended.err
        assert [path.name for path in earlier.iterdir()] == ["run.json"]


def test_a_regression_needs_a_tolerance(hw, tmp_path):
    weights = {"w": np.ones((4, 1), np.float32)}
    nodes = [helper.make_node("MatMul", ["x", "w"], ["y"], "out")]
    onnx.save(make_model(nodes, {"x": (1, ["N", 4])}, {"y": (1, ["N", 1])}, weights), tmp_path / "m.onnx")
    x = np.random.default_rng(0).standard_normal((6, 4)).astype(np.float32)
    np.savez(tmp_path / "d.npz", x=x, y=x.sum(axis=1))
    command = ["faults", tmp_path / "m.onnx", "--data", tmp_path / "d.npz", "--profile", "cpu-fp32", "--quiet"]
    ended = hw(*command, "--out", tmp_path / "run")
    assert ended.code == 2
    assert "say which error counts as a changed answer, with --tolerance" in ended.err
    assert not (tmp_path / "run").exists()
    ended = hw(*command, "--tolerance", "0.5", "--trials", "10", "--out", tmp_path / "run")
    assert ended.code == 0, ended.err
    assert trials(tmp_path / "run", "cpu-fp32").height == 10


def test_an_empty_selection_is_refused(faults):
    ended = faults("--tensors", "nothing*")
    assert ended.code == 2
    assert "no stored bit is selected; widen the selection" in ended.err


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_what_only_the_build_can_tell_leaves_an_earlier_run_as_it_was(faults, tmp_path):
    assert faults("--trials", "3").code == 0
    earlier, listed = content(tmp_path / "run"), tmp_path / "list.csv"
    lines = {
        "w9,0,0,flip,int8": "the build has no initializer 'w9'",
        "w1_quantized,72,0,flip,int8": "element 72 is not in 0 … 71 of 'w1_quantized' (int8)",
        "w1_quantized,0,0,flip,float32": "'w1_quantized' is stored as int8 in this build, not as float32",
        "@activation/c2,0,0,flip,": "between operators only its quantized form is kept",
        "@activation/x_QuantizeLinear_Output,64,0,flip,uint8": "element 64 is not in 0 … 63 of",
    }
    for line, said in lines.items():
        listed.write_text(f"tensor,element,bit,kind,format\nw1_quantized,1,1,flip,int8\n{line}\n")
        ended = faults("--faults", listed, "--overwrite")
        assert ended.code == 2
        assert f"error: {listed}, line 3: " in ended.err
        assert said in ended.err
    ended = faults("--bits", "40-50", "--overwrite")
    assert (ended.code, "no stored bit is selected" in ended.err) == (2, True)
    assert content(tmp_path / "run") == earlier


def test_saved_faults_are_replayed(faults, tmp_path):
    ended = faults("--places", "activations", "--trials", "8", "--save-faults", tmp_path / "list.csv")
    assert ended.code == 0, ended.err
    ended = faults("--faults", tmp_path / "list.csv", out="again")
    assert ended.code == 0, ended.err
    assert_frame_equal(trials(tmp_path / "again").sort("trial"), trials(tmp_path / "run").sort("trial"))


def test_a_profile_that_is_unavailable_says_so_and_saves_no_faults(faults, tmp_path):
    ended = faults("--trials", "3", "--save-faults", tmp_path / "list.csv", "--json", profile="gpu-tensorrt-int8")
    rows = {row["study"]: row for row in ended.json["measurements"] if row["profile"] == "gpu-tensorrt-int8"}
    assert (rows["faults"]["metric"], rows["faults"]["status"]) == ("sdc_rate", "unavailable")
    assert not (tmp_path / "list.csv").exists()


def test_the_module_is_the_command(tmp_path):
    ended = subprocess.run([sys.executable, "-m", "hwbench", "--version"], capture_output=True, text=True, check=True)
    assert ended.stdout.startswith("hwbench ")


def test_a_bad_line_of_a_list_is_named_and_the_run_goes_on_once_it_is_mended(faults, tmp_path):
    listed = tmp_path / "list.csv"
    listed.write_text("tensor,element,bit,kind\nw1_quantized,3,7,flip\nw1_quantized,72,0,flip\n")
    ended = faults("--faults", listed)
    assert ended.code == 2
    assert f"{listed}, line 3: element 72 is not in 0 … 71 of 'w1_quantized' (int8)" in ended.err
    listed.write_text("tensor,element,bit,kind\nw1_quantized,3,7,flip\nw1_quantized,71,0,flip\n")
    ended = faults("--faults", listed, "--resume")
    assert ended.code == 0, ended.err
    assert trials(tmp_path / "run")["element"].to_list() == [3, 71]


@pytest.mark.parametrize(("text", "wanted"), [(None, None), ("7", (7, 7)), ("0-3", (0, 3)), ("24-31", (24, 31))])
def test_ranges_of_bits(text, wanted):
    assert number_range(text, "--bits", "24-31") == wanted


@pytest.mark.parametrize("text", ["", "-", "3-", "-3", "a-b", "1-2-3", "1,2", " 1"])
def test_ranges_of_bits_in_no_known_form(text):
    with pytest.raises(InputError, match="FIRST-LAST"):
        number_range(text, "--bits", "24-31")


def test_the_settings_stand_in_the_record(faults, tmp_path):
    assert faults("--trials", "5", "--only-correct", "--no-segmented").code == 0
    settings = json.loads((tmp_path / "run" / "run.json").read_text())["spec"]["settings"]["faults"]
    assert (settings["trials"], settings["only_correct"], settings["segmented"]) == (5, True, False)
    assert trials(tmp_path / "run")["n_inputs"].max() <= 12
