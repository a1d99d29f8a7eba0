import pytest

from hwbench.worker.cap import CAP_VARIABLE, lower_cap

MIB = 1 << 20


def test_version_2_has_one_file(tmp_path):
    (tmp_path / "memory.max").write_text("max")
    lower_cap(64, {CAP_VARIABLE: f"2:{tmp_path}"})
    assert (tmp_path / "memory.max").read_text() == str(64 * MIB)


def test_version_1_lowers_memory_before_memory_with_swap(tmp_path):
    for name in ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes"):
        (tmp_path / name).write_text("1")
    lower_cap(64, {CAP_VARIABLE: f"1:{tmp_path}"})
    assert (tmp_path / "memory.limit_in_bytes").read_text() == str(64 * MIB)
    assert (tmp_path / "memory.memsw.limit_in_bytes").read_text() == str(64 * MIB)


def test_version_1_without_swap_accounting(tmp_path):
    (tmp_path / "memory.limit_in_bytes").write_text("1")
    lower_cap(64, {CAP_VARIABLE: f"1:{tmp_path}"})
    assert not (tmp_path / "memory.memsw.limit_in_bytes").exists()


def test_a_group_that_is_gone_is_no_lack_of_memory(tmp_path):
    with pytest.raises(FileNotFoundError):
        lower_cap(64, {CAP_VARIABLE: f"2:{tmp_path / 'nowhere'}"})
