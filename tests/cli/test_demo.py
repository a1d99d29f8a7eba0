from __future__ import annotations

import pytest
from shared_run import LAUNCHES

from hwbench import demo, profile
from hwbench.api import Run
from hwbench.cli import demo as command
from hwbench.studies import studies


@pytest.fixture
def short(shared, tmp_path, monkeypatch):
    """The demo on a few digits and one profile, which fails, so that it is over in seconds."""
    (tmp_path / "hopeless.toml").write_text('backend = "onnxruntime"\n[accept]\nmin_accuracy = 0.9999\n')
    monkeypatch.setattr(profile, "profile_names", lambda: [str(tmp_path / "hopeless.toml")])
    monkeypatch.setattr(demo, "DATA", shared.data)
    monkeypatch.setattr(
        command,
        "SETTINGS",
        {
            "bit_flips": {"rates": [1e-4], "draws": 2},
            "noise": {"draws": 2, "snr_db": [5], "impulse_rates": [], "weight_sigmas": []},
            "throughput": {"batches": [1], **LAUNCHES},
            "latency": LAUNCHES,
            "fidelity": {"layers": 0},
        },
    )
    return tmp_path / "demo"


@pytest.mark.slow
def test_the_demo_exits_with_0_whatever_the_verdicts(hw, short):
    ended = hw("demo", "--out", short, "--quiet")
    assert ended.code == 0, ended.err
    run = Run.open(short)
    assert any(verdict.outcome == "fail" for verdict in run.verdicts)
    assert run.exit_code() == 1
    assert {row.study for row in run.rows} == {name for name in studies.names() if studies.get(name).default}
    assert run.record["data"]["calibration"]["note"] == "given"
    assert f"report: {short / 'report.html'}" in ended.out
    again = hw("demo", "--out", short, "--resume", "--json")
    assert again.json["run"]["state"] == "complete"
    assert hw("demo", "--out", short).code == 2  # it is there already


def test_what_the_demo_shortens_are_settings_the_studies_know():
    for name, settings in command.SETTINGS.items():
        studies.get(name).settings_type.model_validate(settings)
