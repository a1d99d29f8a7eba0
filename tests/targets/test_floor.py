import numpy as np
import onnx
import pytest
from models import small_cnn

import hwbench
from hwbench.errors import ProfileError
from hwbench.profile import load_profile
from hwbench.targets import open_target
from hwbench.targets.floor import check_floor


def capped(tmp_path, mib):
    path = tmp_path / "tiny.toml"
    path.write_text(f'extend = "cpu-fp32"\n[target]\nmemory_mib = {mib}\n')
    return path


def check(tmp_path, mib):
    check_floor(load_profile(str(capped(tmp_path, mib))), open_target("local").run, tmp_path / "floor")


def test_the_need_that_is_named_is_enough_and_anything_less_is_refused(tmp_path):
    with pytest.raises(ProfileError, match=r"profile tiny: target\.memory_mib = 6: too little .* alone") as refused:
        check(tmp_path, 6)
    need = int(str(refused.value).partition("needs ")[2].split()[0])
    assert 6 < need < 200
    check(tmp_path, need + 8)


@pytest.mark.usefixtures("no_cgroups")
def test_so_it_is_under_an_rlimit_however_the_interpreter_dies(tmp_path):
    with pytest.raises(ProfileError, match=r"needs \d+ MiB here \(rlimit\)"):
        check(tmp_path, 12)


def test_without_a_cap_nothing_is_started(tmp_path):
    def run_job(job, folder):
        raise AssertionError("a job was run")

    check_floor(load_profile("cpu-fp32"), run_job, tmp_path)


def test_a_run_is_refused_before_anything_is_written(tmp_path):
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 1, 8, 8), np.float32), y=np.zeros(4, np.int64))
    with pytest.raises(ProfileError, match="with nothing to do needs"):
        hwbench.run(
            tmp_path / "model.onnx",
            data=tmp_path / "data.npz",
            profiles=["cpu-fp32", str(capped(tmp_path, 3))],
            studies=["accuracy"],
            out=tmp_path / "run",
        )
    assert not (tmp_path / "run").exists()
