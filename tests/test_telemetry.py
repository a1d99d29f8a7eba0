"""Runtimes' own reporting is off once hwbench asked for it, in this process and in its children."""

from __future__ import annotations

import os
import subprocess
import sys

from hwbench.telemetry import NO_TELEMETRY, silence_telemetry


def test_children_inherit_the_silence(monkeypatch):
    for name in NO_TELEMETRY:
        monkeypatch.setenv(name, "")
    silence_telemetry()
    code = f"import os; print([os.environ[name] for name in {sorted(NO_TELEMETRY)}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([NO_TELEMETRY[name] for name in sorted(NO_TELEMETRY)])
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"
