from __future__ import annotations

import json

import psutil
from emulation import needs_x86

from hwbench.targets import qemu, sandbox
from hwbench.targets.limits import mechanism


def test_the_machine_and_what_it_can_enforce_are_told(hw):
    ended = hw("targets")
    assert ended.code == 0
    assert "memory cap (memory_mib)" in ended.out
    assert mechanism().memory in ended.out


def test_json(hw):
    local = hw("targets", "--json").json["local"]
    assert local["host"]["cores_logical"] == psutil.cpu_count()
    assert local["limits"]["memory"] == mechanism().memory
    assert local["sandbox"] == sandbox.describe()


def test_what_can_be_emulated_is_told_with_the_command_for_what_is_missing(hw, tmp_path, monkeypatch):
    monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path))
    emulated = hw("targets", "--json").json["emulated"]
    assert set(emulated) == {"x86_64", "aarch64"}
    for one in emulated.values():
        assert one["available"] or one["hint"] in (qemu.HINT, "hwbench targets install aarch64")
        assert bool(one["cpus"]) == bool(one["emulator"])
    assert all(arch in hw("targets").out for arch in emulated)


def test_system_roots_of_unknown_instruction_sets_are_refused(hw):
    for command in ("install", "remove"):
        ended = hw("targets", command, "mips")
        assert ended.code == 2
        assert "unknown system root 'mips'. Known: aarch64." in ended.err


def test_nothing_to_remove_is_said(hw, tmp_path, monkeypatch):
    monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path))
    ended = hw("targets", "remove", "aarch64")
    assert (ended.code, ended.out) == (0, "no system root of aarch64 is installed\n")


@needs_x86
def test_a_run_on_an_unknown_processor_ends_before_anything_is_written(hw, tmp_path, model, data):
    (tmp_path / "own.toml").write_text(
        'extend = "cpu-fp32"\n[target]\nkind = "emulated"\narch = "x86_64"\ncpu = "Hasswell"\n'
    )
    ended = hw("run", model, "--data", data, "--profiles", tmp_path / "own.toml", "--out", tmp_path / "run")
    assert ended.code == 2
    assert "unknown x86_64 processor model 'Hasswell'. Did you mean 'Haswell'? Known: " in ended.err
    assert not (tmp_path / "run").exists()


def test_a_profile_whose_processor_cannot_be_emulated_is_unavailable_with_the_command(
    hw, tmp_path, model, data, monkeypatch
):
    monkeypatch.setenv("HWBENCH_CACHE", str(tmp_path / "cache"))
    options = ("--profiles", "edge-cortex-a53-int8", "--studies", "accuracy", "--out", tmp_path / "run")
    ended = hw("run", model, "--data", data, *options, "--require", "edge-cortex-a53-int8")
    assert ended.code == 3
    entry = json.loads((tmp_path / "run" / "run.json").read_text())["profiles"]["edge-cortex-a53-int8"]
    assert entry["status"] == "unavailable"
    assert entry["hint"] in (qemu.HINT, "hwbench targets install aarch64")
