from __future__ import annotations

import psutil

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
