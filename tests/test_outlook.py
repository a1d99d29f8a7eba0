from __future__ import annotations

import shutil

import pytest
from shared_run import some_digits

from hwbench import demo
from hwbench.host import cache_home
from hwbench.outlook import look_ahead
from hwbench.preparation import prepare
from hwbench.spec import make_spec


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return some_digits(tmp_path_factory.mktemp("digits") / "digits.npz", n=48)[0]


def outlook(data, **changes):
    settings = {"profiles": ["cpu-fp32", "cpu-int8"], "studies": ["accuracy", "fidelity", "latency"], **changes}
    spec = make_spec(model=str(demo.MODEL), data={"source": str(data)}, **settings)
    with prepare(spec) as prepared:
        return look_ahead(prepared)


def test_work_is_counted_once_and_timed_on_every_build(digits):
    found = outlook(digits)
    fp32, int8 = found.profiles
    studies = {(one.profile, study.study): study for one in found.profiles for study in one.studies}
    assert (studies["cpu-fp32", "accuracy"].jobs, studies["cpu-fp32", "accuracy"].inputs) == (2, 2 * 48)
    assert studies["cpu-int8", "accuracy"].jobs == 1  # the reference was counted
    assert all(study.seconds >= 0 for study in studies.values())
    assert studies["cpu-fp32", "latency"].inputs == 0
    assert found.seconds > max(study.seconds for study in studies.values()) / 2
    assert fp32.profile == "cpu-fp32"
    assert "jobs" in found.summary
    assert int8.build_s >= 0


def test_a_build_that_is_not_cached_is_not_made(digits):
    builds = cache_home() / "builds"
    shutil.rmtree(builds, ignore_errors=True)
    found = outlook(digits)
    assert [one.build for one in found.profiles] == ["to make", "to make"]
    assert found.profiles[1].build_s > 0
    assert "not made yet" in found.profiles[1].detail
    assert not builds.exists() or not [*builds.iterdir()]


def test_a_profile_that_cannot_run_here_says_why(digits):
    (gpu,) = outlook(digits, profiles=["gpu-cuda-fp32"]).profiles
    assert (gpu.build, gpu.studies) == ("unavailable", [])
    assert gpu.detail


def test_profiles_of_one_build_make_it_once(digits, tmp_path):
    (tmp_path / "twin.toml").write_text('extend = "cpu-int8"\n')
    one, twin = outlook(digits, profiles=["cpu-int8", str(tmp_path / "twin.toml")], studies=["accuracy"]).profiles
    assert twin.build == "shared"
    assert [study.jobs for study in twin.studies] == [0]
    assert one.studies[0].jobs == 2
