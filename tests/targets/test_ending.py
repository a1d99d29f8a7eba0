import pytest

from hwbench.targets.ending import STDERR_FILE, classify
from hwbench.worker.protocol import RESULT_FILE, Limits, write_json

CGROUP = {"mechanism": "cgroup v1", "cap_mib": 64, "oom_kills": 0, "cap_refaults": 0}


def ending(folder, returncode, stderr="", enforced=(), timed_out=False):
    (folder / STDERR_FILE).write_text(stderr)
    return classify(folder, returncode, Limits(timeout_s=2.5), dict(enforced), timed_out)


def test_result_that_was_written_counts_whatever_came_after(tmp_path):
    result = {"protocol": 1, "status": "ok", "data": {"a": 1}, "detail": "", "usage": {"peak_mib": 9.0}}
    write_json(tmp_path / RESULT_FILE, result)
    end = ending(tmp_path, -11, "Segmentation fault", CGROUP, timed_out=True)
    assert (end.status, end.data) == ("ok", {"a": 1})
    assert end.usage == {"peak_mib": 9.0, **CGROUP}


@pytest.mark.parametrize(
    "stderr",
    [
        "terminate called after throwing an instance of 'std::bad_alloc'",
        "MemoryError",
        "mmap: Cannot allocate memory",
        "OpenBLAS error: Memory allocation still failed after 10 retries, giving up.",
    ],
)
def test_words_for_lack_of_memory(tmp_path, stderr):
    end = ending(tmp_path, -6, f"{stderr}\n")
    assert (end.status, end.detail) == ("oom", stderr)


def test_kill_without_an_oom_count_is_a_crash(tmp_path):
    end = ending(tmp_path, -9, enforced=CGROUP)
    assert (end.status, end.detail) == ("crash", "died of SIGKILL")


def test_time_limit_reached_while_thrashing_says_so(tmp_path):
    end = ending(tmp_path, -9, enforced={**CGROUP, "cap_refaults": 3}, timed_out=True)
    assert end.status == "timeout"
    assert end.detail == ("took longer than 2.5 s (under a cap of 64 MiB, 3 file pages were read again)")


def test_signal_without_a_name(tmp_path):
    assert ending(tmp_path, -40).detail == "died of signal 40"


def test_only_the_end_of_a_long_stderr_is_kept(tmp_path):
    detail = ending(tmp_path, 1, "noise\n" * 100_000 + "the reason\n").detail
    assert detail.endswith("the reason")
    assert len(detail) < 1000


def test_worker_out_of_patience_with_a_faulty_build_took_too_long(tmp_path):
    end = ending(tmp_path, -27)
    assert (end.status, end.detail) == ("timeout", "took far more processor time than the fault-free build")
