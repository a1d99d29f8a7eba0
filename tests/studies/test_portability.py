from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from emulation import needs_x86
from onnx import TensorProto, helper, numpy_helper
from pydantic import ValidationError

import hwbench
from hwbench import demo
from hwbench.api import Run
from hwbench.cpu import cpu_flags
from hwbench.cpuid import emulated_cpu
from hwbench.errors import UnknownNameError
from hwbench.studies import Case
from hwbench.studies.portability import PortabilitySettings, PortabilityStudy
from hwbench.table import Row, condition
from hwbench.worker.protocol import JobResult

pytestmark = pytest.mark.isa
N = 256
TARGETS = ("x86_64/Haswell", "x86_64/Nehalem", "aarch64/cortex-a53")
# Activations, weights: the four int8 variants of one model.
VARIANTS = {
    "u8s8": {},
    "s8s8": {"activations": "s8"},
    "reduced": {"reduce_range": True},
    "u8u8": {"weights": "u8"},
}
if emulated_cpu():  # where a worker takes seconds to start
    VARIANTS = {"u8s8": {}}
on_vnni = pytest.mark.skipif(
    not any("vnni" in flag or "amx_int8" in flag for flag in cpu_flags()), reason="needs a processor with VNNI"
)


@pytest.fixture(scope="module")
def run(tmp_path_factory, aarch64) -> Run:
    """The embedded model in four int8 variants on four instruction sets."""
    folder = tmp_path_factory.mktemp("portability")
    stored = np.load(demo.DATA)
    np.savez(folder / "data.npz", x=stored["x"][:N], y=stored["y"][:N])
    for name, precision in VARIANTS.items():
        lines = [f"{key} = {json.dumps(value)}" for key, value in precision.items()]
        (folder / f"{name}.toml").write_text("\n".join(['extend = "cpu-int8"', "[precision]", *lines]))
    return hwbench.run(
        demo.MODEL,
        data={"source": str(folder / "data.npz")},
        calibration={"source": str(demo.CALIBRATION)},
        profiles=[str(folder / f"{name}.toml") for name in VARIANTS],
        studies=["portability"],
        out=folder / "run",
    )


def figure(run: Run, profile: str, metric: str, **setting: str) -> Row:
    found = [
        row
        for row in run.rows
        if (row.profile, row.study, row.metric) == (profile, "portability", metric)
        and json.loads(row.condition) == setting
    ]
    assert len(found) == 1, (profile, metric, setting, found)
    return found[0]


def departing(run: Run, profile: str, target: str) -> list[Row]:
    """The rows that name a layer."""
    conditions = [(row, json.loads(row.condition)) for row in run.rows if row.profile == profile]
    return [row for row, at in conditions if "tensor" in at and at["target"] == target]


@pytest.mark.slow
@needs_x86
@on_vnni
def test_what_saturates_on_avx2_loses_there_and_nothing_else_does(run):
    loss = {name: figure(run, name, "sqnr_loss_db", target="x86_64/Haswell").value for name in VARIANTS}
    assert loss["u8s8"] > 3
    assert loss["s8s8"] > 10
    assert loss["reduced"] == loss["u8u8"] == 0
    for name in VARIANTS:
        portable = figure(run, name, "portable", target="x86_64/Haswell")
        assert portable.value == float(loss[name] == 0), portable.detail
        assert bool(departing(run, name, "x86_64/Haswell")) == (loss[name] > 0)


@pytest.mark.slow
@needs_x86
def test_every_target_is_held_against_the_reference_and_against_this_processor(run):
    for name in VARIANTS:
        here = figure(run, name, "sqnr_db", target="native").value
        for target in TARGETS:
            there = figure(run, name, "sqnr_db", target=target)
            assert there.n == N
            assert figure(run, name, "sqnr_loss_db", target=target).value == pytest.approx(here - there.value)
            beside = figure(run, name, "sqnr_db", against="native", target=target).value
            same = figure(run, name, "top1_agreement", against="native", target=target)
            assert same.ci_low <= same.value <= same.ci_high
            assert (same.value == 1) or beside < 30
            if beside == np.inf:
                assert figure(run, name, "portable", target=target).detail == "the same, bit for bit"
        worst = max(figure(run, name, "sqnr_loss_db", target=target).value for target in TARGETS)
        assert figure(run, name, "sqnr_loss_db").value == worst


@pytest.mark.slow
@needs_x86
def test_another_version_of_the_runtime_is_told_as_a_second_factor(run):
    told = figure(run, "u8s8", "sqnr_db", target="aarch64/cortex-a53").detail
    assert "onnxruntime 1.26.0; runtime version mismatch: natively onnxruntime" in told
    assert "mismatch" not in figure(run, "u8s8", "sqnr_db", target="x86_64/Haswell").detail


@pytest.mark.slow
@needs_x86
def test_the_report_answers_whether_it_will_be_the_same(run):
    page = (run.path / "report.html").read_text()
    assert "Will it be the same on their machines?" in page
    assert "aarch64/cortex-a53" in page


# With results written by hand


def small_build(folder: Path) -> None:
    """A model of two layers whose tensors its reference has too, neither quantized."""
    nodes = [
        helper.make_node("MatMul", ["x", "w"], ["first"]),
        helper.make_node("Relu", ["first"], ["second"]),
        helper.make_node("Identity", ["second"], ["y"]),
    ]
    graph = helper.make_graph(
        nodes,
        "small",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [None, 1])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [None, 3])],
        [numpy_helper.from_array(np.ones((1, 3), np.float32), "w")],
    )
    onnx.save(
        helper.make_model(graph, ir_version=10, opset_imports=[helper.make_opsetid("", 21)]), folder / "model.onnx"
    )


def analysed(case: Case, results: dict[str, JobResult]) -> dict[tuple[str, str], Row]:
    settings = PortabilitySettings(targets=("x86_64/Haswell",))
    rows = PortabilityStudy().measure(case, settings, results).rows
    return {(row.metric, row.condition): row for row in rows}


def probed(folder: Path, version: str = "1") -> JobResult:
    return JobResult("ok", folder, {"versions": {"onnxruntime": version}, "isa": ["avx2"]})


@pytest.fixture
def results(make_result, tmp_path):
    """Reference, this processor and a Haswell that all give the same."""
    outputs = np.eye(5, 3, dtype=np.float32)
    same = make_result({"golden": outputs})
    probes = {f"{target} probe": probed(tmp_path) for target in ("native", "x86_64/Haswell")}
    return {"reference": same, "native": same, "x86_64/Haswell": same, **probes}


def test_a_target_that_cannot_be_emulated_has_a_row_that_says_why(make_case, results, tmp_path):
    why = "there is no qemu-x86_64-static here (apt-get install qemu-user-static)"
    rows = analysed(make_case(), {**results, "x86_64/Haswell": JobResult("unavailable", tmp_path, detail=why)})
    row = rows["sqnr_db", '{"target": "x86_64/Haswell"}']
    assert (row.status, row.detail) == ("unavailable", why)
    assert rows["sqnr_db", '{"target": "native"}'].status == "ok"
    assert rows["sqnr_loss_db", "{}"].status == "unavailable"


def test_without_a_result_here_there_is_nothing_to_compare(make_case, results, tmp_path):
    rows = analysed(make_case(), {**results, "native": JobResult("crash", tmp_path, detail="died")})
    ((key, row),) = rows.items()
    assert key == ("sqnr_loss_db", "{}")
    assert (row.status, row.detail) == ("crash", "native: died")


@pytest.mark.parametrize(("error", "departs"), [(1e-6, False), (1e-2, True)])
def test_the_rounding_of_floats_is_no_departure(make_case, results, tmp_path, error, departs):
    (tmp_path / "there").mkdir()
    np.save(tmp_path / "there" / "stored.npy", np.eye(5, 3, dtype=np.float32) + np.float32(error))
    there = JobResult("ok", tmp_path / "there", {"variants": {"golden": {"arrays": ["stored"]}}})
    case, settings = make_case(), PortabilitySettings(targets=("x86_64/Haswell",))
    small_build(tmp_path)
    more = PortabilityStudy().extend(case, settings, {**results, "x86_64/Haswell": there})
    assert set(more) == ({"x86_64/Haswell layers here", "x86_64/Haswell layers"} if departs else set())
    if departs:
        assert more["x86_64/Haswell layers"].variants == ("first", "second", "y")
        assert more["x86_64/Haswell layers"].machine == {"kind": "emulated", "arch": "x86_64", "cpu": "Haswell"}
    else:
        row = analysed(case, {**results, "x86_64/Haswell": there})["portable", '{"target": "x86_64/Haswell"}']
        assert (row.value, row.detail) == (1.0, "the same but for the rounding of floats")


def test_layers_that_cannot_be_looked_at_are_named_before_the_first_that_departs(make_case, results, tmp_path):
    case = make_case()
    small_build(tmp_path)
    hidden = {"reason": "not observable without changing it"}
    for name, error in (("here", 0), ("there", 1)):
        (tmp_path / name).mkdir()
        np.save(tmp_path / name / "stored.npy", np.eye(5, 3, dtype=np.float32) + np.float32(error))
    there = JobResult("ok", tmp_path / "there", {"variants": {"golden": {"arrays": ["stored"]}}})
    looked = {
        f"x86_64/Haswell layers{where}": JobResult(
            "ok",
            tmp_path / name,
            {"n": 5, "variants": {"first": first, "second": {"arrays": ["stored"]}, "y": {"arrays": ["stored"]}}},
        )
        for where, name, first in ((" here", "here", {"arrays": ["stored"]}), ("", "there", hidden))
    }
    rows = analysed(case, {**results, "x86_64/Haswell": there, **looked})
    at = {name: condition(against="native", target="x86_64/Haswell", tensor=name) for name in ("first", "second", "y")}
    first, second = rows["sqnr_db", at["first"]], rows["sqnr_db", at["second"]]
    assert (first.status, first.detail) == ("unavailable", "on x86_64/Haswell: not observable without changing it")
    assert (second.status, second.n) == ("ok", 5)
    assert second.detail == "Relu: the first observable layer that differs; 1 before it cannot be observed"
    assert ("sqnr_db", at["y"]) not in rows


def test_a_build_for_another_device_has_no_instruction_set_to_vary(make_case):
    case = make_case()
    subject = type(case.subject)(case.subject.build, "onnxruntime", {"provider": "cuda"})
    case = make_case(subject=subject)
    assert PortabilityStudy().plan(case, PortabilitySettings()) == {}
    (row,) = PortabilityStudy().measure(case, PortabilitySettings(), {}).rows
    assert (row.status, row.detail) == ("unavailable", "the build does not run on the processor")


def test_targets_are_checked_before_anything_is_written(make_case):
    with pytest.raises(ValidationError, match="ARCH/CPU"):
        PortabilitySettings(targets=("Haswell",))
    with pytest.raises(UnknownNameError, match="unknown architecture 'mips'"):
        PortabilityStudy().check(PortabilitySettings(targets=("mips/r4000",)), make_case().data, classifies=True)
