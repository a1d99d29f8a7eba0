from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from emulation import needs_x86
from job_files import files_in
from shared_run import some_digits

import hwbench
from hwbench import demo
from hwbench.backend import backends
from hwbench.build import Recipe, make_build
from hwbench.cpu import cpu_flags
from hwbench.dataset import DataSpec, materialise, open_source
from hwbench.errors import InputError, ProfileError, UnavailableError, UnknownNameError
from hwbench.model import Model
from hwbench.profile import load_profile
from hwbench.targets import Targets, check_machine, open_target
from hwbench.targets.emulated import emulations
from hwbench.targets.qemu import find_qemu
from hwbench.worker.protocol import Job, Limits

HASWELL = {"kind": "emulated", "arch": "x86_64", "cpu": "Haswell"}
A53 = {"kind": "emulated", "arch": "aarch64", "cpu": "cortex-a53"}


def probe(machine: dict[str, str], folder: Path, backend: str = "onnxruntime"):
    return Targets().run(
        Job("hwbench.worker.tasks.probe:run", backend=backends.reference(backend), machine=machine), folder
    )


@needs_x86
def test_a_worker_sees_the_emulated_processor_and_says_so(tmp_path):
    result = probe(HASWELL, tmp_path)
    assert result.ok, result.detail
    assert {"avx2", "fma"} <= set(result.data["isa"])
    assert not [name for name in result.data["isa"] if "512" in name or "vnni" in name or "amx" in name]
    assert result.data["versions"]["qemu"] == find_qemu("x86_64").version
    assert (tmp_path / "stderr.log").read_text() == ""  # no warning about what QEMU leaves out
    assert find_qemu("x86_64").version in open_target(**HASWELL).describe()["emulator"]


@needs_x86
def test_what_chooses_code_for_this_processor_does_not_reach_another(tmp_path, monkeypatch):
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")  # AVX2, which a Nehalem has not
    result = probe({"kind": "emulated", "arch": "x86_64", "cpu": "Nehalem"}, tmp_path)
    assert result.ok, result.detail
    assert "avx2" not in result.data["isa"]


@needs_x86
def test_what_qemu_leaves_out_of_a_model_is_told():
    assert "avx512vnni" in find_qemu("x86_64").left_out("Cascadelake-Server")
    about = open_target("emulated", arch="x86_64", cpu="Cascadelake-Server").describe()
    assert "avx512f" in about["not_emulated"]


@pytest.mark.slow
def test_an_arm_core_runs_the_pinned_runtime_of_its_system_root(tmp_path, aarch64):
    result = probe(A53, tmp_path)
    assert result.ok, result.detail
    assert result.data["isa"] == ["asimd"]
    about = open_target(**A53).describe()["system_root"]
    assert result.data["versions"]["onnxruntime"] == about["onnxruntime"] == "1.26.0"
    assert result.data["versions"]["numpy"] == about["numpy"]
    missing = probe(A53, tmp_path / "openvino", "openvino")  # this machine's own packages must not be found there
    assert not missing.data["available"]
    assert "openvino" in missing.data["reason"]


@pytest.mark.slow
@needs_x86
@pytest.mark.skipif("avx2" not in cpu_flags(), reason="needs a processor with AVX2")
def test_openvino_on_an_emulated_haswell_equals_openvino_held_to_avx2_bit_for_bit(tmp_path, monkeypatch):
    _, x, _ = some_digits(tmp_path / "digits.npz", 64)
    profile, model = load_profile("openvino-int8"), Model.open(demo.MODEL)
    calibration = materialise(open_source(DataSpec(source=str(demo.CALIBRATION))), model.inputs, tmp_path, task=None)
    shapes = {spec.name: spec.shape[1:] for spec in model.inputs}
    recipe = Recipe(model, profile.precision, shapes, calibration)
    build = make_build(recipe, tmp_path / "build", open_target("local").run)
    np.save(tmp_path / "x.npy", x)
    params = {
        **{"model": str(build.model), "inputs": {model.inputs[0].name: str(tmp_path / "x.npy")}, "n": len(x)},
        **{"batch": 16, "outputs": [model.outputs[0].name], "keep": "full", "variants": {"golden": {"kind": "golden"}}},
    }

    def outputs(kind: str, **machine: str) -> np.ndarray:
        job = Job(
            "hwbench.worker.tasks.evaluate:run",
            params,
            backends.reference("openvino"),
            profile.full_options,
            variants=("golden",),
            files=files_in(params),
        )
        result = open_target(kind, **machine).run(job, tmp_path / f"{kind}-{len(list(tmp_path.iterdir()))}")
        assert result.ok, result.detail
        return result.array(result.data["variants"]["golden"]["arrays"][0])

    emulated, unrestricted = outputs(**HASWELL), outputs("local")
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    held = outputs("local")
    np.testing.assert_array_equal(emulated, held)
    if "avx512_vnni" in cpu_flags():  # or the test could not tell
        assert not np.array_equal(emulated, unrestricted)


@pytest.mark.slow
@needs_x86
def test_all_studies_but_timing_run_on_an_emulated_processor(tmp_path):
    data, _, _ = some_digits(tmp_path / "digits.npz", 48)
    run = hwbench.run(
        demo.MODEL,
        data={"source": str(data)},
        calibration={"source": str(demo.CALIBRATION)},
        profiles=["cpu-int8-avx2"],
        studies=["accuracy", "coverage", "fidelity", "bit_flips", "noise", "latency", "throughput", "memory"],
        settings={
            "bit_flips": {"rates": [1e-3], "draws": 2},
            "noise": {"snr_db": [5], "impulse_rates": [], "weight_sigmas": [], "draws": 2},
            "fidelity": {"layers": 0},
        },
        out=tmp_path / "run",
    )
    told = run.table.filter(pl.col("profile") == "cpu-int8-avx2")
    status = {study: " ".join(sorted(set(rows["status"]))) for (study,), rows in told.group_by("study")}
    late = {"latency", "throughput", "memory"}
    assert {study: kinds for study, kinds in status.items() if study not in late} == dict.fromkeys(
        ("accuracy", "coverage", "fidelity", "bit_flips", "noise"), "ok"
    )
    assert {status[study] for study in late} == {"unavailable"}
    reasons = told.filter(pl.col("status") == "unavailable")["detail"]
    assert len(reasons) == len(late)
    assert all(reason.startswith("emulated") for reason in reasons)
    ran = run.record["profiles"]["cpu-int8-avx2"]["ran"]
    assert "avx2" in ran["isa"]
    assert "avx512f" not in ran["isa"]
    assert ran["machine"]["cpu"] == "Haswell"


# What is refused, and what is only missing


@needs_x86
def test_an_unknown_processor_model_is_refused_with_the_list():
    with pytest.raises(UnknownNameError, match=r"'Haswel'\. Did you mean 'Haswell'\? Known: .*Nehalem"):
        check_machine({**HASWELL, "cpu": "Haswel"})
    with pytest.raises(UnknownNameError, match=r"unknown architecture 'riscv64'\. Known: aarch64, x86_64"):
        check_machine({**HASWELL, "arch": "riscv64"})


@needs_x86
def test_caps_and_quotas_are_refused(tmp_path):
    for limits in (Limits(memory_mib=64), Limits(cpu_quota=0.5)):
        with pytest.raises(InputError, match="would measure QEMU"):
            open_target(**HASWELL).run(Job("sample_tasks:ok", limits=limits), tmp_path)


@pytest.mark.parametrize(
    ("target", "why"),
    [
        ('kind = "emulated"\narch = "x86_64"', "needs arch and cpu"),
        (
            'kind = "emulated"\narch = "x86_64"\ncpu = "Haswell"\nmemory_mib = 64',
            "takes no memory_mib, cpu_quota or processors",
        ),
        (
            'kind = "emulated"\narch = "x86_64"\ncpu = "Haswell"\ncpu_quota = 0.5',
            "takes no memory_mib, cpu_quota or processors",
        ),
        ('cpu = "Haswell"', "go with kind = 'emulated' only"),
    ],
)
def test_a_target_that_contradicts_itself_is_refused(tmp_path, target, why):
    (tmp_path / "own.toml").write_text(f'extend = "cpu-int8"\n[target]\n{target}\n')
    with pytest.raises(ProfileError, match=why):
        load_profile(str(tmp_path / "own.toml"))


def test_missing_qemu_and_missing_system_roots_name_the_command(tmp_path, monkeypatch):
    if shutil.which("qemu-aarch64-static"):
        monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path))
        with pytest.raises(UnavailableError, match=r"hwbench targets install aarch64"):
            open_target(**A53)
        assert emulations()["aarch64"].hint == "hwbench targets install aarch64"
        assert "cortex-a53" in emulations()["aarch64"].cpus
    monkeypatch.setenv("PATH", str(tmp_path))
    find_qemu.cache_clear()
    with pytest.raises(UnavailableError, match="apt-get install qemu-user-static"):
        open_target(**HASWELL)
    result = probe(HASWELL, tmp_path / "job")
    assert (result.status, emulations()["x86_64"].available) == ("unavailable", False)
    assert "apt-get install qemu-user-static" in result.detail
    check_machine(HASWELL)  # a result, told in the run, and nothing wrong with what was asked
