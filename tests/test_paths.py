"""Any path that the file system takes: wildcards are names like others, and only names that are not UTF-8 are refused."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from PIL import Image

import hwbench
from hwbench import demo
from hwbench.api import Run
from hwbench.cli.faults import save
from hwbench.errors import InputError
from hwbench.spec import load_spec

ODD = ["r?", "r[1]", "*", "-dash", "two words\nand a line", "#50%41'\"{x,y}$HOME~;:\\ ", "\u00e9\u4e2d"]
NOT_UTF8 = os.fsdecode(b"caf\xe9")


@pytest.fixture(scope="module")
def digits():
    stored = np.load(demo.DATA)
    return stored["x"][:12], stored["y"][:12]


def placed(folder: Path, digits) -> dict[str, str]:
    """A model, data and a profile whose own names are odd, too."""
    folder.mkdir(parents=True)
    shutil.copyfile(demo.MODEL, folder / "m[1]?*.onnx")
    np.savez(folder / "d[1]?*.npz", x=digits[0], y=digits[1])
    (folder / "p[1].toml").write_text('extend = "cpu-fp32"\n')
    return {
        "model": str(folder / "m[1]?*.onnx"),
        "data": str(folder / "d[1]?*.npz"),
        "profile": str(folder / "p[1].toml"),
    }


@pytest.mark.parametrize("name", ODD)
def test_a_run_works_wherever_it_is(digits, tmp_path, name):
    """Beside files that wildcards in the names would match."""
    given = placed(tmp_path / name / "in", digits)
    for other in ("m1xx.onnx", "d1xx.npz", "p1.toml"):
        (tmp_path / name / "in" / other).write_bytes(b"another file")
    run = hwbench.run(
        given["model"],
        data=given["data"],
        profiles=[given["profile"]],
        studies=["accuracy", "coverage"],
        out=tmp_path / name / "run",
    )
    assert {row.status for row in run.rows} == {"ok"}
    assert Run.open(tmp_path / name / "run").inputs("p[1]").n == 12
    assert not hwbench.api.compare(run, run).is_empty()


def test_runs_beside_each_other_do_not_mix(digits, tmp_path):
    given = placed(tmp_path / "in", digits)
    other = tmp_path / "few.npz"
    np.savez(other, x=digits[0][:5], y=digits[1][:5])
    for name, data in (("r1", str(other)), ("r?", given["data"])):
        hwbench.run(given["model"], data=data, profiles=["cpu-fp32"], studies=["accuracy"], out=tmp_path / name)
    for kind, profile in (("inputs", "cpu-fp32"), ("inputs", "reference")):
        assert Run.open(tmp_path / "r?").inputs(profile).n == 12, kind
        assert Run.open(tmp_path / "r1").inputs(profile).n == 5


def test_a_campaign_below_wildcards_saves_its_own_faults(digits, tmp_path):
    given = placed(tmp_path / "in", digits)
    for name, trials in (("r1", 20), ("r[1]", 30)):
        run = hwbench.run(
            given["model"],
            data=given["data"],
            profiles=["cpu-fp32"],
            studies=["faults"],
            settings={"faults": {"trials": trials}},
            out=tmp_path / name / "run",
        )
        save(run, tmp_path / f"{name}.csv")
        assert pl.read_csv((tmp_path / f"{name}.csv").read_bytes()).height == trials


@pytest.mark.parametrize("form", ["csv", "parquet", "images"])
def test_data_of_every_form_are_the_file_that_is_named(tmp_path, digits, form):
    folder = tmp_path / "d[1]?*#%41"
    folder.mkdir()
    x, y = digits
    if form == "images":
        for index, (image, label) in enumerate(zip(x, y, strict=True)):
            (folder / "i[1]" / str(label)).mkdir(parents=True, exist_ok=True)
            pixels = (image.reshape(28, 28) * 255).clip(0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / "i[1]" / str(label) / f"{index}[1]?.png")
        source = folder / "i[1]"
    else:
        source = folder / f"t[1].{form}"
        table = pl.DataFrame({"x": [1.0, 2.0], "y": [0, 1]})
        for path in (source, folder / f"t1.{form}"):
            with path.open("wb") as file:
                table.write_csv(file) if form == "csv" else table.write_parquet(file)
            table = pl.concat([table, table])
    opened = hwbench.dataset.open_source(hwbench.dataset.DataSpec(source=str(source)))
    assert sum(len(labels) for _, labels in opened.batches(100, [] if form == "images" else ["x"])) == (
        12 if form == "images" else 2
    )


def test_a_specification_below_wildcards_names_its_neighbours(tmp_path, digits):
    folder = tmp_path / "s[1]*"
    placed(folder, digits)
    text = 'model = "m[1]?*.onnx"\nprofiles = ["p[1].toml"]\n[data]\nsource = "d[1]?*.npz"\n'
    (folder / "s[1].toml").write_text(text)
    run = hwbench.api.run_spec(
        load_spec(folder / "s[1].toml").model_copy(update={"studies": ["coverage"]}), tmp_path / "run"
    )
    assert set(run.record["profiles"]) == {"p[1]"}


@pytest.mark.parametrize("what", ["model", "data", "profile", "out"])
def test_a_name_that_is_not_utf8_is_refused_before_anything_runs(tmp_path, digits, what):
    given = placed(tmp_path / "in", digits) | {"out": str(tmp_path / "run")}
    odd = str(tmp_path / NOT_UTF8 / "in")
    given[what] = placed(Path(odd), digits)[what] if what != "out" else odd + "/run"
    with pytest.raises(InputError, match=r"caf\\xe9.*: its name is not UTF-8 here; rename it"):
        hwbench.run(
            given["model"], data=given["data"], profiles=[given["profile"]], studies=["coverage"], out=given["out"]
        )
    assert not (tmp_path / "run").exists()
    assert not Path(odd, "run").exists()
