from __future__ import annotations

import shutil

import pytest


@pytest.fixture
def copied(shared, tmp_path):
    folder = tmp_path / "run"
    shutil.copytree(shared.run.path, folder)
    for name in ("report.html", "report.md", "junit.xml"):
        (folder / name).unlink()
    return folder


def test_every_view_is_written_again_from_the_table(hw, shared, copied):
    ended = hw("report", copied)
    assert ended.code == 0
    for name in ("report.md", "junit.xml"):
        assert (copied / name).read_text() == (shared.run.path / name).read_text()
    assert (copied / "report.html").stat().st_size > 10_000


@pytest.mark.parametrize("name", ["one.html", "one.md", "one.xml"])
def test_one_view_goes_where_it_is_told(hw, copied, tmp_path, name):
    assert hw("report", copied, "--out", tmp_path / name).code == 0
    assert (tmp_path / name).stat().st_size > 0
    assert not (copied / "report.md").exists()


def test_another_ending_is_refused(hw, copied, tmp_path):
    ended = hw("report", copied, "-o", tmp_path / "report.pdf")
    assert ended.code == 2
    assert ended.err == f"error: {tmp_path / 'report.pdf'}: a report ends in .html, .md, .xml\n"


def test_json_is_the_run(hw, shared):
    ended = hw("report", shared.run.path, "--json", "-o", shared.run.path / "report.md")
    assert ended.code == 0
    assert ended.json["path"] == str(shared.run.path)
    assert ended.json["run"]["seed"] == shared.run.record["seed"]
    assert len(ended.json["measurements"]) == shared.run.table.height


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("{", "run.json: damaged"),
        ('{"schema_version": 999}', "schema version 999, this hwbench reads up to 1; upgrade hwbench"),
        (None, "no run here (run.json is missing)"),
    ],
)
def test_what_is_no_run_is_refused(hw, tmp_path, content, said):
    if content is not None:
        (tmp_path / "run.json").write_text(content)
    ended = hw("report", tmp_path)
    assert ended.code == 2
    assert said in ended.err
