from __future__ import annotations

import numpy as np
import onnx
import pytest
from models import small_cnn
from shared_run import RUN_HERE

import hwbench
from hwbench.errors import ProfileError
from hwbench.profile import load_profile
from hwbench.targets import open_target
from hwbench.targets.floor import check_floor


@pytest.mark.parametrize("profile", RUN_HERE)
def test_the_peak_is_that_of_the_tree_and_no_smaller_than_either_kind(shared, profile):
    peak = shared.row(profile, "memory", "peak_mib").value
    anonymous = shared.row(profile, "memory", "peak_mib", kind="anonymous").value
    file = shared.row(profile, "memory", "peak_mib", kind="file").value
    assert 10 < max(anonymous, file) <= peak + 0.5
    assert "before the model was loaded" in shared.row(profile, "memory", "peak_mib").detail


@pytest.mark.parametrize("profile", RUN_HERE)
def test_the_models_size_is_that_of_the_deployed_file_exactly(shared, profile):
    row = shared.row(profile, "memory", "model_bytes")
    assert row.value == shared.deployed(profile).stat().st_size
    assert row.ci_low is None
    assert shared.row("cpu-int8", "memory", "model_bytes").value < shared.row("cpu-fp32", "memory", "model_bytes").value


def test_a_profile_that_fits_its_cap_passes_and_says_how_it_was_enforced(shared):
    row = shared.row("edge-int8-128m", "memory", "peak_mib", cap_mib=128)
    assert 0 < row.value <= 128
    assert "enforced by" in row.detail
    (verdict,) = [one for one in shared.run.verdicts if one.rule == "fits_memory"]
    assert (verdict.profile, verdict.outcome, verdict.limit) == ("edge-int8-128m", "pass", 128)


def interpreters_need(folder):
    """Below this, a cap is no limit to test a build under, and the run is refused."""
    (folder / "none.toml").write_text('extend = "cpu-fp32"\n[target]\nmemory_mib = 3\n')
    with pytest.raises(ProfileError) as refused:
        check_floor(load_profile(str(folder / "none.toml")), open_target("local").run, folder / "floor")
    return int(str(refused.value).partition("needs ")[2].split()[0])


def test_a_cap_below_the_need_is_an_oom_row_and_a_failed_verdict(tmp_path):
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 1, 8, 8), np.float32), y=np.zeros(4, np.int64))
    cap = interpreters_need(tmp_path) + 2
    (tmp_path / "tiny.toml").write_text(f'extend = "cpu-fp32"\n[target]\nmemory_mib = {cap}\n')
    run = hwbench.run(
        tmp_path / "model.onnx",
        data=tmp_path / "data.npz",
        profiles=[str(tmp_path / "tiny.toml")],
        studies=["memory", "latency"],
        settings={"memory": {"runs": 1}},
        out=tmp_path / "run",
    )
    rows = {(row.study, row.metric, row.condition): row for row in run.rows if row.profile == "tiny"}
    capped = rows["memory", "peak_mib", f'{{"cap_mib": {cap}}}']
    assert (capped.status, capped.value) == ("oom", None)
    assert f"{cap} MiB" in capped.detail
    assert rows["memory", "peak_mib", "{}"].value > 12  # the free run's figures stand
    assert rows["latency", "p50_ms", "{}"].status == "oom"
    (verdict,) = [one for one in run.verdicts if one.rule == "fits_memory"]
    assert verdict.outcome == "fail"
    assert run.exit_code() == 1
