from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import make_model, small_cnn, static_int8
from onnx import helper
from shared_run import RUN_HERE

import hwbench
from hwbench.studies.coverage import compiled_form, ran_precisions
from hwbench.worker.protocol import JobResult


def test_a_worker_cannot_have_a_file_outside_of_its_folder_kept(tmp_path):
    data = {"nodes": [{"name": "a"}], "executed": [], "compiled": {"file": "../../secret", "bytes": 1}}
    assert compiled_form(JobResult("ok", tmp_path / "job", data)) == [tmp_path / "job" / "secret"]


@pytest.mark.parametrize("profile", RUN_HERE)
def test_a_build_that_ran_as_asked_has_all_its_nodes(shared, profile):
    row = shared.row(profile, "coverage", "nodes_as_asked")
    assert row.value == 1
    assert row.n == len(onnx.load(shared.deployed(profile)).graph.node)
    assert row.ci_low is None


def test_int8_ran_in_int8(shared):
    for profile in ("cpu-int8", "openvino-int8"):
        assert shared.run.record["profiles"][profile]["ran"]["precision"]["int8"] > 0
    assert "int8" not in shared.run.record["profiles"]["cpu-fp32"]["ran"]["precision"]


def test_executed_nodes_are_counted_by_precision():
    executed = [{"precision": "int8"}, {"precision": ""}, {"precision": "int8"}, {"precision": "fp32"}]
    assert ran_precisions(executed) == {"int8": 2, "fp32": 1}


@pytest.fixture(scope="module")
def fallen_back(tmp_path_factory):
    """Builds that the runtimes run otherwise than asked, without a word."""
    folder = tmp_path_factory.mktemp("fallback")
    onnx.save(small_cnn(), folder / "fp32.onnx")
    onnx.save(static_int8(small_cnn(), activations="s8", symmetric=True), folder / "s8.onnx")
    np.savez(folder / "data.npz", x=np.ones((4, 1, 8, 8), np.float32), y=np.zeros(4, np.int64))
    as_is = 'backend = "onnxruntime"\n[precision]\nformat = "as-is"\n'
    (folder / "s8.toml").write_text(as_is)
    (folder / "allowed.toml").write_text(f"{as_is}[accept]\nas_asked = false\n")
    (folder / "unoptimized.toml").write_text(f'{as_is}[options]\noptimization = "disable"\n')
    names = ("s8", "allowed", "unoptimized")
    return hwbench.run(
        folder / "s8.onnx",
        reference=str(folder / "fp32.onnx"),
        data=folder / "data.npz",
        profiles=[str(folder / f"{name}.toml") for name in names],
        studies=["coverage"],
        out=folder / "run",
    )


def rows_of(run, profile):
    return {row.condition: row for row in run.rows if row.profile == profile and row.study == "coverage"}


def test_a_convolution_that_silently_runs_in_float_is_reported_and_fails(fallen_back):
    # ONNX Runtime leaves a signed quantized convolution whose input has two readers in float.
    rows = rows_of(fallen_back, "s8")
    assert rows["{}"].value == pytest.approx(1 - 1 / rows["{}"].n)
    assert rows["{}"].detail == "1× other precision"
    (node,) = rows.keys() - {"{}"}
    assert node == '{"node": "conv2"}'
    assert rows[node].detail.startswith("other precision: Conv: asked int8, ran fp32")
    (verdict,) = [one for one in fallen_back.verdicts if one.profile == "s8" and one.rule == "as_asked"]
    assert verdict.outcome == "fail"
    assert fallen_back.exit_code() == 1


def test_a_profile_may_allow_it_and_it_is_still_reported(fallen_back):
    assert rows_of(fallen_back, "allowed")["{}"].value < 1
    assert not [one for one in fallen_back.verdicts if one.profile == "allowed"]


def test_every_node_that_fell_back_is_listed(fallen_back):
    nodes = set(rows_of(fallen_back, "unoptimized")) - {"{}"}
    assert nodes == {f'{{"node": "{name}"}}' for name in ("conv1", "conv2", "classifier")}
    assert rows_of(fallen_back, "unoptimized")["{}"].detail == "3× other precision"


def test_bfloat16_behind_a_float32_build_is_seen(tmp_path):
    onnx.save(small_cnn(), tmp_path / "fp32.onnx")
    np.savez(tmp_path / "data.npz", x=np.ones((4, 1, 8, 8), np.float32), y=np.zeros(4, np.int64))
    (tmp_path / "hinted.toml").write_text(
        'backend = "openvino"\n[options]\nconfig = { INFERENCE_PRECISION_HINT = "bf16" }\n'
    )
    run = hwbench.run(
        tmp_path / "fp32.onnx",
        data=tmp_path / "data.npz",
        profiles=[str(tmp_path / "hinted.toml")],
        trust_profile=True,  # the option that asks for a precision by itself is on no allowlist
        studies=["coverage"],
        out=tmp_path / "run",
    )
    ran = run.record["profiles"]["hinted"]["ran"]["precision"]
    low = {node for node in rows_of(run, "hinted") if node != "{}"}
    (verdict,) = [one for one in run.verdicts if one.rule == "as_asked"]
    # Processors without bfloat16 run it in float32, as asked.
    wanted = {f'{{"node": "{name}"}}' for name in ("conv1", "conv2", "classifier")} if "bf16" in ran else set()
    assert low == wanted
    assert verdict.outcome == ("fail" if wanted else "pass")


def test_an_operator_that_one_backend_lacks_costs_that_profile_alone(tmp_path):
    nodes = [
        helper.make_node("Inverse", ["x"], ["i"], "inverse", domain="com.microsoft"),
        helper.make_node("Flatten", ["i"], ["y"], "flat"),
    ]
    onnx.save(make_model(nodes, {"x": (1, ["N", 3, 3])}, {"y": (1, ["N", 9])}), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.eye(3, dtype=np.float32)[None].repeat(4, 0), y=np.zeros(4, np.int64))
    run = hwbench.run(
        tmp_path / "model.onnx",
        data=tmp_path / "data.npz",
        profiles=["openvino-fp32", "cpu-fp32"],
        studies=["coverage", "accuracy"],
        out=tmp_path / "run",
    )
    lacking = rows_of(run, "openvino-fp32")
    assert lacking["{}"].value == 0.5
    assert "com.microsoft.Inverse" in lacking['{"node": "inverse"}'].detail
    (accuracy,) = [row for row in run.rows if (row.profile, row.study) == ("openvino-fp32", "accuracy")]
    assert accuracy.status == "unavailable"
    assert "com.microsoft.Inverse" in accuracy.detail
    assert {row.status for row in run.rows if row.profile == "cpu-fp32"} == {"ok"}
    outcomes = {(verdict.profile, verdict.rule): verdict.outcome for verdict in run.verdicts}
    assert outcomes["openvino-fp32", "as_asked"] == "fail"
    assert outcomes["cpu-fp32", "as_asked"] == "pass"
