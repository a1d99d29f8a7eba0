"""Numbers beyond any machine are refused, in profiles, specifications and studies' settings, with key path and limit."""

import re

import numpy as np
import onnx
import pytest
from models import small_cnn
from pydantic import TypeAdapter

from hwbench.backend import backends
from hwbench.dataset import DataSpec
from hwbench.errors import InputError, ProfileError, SpecError
from hwbench.preparation import prepare
from hwbench.profile import Profile, load_profile
from hwbench.spec import RunSpec, make_spec
from hwbench.studies import studies

SETTINGS = {name: studies.get(name).settings_type for name in studies.names()}
SCHEMAS = {"profile": Profile, "spec": RunSpec, **{f"settings.{name}": kind for name, kind in SETTINGS.items()}}
HUGE = 10**30


def leaves(schema, node=None, path=""):
    """Key path and schema of everything that is no object, the alternatives of a key each by itself."""
    node = schema if node is None else node
    while "$ref" in node:
        node = schema["$defs"][node["$ref"].rpartition("/")[2]]
    if node.get("title") == DataSpec.__name__:
        return  # data have limits of their own
    for choice in node.get("anyOf", ()):
        yield from leaves(schema, choice, path)
    for key, value in node.get("properties", {}).items():
        yield from leaves(schema, value, f"{path}.{key}" if path else key)
    if node.get("type") == "array" and "prefixItems" not in node:
        yield path, node
        yield from leaves(schema, node["items"], f"{path}[]")
    for item in node.get("prefixItems", ()):
        yield from leaves(schema, item, f"{path}[]")
    if node.get("type") in ("integer", "number"):
        yield path, node


def limit(node):
    return node.get("maximum", node.get("exclusiveMaximum"))


FOUND = [(kind, *leaf) for kind, model in SCHEMAS.items() for leaf in leaves(model.model_json_schema())]
COUNTS = [(kind, path, limit(node)) for kind, path, node in FOUND if node["type"] == "integer"]


@pytest.mark.parametrize(("kind", "path", "node"), FOUND, ids=[f"{kind}.{path}" for kind, path, _ in FOUND])
def test_counts_and_lists_have_a_limit(kind, path, node):
    if node["type"] == "integer":
        assert limit(node) is not None
    if node["type"] == "array" and node["items"].get("type") in ("integer", "number"):
        assert node.get("maxItems") is not None
    if re.search(r"((?<!per)_s|seconds|minutes|quota|quotas\[\]|budget|hours\[\]|mbit\[\])$", path):
        assert limit(node) is not None


@pytest.fixture
def given(tmp_path):
    onnx.save(small_cnn(), tmp_path / "model.onnx")
    np.savez(tmp_path / "data.npz", x=np.zeros((4, 1, 8, 8), np.float32), y=np.zeros(4, np.int64))
    return {"model": str(tmp_path / "model.onnx"), "data": {"source": str(tmp_path / "data.npz")}}


def nested(path, value):
    for key in reversed(path.split(".")):
        value = {key.removesuffix("[]"): [value] if key.endswith("[]") else value}
    return value


SETTINGS_COUNTS = [case for case in COUNTS if case[0].startswith("settings.") and case[1] not in ("depth[]", "bits[]")]


@pytest.mark.parametrize(("kind", "path", "most"), SETTINGS_COUNTS)
def test_a_setting_beyond_any_machine_is_refused_with_its_path_and_limit(given, kind, path, most):
    study = kind.removeprefix("settings.")
    for beyond in (most + 1, HUGE):
        spec = make_spec(**given, profiles=["cpu-fp32"], settings={study: nested(path, beyond)})
        key = re.escape(f"{kind}.{path.replace('[]', '')}")
        with pytest.raises(InputError, match=rf"^{key}(\.0)?: .*{most}, not {beyond}$"), prepare(spec):
            pass


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("batch", 1 << 21), ("jobs", 8193), ("seed", 1 << 63), ("timeout_s", 1e300), ("timeout_s", 1e7), ("budget", 1e300),
        ("budget", "300000h"),
    ],
)  # fmt: skip
def test_a_specification_beyond_any_machine_is_refused(given, key, value):
    with pytest.raises(SpecError, match=rf"{key}: Input should be less than or equal to [\d.]+, not "):
        make_spec(**given, profiles=["cpu-fp32"], **{key: value})


@pytest.mark.parametrize(
    ("path", "value", "most"),
    [
        ("target.memory_mib", "67108865", "67108864"),
        ("target.memory_mib", str(1 << 62), "67108864"),
        ("target.cpu_quota", "8193.0", "8192"),
        ("target.cpu_quota", "1e-300", "0.01"),
        ("target.processors", "[8192]", "8192"),
        ("target.processors", f"[{'0, ' * 8193}]", "8192"),
        ("precision.block_size", "131072", "65536"),
        ("precision.calibration.samples", "1000000001", "1000000000"),
    ],
)
def test_a_profile_beyond_any_machine_is_refused(tmp_path, path, value, most):
    (tmp_path / "own.toml").write_text(f'backend = "onnxruntime"\n{path} = {value}\n')
    with pytest.raises(ProfileError, match=rf"{re.escape(path)}(\.0)?: .*{most}"):
        load_profile(str(tmp_path / "own.toml"))


@pytest.mark.parametrize("backend", ["onnxruntime", "openvino", "tensorrt"])
def test_counts_of_a_backend_have_limits(tmp_path, backend):
    schema = TypeAdapter(backends.get(backend).options_type).json_schema()
    counts = [path for path, node in leaves(schema) if node["type"] == "integer" and "enum" not in node]
    assert counts
    for path in counts:
        for beyond in (1 << 27, 1 << 62):
            (tmp_path / "own.toml").write_text(f'backend = "{backend}"\noptions.{path} = {beyond}\n')
            with pytest.raises(ProfileError, match=r"must be at most|must rise"):
                load_profile(str(tmp_path / "own.toml"))


# Names of profiles become names of folders


@pytest.mark.parametrize(
    "name",
    [
        "..toml",
        "...toml",
        ".toml",
        ".hidden.toml",
        "a\nb.toml",
        "a\x1b[2Jb.toml",
        "a\u202eb.toml",
        f"{'ä' * 101}.toml",
        "\udcff.toml",
    ],
)
def test_a_profile_whose_file_name_is_no_folder_name_is_refused(tmp_path, name):
    path = tmp_path / name
    path.write_text('extend = "cpu-fp32"\n')
    with pytest.raises(ProfileError, match="a profile is named by its file") as refused:
        load_profile(str(path))
    assert str(refused.value).isprintable()


@pytest.mark.parametrize("name", ["a", "a.b", "a..b", "-a", "ä" * 100, "two words"])
def test_other_names_are_taken(tmp_path, name):
    (tmp_path / f"{name}.toml").write_text('extend = "cpu-fp32"\n')
    assert load_profile(str(tmp_path / f"{name}.toml")).name == name


def test_a_profile_named_as_the_parent_folder_writes_nothing(given, tmp_path):
    (tmp_path / "...toml").write_text('extend = "cpu-fp32"\n')
    with pytest.raises(ProfileError), prepare(make_spec(**given, profiles=[str(tmp_path / "...toml")])):
        pass
    assert sorted(file.name for file in tmp_path.iterdir()) == ["...toml", "data.npz", "model.onnx"]
