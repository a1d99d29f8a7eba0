"""What a profile may ask of a runtime: the mechanism, every backend's allowlist, and hostile profiles from end to end."""

import re
from dataclasses import dataclass, field, fields
from importlib import import_module
from pathlib import Path

import jsonschema
import onnxruntime
import pytest
from hwbench_onnxruntime import OnnxRuntimeBackend
from hwbench_onnxruntime.options import PROVIDER_OPTIONS, SESSION_CONFIG
from hwbench_openvino import OpenVinoBackend
from hwbench_openvino.options import PROPERTIES
from hwbench_openvino.session import core
from hwbench_tensorrt.options import TensorRtOptions
from hypothesis import given
from hypothesis import strategies as st

from hwbench.allowlist import beyond_allowlist
from hwbench.errors import ProfileError
from hwbench.profile import load_profile, profile_schema
from tests import models

MODEL = models.mlp().SerializeToString()
FILES = re.compile(
    r"(?<!pro)file|profiling|path|folder|dir$|_dir|dump|lib|table|compute_stream|alloc$|free$|cache_(enable|prefix)|config",
    re.I,
)


@dataclass(frozen=True)
class Options:
    entries: dict[str, str] = field(
        default_factory=dict,
        metadata={
            "allowed": {
                "switch": ("0", "1"),
                "count": range(1, 9),
                "share": (0.0, 1.0),
                "names": re.compile(r"\w+(;\w+)*", re.ASCII),
                "threads": "intra_op_threads",
            }
        },
    )
    undeclared: dict[str, str] = field(default_factory=dict)
    place: str = field(default="", metadata={"trusted_only": "it names a folder"})
    plain: int = 0


def values(choice):
    """Some of the values that an entry may have, the extreme ones among them."""
    if isinstance(choice, range):
        return (str(choice[0]), str(choice[-1]))
    if isinstance(choice, re.Pattern):
        return tuple(text for text in ("MatMulAddFusion", "CPU") if choice.fullmatch(text))
    return () if isinstance(choice, str) else tuple(map(str, choice))


# The mechanism


def test_what_is_declared_passes():
    for key, value in [("switch", "1"), ("count", "8"), ("share", "0.5"), ("share", "1"), ("names", "a;b")]:
        assert beyond_allowlist(Options, {"entries": {key: value}, "plain": 3}) == {}
    assert beyond_allowlist(Options, {"entries": {"count": 8, "share": 0.5}, "place": "", "undeclared": {}}) == {}


@pytest.mark.parametrize(
    ("options", "path", "reason"),
    [
        (
            {"entries": {"swich": "1"}},
            "options.entries.swich",
            "not on the backend's allowlist; did you mean 'switch'?",
        ),
        ({"entries": {"swich": "1"}}, "options.entries.swich", "Allowed: count, names, share, switch, threads"),
        ({"entries": {"switch": "2"}}, "options.entries.switch", "takes '0' or '1', not '2'"),
        ({"entries": {"count": "9"}}, "options.entries.count", "a whole number from 1 to 8, as a string, not '9'"),
        ({"entries": {"share": "1.5"}}, "options.entries.share", "a number from 0.0 to 1.0, as a string, not '1.5'"),
        ({"entries": {"names": "a;/b"}}, "options.entries.names", "not 'a;/b'"),
        ({"entries": {"threads": "1"}}, "options.entries.threads", "set options.intra_op_threads instead"),
        ({"entries": {"count": [1]}}, "options.entries.count", "not '[1]'"),
        ({"undeclared": {"any": "1"}}, "options.undeclared.any", "not on the backend's allowlist. Allowed: none"),
        ({"place": "/tmp"}, "options.place", "it names a folder"),
    ],
)
def test_the_rest_is_refused_by_name(options, path, reason):
    refused = beyond_allowlist(Options, options)
    assert list(refused) == [path]
    assert reason in refused[path]


def test_a_message_holds_nothing_that_a_terminal_obeys():
    [(path, _)] = beyond_allowlist(Options, {"entries": {"k\x1b[2J": "1"}}).items()
    [reason] = beyond_allowlist(Options, {"entries": {"count": "\x1b[2J"}}).values()
    assert path.isprintable()
    assert reason.isprintable()


def test_a_long_key_and_a_long_value_are_cut():
    [(path, _)] = beyond_allowlist(Options, {"entries": {"k" * 10_000: "1"}}).items()
    [reason] = beyond_allowlist(Options, {"entries": {"count": "9" * 10_000}}).values()
    assert len(path) < 200
    assert len(reason) < 200


@given(text=st.text(max_size=8) | st.from_regex(r"[-+]?[0-9_.eE]{1,25}"))
def test_numbers_are_plain_decimal_ones_in_their_range(text):
    """Whatever passes is a number of the range for any parser: no sign, exponent, blank, underscore or foreign digit."""
    if not beyond_allowlist(Options, {"entries": {"count": text}}):
        assert re.fullmatch(r"0*[1-8]", text, re.ASCII)
    if not beyond_allowlist(Options, {"entries": {"share": text}}):
        assert re.fullmatch(r"0*(0(\.[0-9]+)?|1(\.0+)?)", text, re.ASCII)


# The backends' lists


def test_every_allowed_session_entry_is_one_that_the_runtime_knows_and_names_no_file():
    library = b"".join(
        path.read_bytes() for path in Path(onnxruntime.__file__).parent.glob("capi/onnxruntime_pybind11_state*.so")
    )
    known = {found.decode() for found in re.findall(rb"(?:session|optimization|mlas|ep)\.[\w.]+(?=\0)", library)}
    assert set(SESSION_CONFIG) <= known
    writes_or_reads = {key for key in known if FILES.search(key)}
    assert writes_or_reads >= {"session.collect_node_memory_stats_to_file", "session.node_partition_config_file"}
    assert not writes_or_reads & set(SESSION_CONFIG)


def test_no_allowed_entry_names_a_file_a_library_or_an_address():
    for key in (*SESSION_CONFIG, *PROVIDER_OPTIONS, *PROPERTIES):
        assert not FILES.search(key), key


def test_shapes_of_tensorrt_are_inputs_with_sizes():
    shapes = PROVIDER_OPTIONS["trt_profile_min_shapes"]
    assert shapes.fullmatch("image:1x3x224x224,layer/mask.0:1")
    assert not any(
        shapes.fullmatch(text) for text in ("image", "image:", "image:1x", "image:-1", "a:1,", "/etc/x:1;b:2")
    )


@pytest.mark.parametrize("key", SESSION_CONFIG)
def test_allowed_session_entries_run_and_write_nothing(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in values(SESSION_CONFIG[key]):
        OnnxRuntimeBackend().compile(MODEL, {"config": {key: value}}).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("key", sorted(PROPERTIES.keys() & set(core().get_property("CPU", "SUPPORTED_PROPERTIES"))))
def test_allowed_properties_run_and_write_nothing(key, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for value in values(PROPERTIES[key]):
        OpenVinoBackend().compile(MODEL, {"config": {key: value}}).close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "options_type", [OnnxRuntimeBackend.options_type, OpenVinoBackend.options_type, TensorRtOptions]
)
def test_entries_that_name_an_option_name_one_that_exists(options_type):
    names = {declared.name for declared in fields(options_type)}
    for declared in fields(options_type):
        pointers = [choice for choice in declared.metadata.get("allowed", {}).values() if isinstance(choice, str)]
        assert names >= set(pointers)


def test_a_backend_of_a_distribution_of_its_own_declares_the_same(monkeypatch):
    monkeypatch.syspath_prepend(Path(__file__).parent / "plugin_distribution")
    options_type = import_module("hwbench_onnx_reference.options").OnnxReferenceOptions
    assert beyond_allowlist(options_type, {"check_shapes": True, "evaluator": {"verbose": "1"}}) == {}
    assert list(beyond_allowlist(options_type, {"evaluator": {"new_ops": "x"}})) == ["options.evaluator.new_ops"]


# Hostile profiles

HOSTILE = {
    "memory statistics": ("onnxruntime", 'config = {"session.collect_node_memory_stats_to_file" = "PLACE"}'),
    "partitions": ("onnxruntime", 'config = {"session.node_partition_config_file" = "PLACE"}'),
    "saved model": ("onnxruntime", 'config = {"session.optimized_model_filepath" = "PLACE"}'),
    "context": ("onnxruntime", 'config = {"ep.context_enable" = "1", "ep.context_file_path" = "PLACE"}'),
    "plugins": ("onnxruntime", 'provider = "tensorrt"\nprovider_options = {trt_extra_plugin_lib_paths = "PLACE"}'),
    "decryption": (
        "onnxruntime",
        'provider = "tensorrt"\nprovider_options = {trt_engine_decryption_lib_path = "PLACE"}',
    ),
    "address": ("onnxruntime", 'provider = "cuda"\nprovider_options = {gpu_external_alloc = "1234"}'),
    "configuration": ("onnxruntime", 'provider = "openvino"\nprovider_options = {load_config = "PLACE"}'),
    "cache": ("openvino", 'cache_dir = "PLACE"'),
    "cache entry": ("openvino", 'config = {CACHE_DIR = "PLACE"}'),
    "weights": ("openvino", 'config = {WEIGHTS_PATH = "PLACE"}'),
    "kernels": ("openvino", 'config = {CONFIG_FILE = "PLACE"}'),
    "engines": ("tensorrt", 'cache = "PLACE"'),
}


def written(folder, backend, options, place):
    path = folder / "hostile.toml"
    path.write_text(f'backend = "{backend}"\n[options]\n{options.replace("PLACE", str(place))}\n')
    return path


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_hostile_profile_is_refused_by_the_name_of_its_option(kind, tmp_path):
    backend, options = HOSTILE[kind]
    path = written(tmp_path, backend, options, tmp_path / "place")
    key = re.findall(r'[\w".]+(?= =)', options)[-1].strip('"')
    with pytest.raises(ProfileError, match=re.escape(key)) as refused:
        load_profile(str(path))
    assert "--trust-profile" in str(refused.value)
    assert load_profile(str(path), trusted=True).beyond_allowlist


def test_the_schema_for_editors_holds_the_lists():
    validator = jsonschema.Draft202012Validator(profile_schema())
    for key, valid in [("session.set_denormal_as_zero", True), ("session.collect_node_memory_stats_to_file", False)]:
        assert validator.is_valid({"backend": "onnxruntime", "options": {"config": {key: "1"}}}) == valid


def test_trust_does_not_lift_what_is_wrong(tmp_path):
    path = written(tmp_path, "openvino", "cache_dir = 3", "")
    with pytest.raises(ProfileError, match=r"options\.cache_dir: "):
        load_profile(str(path), trusted=True)
