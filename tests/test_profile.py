"""Profiles: what is read back, what is refused and how, extending, the schema, the shipped ones."""

import json
import tomllib
from pathlib import Path

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from hwbench.errors import ProfileError, UnknownNameError
from hwbench.profile import Accept, Precision, Profile, load_profile, profile_names, profile_schema

HOME = Path(__file__).parents[1] / "profiles"
SCHEMA = profile_schema()
VALIDATOR = jsonschema.Draft202012Validator(SCHEMA)


def toml(value):
    """A value as TOML writes it; tables are written inline."""
    if isinstance(value, dict):
        return "{" + ", ".join(f"{json.dumps(key)} = {toml(item)}" for key, item in value.items()) + "}"
    if isinstance(value, str | bool):
        return json.dumps(value, ensure_ascii=False)
    return repr(value)


def write(path, content):
    path.write_text("".join(f"{key} = {toml(value)}\n" for key, value in content.items()), encoding="utf-8")
    return str(path)


def leaves(section=Profile, path=()):
    """The key paths of all settings that are no tables."""
    for name, field in section.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from leaves(field.annotation, (*path, name))
        elif name not in ("name", "options"):
            yield (*path, name)


def nested(path, value):
    for key in reversed(path):
        value = {key: value}
    return {"backend": "onnxruntime"} | value


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("profiles")


# What a valid profile is

text = st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=20)
calibrations = st.fixed_dictionaries(
    {},
    optional={
        "method": st.sampled_from(["minmax", "entropy", "percentile"]),
        "samples": st.integers(1, 10**6),
        "percentile": st.floats(50, 100, exclude_min=True) | st.integers(51, 100),
    },
)
OPTIONS = {
    "onnxruntime": {"intra_op_threads": st.integers(0, 64), "provider": st.sampled_from(["cpu", "cuda"])},
    "openvino": {
        "device": st.sampled_from(["CPU", "GPU.1", "NPU"]),
        "inference_precision": st.sampled_from(["f32", "bf16", "f16"]),
    },
    "tensorrt": {"tf32": st.booleans(), "optimization_level": st.integers(0, 5)},
}


@st.composite
def precisions(draw, backend):
    form = draw(st.sampled_from(["fp32", "fp16", "bf16", "int8", "int4", "as-is"]))
    chosen = {"format": form, "calibration": draw(calibrations)}
    chosen |= draw(
        st.fixed_dictionaries(
            {},
            optional={
                "weights": st.sampled_from(["u8", "s8"]),
                "activations": st.sampled_from(["u8", "s8"]),
                "per_channel": st.booleans(),
                "reduce_range": st.booleans(),
                "quantize_bias": st.booleans(),
                "block_size": st.integers(4, 10).map(lambda power: 2**power),
            },
        )
    )
    if form == "int8":
        if backend == "tensorrt":
            return chosen | {"activations": "s8", "weights": "s8"}
        chosen |= draw(st.sampled_from([{}, {"dynamic": True}]))
    return chosen


@st.composite
def contents(draw):
    backend = draw(st.sampled_from(sorted(OPTIONS)))
    numbers = st.floats(allow_nan=False, allow_infinity=False) | st.integers(-(10**6), 10**6)
    return {
        "summary": draw(text),
        "backend": backend,
        "precision": draw(precisions(backend)),
        "options": draw(st.fixed_dictionaries({}, optional=OPTIONS[backend])),
        "target": draw(
            st.fixed_dictionaries({}, optional={"memory_mib": st.integers(1, 10**6), "cpu_quota": st.floats(0.01, 1e3)})
        ),
        "accept": draw(
            st.fixed_dictionaries(
                {}, optional={key: st.booleans() if key == "as_asked" else numbers for key in Accept.model_fields}
            )
        ),
    }


@settings(max_examples=60)
@given(content=contents())
def test_a_profile_written_and_read_again_is_the_same(folder, content):
    loaded = load_profile(write(folder / "written.toml", content))
    dumped = loaded.model_dump(mode="json", exclude={"name"}, exclude_none=True)
    again = load_profile(write(folder / "again.toml", dumped))
    assert again == loaded.model_copy(update={"name": "again"})
    assert again.full_options == loaded.full_options
    for written in (content, dumped):
        VALIDATOR.validate(written)


# What is refused, and in which words

KEYS = {key for path in leaves() for key in path} | {"name", "options", "extend"}


@settings(max_examples=60)
@given(
    section=st.sampled_from(["", "precision.", "precision.calibration.", "target.", "accept."]),
    key=st.from_regex(r"[a-z]{1,12}", fullmatch=True).filter(lambda key: key not in KEYS),
)
def test_an_unknown_key_is_named_by_its_path(folder, section, key):
    path = write(folder / "unknown.toml", nested((*section.split(".")[:-1], key), 1))
    with pytest.raises(ProfileError) as refused:
        load_profile(path)
    assert f"profile {path}: unknown key '{section}{key}'." in str(refused.value)
    assert "Known: " in str(refused.value)


@pytest.mark.parametrize("path", list(leaves()), ids=".".join)
def test_a_mistyped_key_is_answered_with_the_right_one(tmp_path, path):
    mistyped = (*path[:-1], f"{path[-1]}x")
    with pytest.raises(ProfileError, match=f"unknown key '{'.'.join(mistyped)}'. Did you mean '{'.'.join(path)}'"):
        load_profile(write(tmp_path / "own.toml", nested(mistyped, 1)))


@pytest.mark.parametrize("path", list(leaves()), ids=".".join)
@pytest.mark.parametrize("value", ["[1]", "1979-05-27", "{a = 1}", "nan", '"?"'])
def test_a_value_of_the_wrong_kind_is_named_by_its_path(tmp_path, path, value):
    if path == ("summary",) and value == '"?"':
        return  # free text
    if path == ("target", "processors") and value == "[1]":
        return  # the right kind there
    content = toml({**nested(path, "VALUE")})[1:-1].replace('"VALUE"', value).replace(", ", "\n", 1)
    (tmp_path / "own.toml").write_text(content)
    with pytest.raises(ProfileError, match=rf"own\.toml: {'.'.join(path)}: "):
        load_profile(str(tmp_path / "own.toml"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('backend = "onnxruntime"\nprecision.format = "int9"', "precision.format: .*'int8'.*, not \"int9\""),
        ('backend = "onnxruntim"', "backend: unknown backend 'onnxruntim'. Did you mean 'onnxruntime'"),
        ('summary = "nothing else"', "backend: missing"),
        ('backend = "onnxruntime"\nname = "other"', "name: a profile is named by its file"),
        ('backend = "onnxruntime"\noptions.providr = "cpu"', "'options.providr'. Did you mean 'options.provider'"),
        ('backend = "onnxruntime"\noptions.provider = "gpu"', "options.provider: .*'cuda'.*, not \"gpu\""),
        ('backend = "openvino"\noptions.provider = "cpu"', "unknown key 'options.provider'. .*options.device"),
        ('backend = "onnxruntime"\ntarget.memory_mib = 0', "target.memory_mib: .*greater than 0, not 0"),
        ('backend = "onnxruntime"\nprecision.calibration.percentile = 50', "precision.calibration.percentile: "),
        ('backend = "onnxruntime"\nprecision.block_size = 48', "precision: block_size must be a power of two"),
        ('backend = "onnxruntime"\nprecision.dynamic = true', "precision: dynamic = true goes with format = 'int8'"),
        ('backend = "onnxruntime"\nprecision.quantizer = "nncf"', "precision: quantizer = 'nncf' goes with"),
        (
            'backend = "onnxruntime"\nprecision = {format = "int8", dynamic = true, quantizer = "nncf"}',
            "precision: dynamic = true is a mode of quantizer = 'onnxruntime'",
        ),
        (
            'backend = "tensorrt"\nprecision = {format = "int8", activations = "u8"}',
            "precision.activations = 'u8': TensorRT's int8 is symmetric; set activations = 's8'",
        ),
        (
            'backend = "tensorrt"\nprecision = {format = "int8", activations = "s8", weights = "u8"}',
            "set activations = 's8' and weights = 's8'",
        ),
        (
            'backend = "tensorrt"\nprecision = {format = "int8", activations = "s8", dynamic = true}',
            "precision.dynamic: TensorRT takes static QDQ only",
        ),
        ('backend = "onnxruntime"\nsummary = "\\u001b[2J"', "summary: "),
        ('backend = "openvino"\noptions.device = "HETERO:GPU,CPU"', r"options\.device: must be one device's name"),
        ('backend = "onnxruntime"\ntarget = {kind = "emulated", arch = "x86_64", cpu = "-version"}', r"target\.cpu: "),
        ("backend = ", "not valid TOML"),
        ("extend = 3", "extend: takes one profile's name or path, not 3"),
    ],
)
def test_contradictions_and_mistakes(tmp_path, content, message):
    (tmp_path / "own.toml").write_text(content)
    with pytest.raises(ProfileError, match=message) as refused:
        load_profile(str(tmp_path / "own.toml"))
    assert "profile " in str(refused.value)
    assert "own" in str(refused.value)


def test_every_problem_of_a_profile_is_told_at_once(tmp_path):
    content = {"backend": "onnxruntime", "precision": {"formt": "int8"}, "accept": {"max_p99_ms": "fast"}}
    with pytest.raises(ProfileError, match=r"'precision\.formt'.*accept\.max_p99_ms"):
        load_profile(write(tmp_path / "own.toml", content))


def test_files_that_cannot_be_read(tmp_path):
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ProfileError, match="not a text file"):
        load_profile(str(tmp_path / "binary.toml"))
    with pytest.raises(ProfileError, match=r"none\.toml: cannot be read: No such file"):
        load_profile(str(tmp_path / "none.toml"))
    with pytest.raises(UnknownNameError, match=r"unknown profile 'cpu-int9'\. Did you mean 'cpu-int8'"):
        load_profile("cpu-int9")


# Extending


def test_a_profile_changes_a_shipped_one_and_keeps_the_rest(tmp_path):
    change = {"extend": "cpu-int8", "precision": {"calibration": {"samples": 8}}, "accept": {"max_p99_ms": 5}}
    mine, theirs = load_profile(write(tmp_path / "mine.toml", change)), load_profile("cpu-int8")
    assert (mine.name, mine.precision.calibration.samples, mine.accept.max_p99_ms) == ("mine", 8, 5.0)
    assert mine.precision.calibration.method == theirs.precision.calibration.method
    assert mine.accept.max_accuracy_drop == theirs.accept.max_accuracy_drop
    assert mine.precision.per_channel is theirs.precision.per_channel


def test_a_profile_extends_a_neighbour_through_several_steps(tmp_path, monkeypatch):
    monkeypatch.chdir("/")  # what it names lies beside it, wherever it is read from
    write(tmp_path / "base.toml", {"extend": "edge-int8-128m", "summary": "base", "target": {"memory_mib": 64}})
    write(tmp_path / "middle.toml", {"extend": "base.toml", "precision": {"reduce_range": True}})
    top = load_profile(write(tmp_path / "top.toml", {"extend": "middle.toml", "summary": "top"}))
    assert (top.summary, top.target.memory_mib, top.precision.reduce_range) == ("top", 64, True)
    assert top.options == {"intra_op_threads": 1}


def test_another_backend_does_not_inherit_options(tmp_path):
    change = {"extend": "edge-int8-128m", "backend": "openvino"}
    assert load_profile(write(tmp_path / "bare.toml", change)).options == {}
    set_anew = load_profile(write(tmp_path / "own.toml", change | {"options": {"device": "CPU"}}))
    assert set_anew.options == {"device": "CPU"}


@pytest.mark.parametrize("names", [["a"], ["a", "b"], ["a", "b", "c"]])
def test_a_circle_is_refused(tmp_path, names):
    for name, parent in zip(names, [*names[1:], names[0]], strict=True):
        write(tmp_path / f"{name}.toml", {"extend": f"../{tmp_path.name}/{parent}.toml"})
    with pytest.raises(ProfileError, match="extend: it extends itself") as refused:
        load_profile(str(tmp_path / "a.toml"))
    assert all(f"{name}.toml" in str(refused.value) for name in names)


def test_what_is_extended_must_exist(tmp_path):
    with pytest.raises(UnknownNameError, match="Did you mean 'cpu-int8'"):
        load_profile(write(tmp_path / "own.toml", {"extend": "cpu-int9"}))


# The schema and the shipped profiles


def test_the_schema_is_one_and_knows_every_backend():
    VALIDATOR.check_schema(SCHEMA)
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["properties"]["backend"]["enum"] == sorted(OPTIONS)
    with pytest.raises(jsonschema.ValidationError):
        VALIDATOR.validate({"backend": "onnxruntime", "precision": {"formt": "int8"}})


@pytest.mark.parametrize("name", profile_names())
def test_shipped_profiles(name):
    content = tomllib.loads((HOME / f"{name}.toml").read_text())
    VALIDATOR.validate(content)
    profile = load_profile(name)
    assert profile.name == name
    assert profile.summary == content["summary"]
    assert profile.full_options.items() >= profile.options.items()
    assert profile.accept.max_accuracy_drop is not None


def test_the_promised_profiles_are_shipped():
    assert set(profile_names()) >= {
        *("cpu-fp32", "cpu-int8", "cpu-int8-safe", "cpu-int8-dynamic", "cpu-int4"),
        *("openvino-fp32", "openvino-bf16", "openvino-int8"),
        *("gpu-cuda-fp32", "gpu-cuda-fp16", "gpu-tensorrt-fp16", "gpu-tensorrt-int8", "edge-int8-128m"),
        *("cpu-int8-avx2", "cpu-int8-sse4", "cpu-int8-s8s8-avx2", "cpu-int8-safe-avx2", "openvino-int8-avx2"),
        *("edge-cortex-a53-int8", "edge-cortex-a76-int8", "edge-neoverse-fp32"),
    }
    assert load_profile("cpu-int8-s8s8-avx2").target.machine == {"kind": "emulated", "arch": "x86_64", "cpu": "Haswell"}
    assert load_profile("cpu-int8-s8s8-avx2").precision.activations == "s8"
    assert load_profile("edge-int8-128m").target.memory_mib == 128
    assert load_profile("cpu-int8-safe").precision.reduce_range


def test_only_static_int8_needs_calibration():
    needing = [
        precision
        for precision in (
            *(Precision(format=form) for form in ("fp32", "fp16", "bf16", "int8", "int4", "as-is")),
            Precision(format="int8", dynamic=True),
        )
        if precision.needs_calibration
    ]
    assert needing == [Precision(format="int8")]
