"""Run specifications: from files, from arguments, and how mistakes are told."""

import json
import os
from pathlib import Path
from typing import Annotated

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hwbench.errors import SpecError
from hwbench.spec import RunSpec, load_spec, make_spec
from hwbench.studies import studies
from hwbench.studies.base import NamesFile, Settings

GIVEN = {"model": "m.onnx", "data": {"source": "d.npz"}, "profiles": ["cpu-fp32"]}


@pytest.fixture
def write(tmp_path):
    def spec(text):
        path = tmp_path / "specs" / "study.toml"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        return path

    return spec


def test_defaults():
    spec = make_spec(**GIVEN)
    assert (spec.seed, spec.batch, spec.timeout_s, spec.studies, spec.settings) == (0, 64, 600.0, None, {})
    assert spec.jobs == min(2, os.cpu_count())


specs = st.fixed_dictionaries(
    {
        "model": st.text(),
        "data": st.fixed_dictionaries({"source": st.text()}),
        "profiles": st.lists(st.text(), min_size=1),
    },
    optional={
        "reference": st.none() | st.text(),
        "split_calibration": st.floats(0, 1, exclude_min=True, exclude_max=True),
        "studies": st.none() | st.lists(st.text()),
        "task": st.sampled_from([None, "classification", "regression", "embedding"]),
        "batch": st.integers(1, 2**20),
        "seed": st.integers(0, 2**63 - 1),
        "timeout_s": st.floats(1e-3, 1e6),
        "jobs": st.integers(1, 64),
        "settings": st.dictionaries(st.text(), st.dictionaries(st.text(), st.integers() | st.text() | st.booleans())),
    },
)


@given(specs)
def test_a_spec_survives_its_record(content):
    spec = make_spec(**content)
    assert RunSpec.model_validate(json.loads(json.dumps(spec.model_dump(mode="json")))) == spec


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"modle": "x"}, "unknown key 'modle'. Did you mean 'model'"),
        ({"data": {"source": "d", "lable": "y"}}, "unknown key 'data.lable'. Did you mean 'data.label'"),
        (
            {"calibration": {"source": "d", "lable": "y"}},
            "unknown key 'calibration.lable'. Did you mean 'calibration.label'",
        ),
        (
            {"data": {"source": "d", "preprocess": {"men": [0.5]}}},
            "unknown key 'data.preprocess.men'. Did you mean 'data.preprocess.mean'",
        ),
        ({"data": {}}, "data.source: missing"),
        ({"profiles": []}, "profiles: .*at least 1 item"),
        ({"profiles": "cpu-fp32"}, "profiles: .*list, not 'cpu-fp32'"),
        ({"batch": 0}, "batch: .*greater than 0, not 0"),
        ({"seed": -1}, "seed: .*greater than or equal to 0, not -1"),
        ({"seed": 1.5}, "seed: .*integer.*, not 1.5"),
        ({"timeout_s": float("inf")}, "timeout_s: .*finite number, not inf"),
        ({"timeout_s": float("nan")}, "timeout_s: .*, not nan"),
        ({"split_calibration": 1.0}, "split_calibration: .*less than 1, not 1.0"),
        ({"task": "clasification"}, "task: .*'classification', 'regression' or 'embedding', not 'clasification'"),
        ({"settings": {"noise": 3}}, "settings.noise: .*dictionary, not 3"),
        ({"calibration": {"source": "c"}, "split_calibration": 0.1}, "run: give calibration or split_calibration"),
    ],
)
def test_mistakes_are_told_by_their_path(change, message):
    with pytest.raises(SpecError, match=rf"^here: {message}"):
        make_spec("here", **{**GIVEN, **change})


def test_all_mistakes_are_told_at_once():
    with pytest.raises(SpecError, match="model: missing; data: missing; profiles: missing"):
        make_spec()


def test_paths_in_a_file_are_relative_to_it(write, tmp_path):
    path = write("""
        model = "m.onnx"
        reference = "../fp32.onnx"
        data = "d.npz"
        calibration = { source = "/absolute/c.npz" }
        profiles = ["cpu-int8", "own.toml"]
        [settings]
        faults.faults = "list.csv"
        worst_case.faults = "worst.csv"
        memory_errors = { table = "volts.csv", temperature_table = "heat.csv", fit = { hours = [1.0] } }
    """)
    spec, folder = load_spec(path), tmp_path / "specs"
    assert spec.model == str(folder / "m.onnx")
    assert Path(spec.reference).resolve() == tmp_path / "fp32.onnx"
    assert spec.data.source == str(folder / "d.npz")
    assert spec.calibration.source == "/absolute/c.npz"
    assert spec.profiles == ["cpu-int8", str(folder / "own.toml")]
    assert spec.settings["faults"]["faults"] == str(folder / "list.csv")
    assert spec.settings["worst_case"]["faults"] == str(folder / "worst.csv")
    memory_errors = spec.settings["memory_errors"]
    assert memory_errors["table"] == str(folder / "volts.csv")
    assert memory_errors["temperature_table"] == str(folder / "heat.csv")
    assert memory_errors["fit"] == {"hours": [1.0]}


def test_every_setting_that_names_a_file_is_marked():
    """A validator, or the study, opens them; their descriptions say so."""
    for name in studies.names():
        for key, field in studies.get(name).settings_type.model_fields.items():
            is_marked = any(isinstance(mark, NamesFile) for mark in field.metadata)
            assert is_marked == ("CSV" in (field.description or "")), (name, key)


def test_a_plugins_settings_name_files_by_their_annotation():
    class Part(Settings):
        table: Annotated[str | None, NamesFile()] = None
        name: str = ""

    class PluginSettings(Settings):
        part: Part | None = None
        list: Annotated[str | tuple[int, ...], NamesFile()] = ()

    given = {"part": {"table": "a.csv", "name": "b"}, "list": "c.csv", "unknown": "d"}
    located = {"part": {"table": "/specs/a.csv", "name": "b"}, "list": "/specs/c.csv", "unknown": "d"}
    assert PluginSettings.beside(given, Path("/specs")) == located
    assert PluginSettings.beside({"list": [1, 2], "part": 3}, Path("/specs")) == {"list": [1, 2], "part": 3}
    assert PluginSettings.beside({"list": "/absolute.csv"}, Path("/specs")) == {"list": "/absolute.csv"}


def test_callables_are_no_paths(write, tmp_path):
    text = 'model = "m.onnx"\nprofiles = ["cpu-fp32"]\ndata = "%s"\n'
    assert load_spec(write(text % "package.module:make")).data.source == "package.module:make"
    (tmp_path / "specs" / "a:b.npz").touch()
    assert load_spec(write(text % "a:b.npz")).data.source == str(tmp_path / "specs" / "a:b.npz")


def test_arguments_replace_what_a_file_says(write):
    path = write('model = "m.onnx"\nprofiles = ["cpu-fp32"]\nseed = 1\ndata = { source = "d.npz", label = "t" }\n')
    spec = load_spec(path, seed=2, profiles=["cpu-int8"], data={"source": "other.npz"})
    assert (spec.seed, spec.profiles, spec.data.source, spec.data.label) == (2, ["cpu-int8"], "other.npz", None)
    assert spec.model.endswith("specs/m.onnx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("model = ", "not valid TOML"),
        ("model = 3\nprofiles = 3\ndata = 3", "model: .*; data: .*; profiles: "),
        ('model = "m"\nprofiles = [3]\ndata = "d"', r"profiles\.0: .*string, not 3"),
    ],
)
def test_bad_files_are_named(write, text, message):
    with pytest.raises(SpecError, match=rf"study\.toml: .*{message}|study\.toml: {message}"):
        load_spec(write(text))


def test_files_that_cannot_be_read_are_named(tmp_path):
    with pytest.raises(SpecError, match=r"none\.toml: cannot be read: No such file"):
        load_spec(tmp_path / "none.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(SpecError, match=r"binary\.toml: not valid TOML"):
        load_spec(tmp_path / "binary.toml")


@pytest.mark.parametrize(("written", "seconds"), [("15m", 900), ("1h30m", 5400), (90, 90), (None, None)])
def test_a_budget_is_a_duration(written, seconds):
    assert make_spec(model="m", data={"source": "d"}, profiles=["p"], budget=written).budget == seconds


@pytest.mark.parametrize("written", ["soon", "0", -1, "15 m 3", [3]])
def test_a_budget_that_is_none_is_refused_with_its_key(written):
    with pytest.raises(SpecError, match=r"budget: .*duration"):
        make_spec(model="m", data={"source": "d"}, profiles=["p"], budget=written)
