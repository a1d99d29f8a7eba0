"""No runtime reports its use: the switches are set before one is imported, and no worker opens a connection."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hwbench import demo
from hwbench.telemetry import NO_TELEMETRY, REPORTER, silence_telemetry

# What the reporting packages take for a machine that is not to report, so that it would hide what is tested here.
CI_SIGNS = {"CI", "TF_BUILD", "JENKINS_URL", "NNCF_CI", "NNCF_DEV"}
NNCF_PROFILE = """
extend = "cpu-int8"
summary = "Quantized by NNCF"
[precision]
quantizer = "nncf"
"""


def test_children_inherit_the_silence(monkeypatch):
    for name in NO_TELEMETRY:
        monkeypatch.setenv(name, "")
    monkeypatch.delitem(sys.modules, REPORTER, raising=False)
    silence_telemetry()
    code = f"import os; print([os.environ[name] for name in {sorted(NO_TELEMETRY)}])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == str([NO_TELEMETRY[name] for name in sorted(NO_TELEMETRY)])
    assert os.environ["ORT_DISABLE_TELEMETRY"] == "1"


# A module finder that is asked about every import, before anything of it is loaded.
WATCH = """
import json, os, sys
class Watch:
    seen = {}
    def find_spec(self, name, path=None, target=None):
        if name in ("onnxruntime", "openvino", "nncf"):
            self.seen.setdefault(name, [os.environ.get("ORT_DISABLE_TELEMETRY"), "openvino_telemetry" in sys.modules])
sys.meta_path.insert(0, Watch())
from hwbench.worker.__main__ import main
main(sys.argv[1:])
reporter = sys.modules["openvino_telemetry"]
print(json.dumps({"seen": Watch.seen, "reporter": repr(reporter)}))
"""


@pytest.mark.parametrize(
    ("runtime", "backend"),
    [
        ("onnxruntime", "hwbench_onnxruntime:OnnxRuntimeBackend"),
        ("openvino", "hwbench_openvino:OpenVinoBackend"),
    ],
)
def test_a_worker_is_silent_before_it_imports_the_runtime(runtime, backend, tmp_path):
    job = {"task": "hwbench.worker.tasks.probe:run", "params": {}, "backend": backend, "options": {}, "variants": []}
    (tmp_path / "job.json").write_text(json.dumps({"protocol": 1, **job}))
    environment = {name: value for name, value in os.environ.items() if name not in NO_TELEMETRY}
    environment["PYTHONPATH"] = os.pathsep.join(sys.path)
    command = [sys.executable, "-c", WATCH, str(tmp_path)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    record = json.loads(done.stdout.splitlines()[-1])
    assert record["seen"][runtime] == ["1", True]
    assert record["reporter"] == "None"
    assert json.loads((tmp_path / "result.json").read_text())["status"] == "ok"


def traced_connections(command: list[str], log: Path, environment: dict[str, str]) -> list[str]:
    """Every network socket that a command, its children or their native libraries open, by the kernel's account."""
    calls = "trace=socket,connect,sendto,sendmsg,sendmmsg"
    tracer = ["strace", "--seccomp-bpf", "-f", "-qq", "-e", calls, "-o", str(log), *command]
    subprocess.run(tracer, env=environment, check=True, capture_output=True)
    return [line for line in log.read_text().splitlines() if re.search(r"AF_INET6?\b", line)]


@pytest.fixture
def reporting_environment(tmp_path):
    """The environment of a user who has neither given nor refused consent, outside CI."""
    if shutil.which("strace") is None:
        pytest.skip("needs strace")
    kept = {name: value for name, value in os.environ.items() if name not in NO_TELEMETRY.keys() | CI_SIGNS}
    (tmp_path / "home").mkdir()
    return kept | {"HOME": str(tmp_path / "home"), "HWBENCH_CACHE": str(tmp_path / "cache")}


def test_the_trace_sees_a_connection(tmp_path, reporting_environment):
    code = "import socket; socket.socket().connect_ex(('127.0.0.1', 9))"
    found = traced_connections([sys.executable, "-c", code], tmp_path / "trace", reporting_environment)
    assert any("connect" in line and "127.0.0.1" in line for line in found)


@pytest.mark.slow
def test_a_run_opens_no_connection(tmp_path, reporting_environment):
    pytest.importorskip("openvino")
    pytest.importorskip("nncf")
    (tmp_path / "nncf.toml").write_text(NNCF_PROFILE)
    out = tmp_path / "run"
    # fmt: off
    command = [
        sys.executable, "-c", "from hwbench.cli import main; main()", "run", str(demo.MODEL), "--data", str(demo.CALIBRATION),
        "--profiles", f"cpu-fp32,openvino-fp32,{tmp_path / 'nncf.toml'}", "--studies", "fidelity",
        "--out", str(out), "--quiet",
    ]
    # fmt: on
    assert traced_connections(command, tmp_path / "trace", reporting_environment) == []
    profiles = json.loads((out / "run.json").read_text())["profiles"]
    assert {name: entry["status"] for name, entry in profiles.items()} == dict.fromkeys(profiles, "ok")
    assert not (tmp_path / "home" / "intel").exists()
