import os
import subprocess
import sys
from pathlib import Path

from hwbench.worker.protocol import JOB_FILE, RESULT_FILE, read_json, write_json


def work(folder, task, *arguments, **changes):
    job = {"protocol": 1, "task": task, "params": {}, "backend": "", "options": {}, "variants": [], **changes}
    write_json(folder / JOB_FILE, job)
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    command = [sys.executable, "-P", "-m", "hwbench.worker", str(folder), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=120)


def test_result_is_the_whole_of_the_protocol(tmp_path):
    ended = work(tmp_path, "sample_tasks:ok", params={"numbers": [3]})
    assert ended.returncode == 0, ended.stderr
    result = read_json(tmp_path / RESULT_FILE)
    assert result.keys() == {"protocol", "status", "data", "detail", "usage"}
    assert result["usage"].keys() == {"peak_mib", "anon_mib", "file_mib"}
    assert {path.name for path in tmp_path.iterdir()} == {JOB_FILE, RESULT_FILE, "doubled.npy"}


def test_telemetry_is_off_before_a_task_is_imported(tmp_path):
    work(tmp_path, "sample_tasks:telemetry")
    assert read_json(tmp_path / RESULT_FILE)["data"] == {"ort": "1"}


def test_children_are_accounted(tmp_path):
    work(tmp_path, "sample_tasks:child_allocates", params={"mib": 200})
    assert read_json(tmp_path / RESULT_FILE)["usage"]["children_peak_mib"] > 200


def test_worker_whose_parent_is_gone_does_nothing(tmp_path):
    ended = work(tmp_path, "sample_tasks:ok", "1" if os.getpid() != 1 else "2")
    assert ended.returncode == 1
    assert "is gone" in ended.stderr
    assert not (tmp_path / RESULT_FILE).exists()


def test_job_of_another_version_is_refused(tmp_path):
    ended = work(tmp_path, "sample_tasks:ok", protocol=99)
    assert ended.returncode != 0
    assert "job protocol 99, this hwbench speaks 1" in ended.stderr
