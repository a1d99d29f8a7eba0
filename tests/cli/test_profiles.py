from __future__ import annotations

from hwbench.profile import profile_names


def test_every_shipped_profile_is_listed(hw):
    ended = hw("profiles")
    assert ended.code == 0
    assert all(name in ended.out for name in profile_names())
    assert "Small board" in ended.out or "small board" in ended.out


def test_the_list_as_json(hw):
    listed = hw("profiles", "--json").json
    assert [entry["name"] for entry in listed] == profile_names()
    assert {"name", "backend", "format", "summary"} <= set(listed[0])


def test_one_is_explained_with_every_setting_it_ends_up_with(hw):
    ended = hw("profiles", "edge-int8-128m")
    assert ended.code == 0
    lines = {line.split()[1]: line.split()[3] for line in ended.out.splitlines() if line.startswith("│")}
    assert lines["target.memory_mib"] == "128"
    assert lines["precision.weights"] == '"s8"'  # from the profile it extends
    assert lines["options.intra_op_threads"] == "1"
    assert lines["options.provider"] == '"cpu"'  # the backend's default


def test_one_as_json_and_by_path(hw, tmp_path):
    (tmp_path / "own.toml").write_text('extend = "cpu-int8"\n[precision]\nreduce_range = true\n')
    found = hw("profiles", tmp_path / "own.toml", "--json").json
    assert found["name"] == "own"
    assert found["precision"]["reduce_range"] is True
    assert found["precision"]["weights"] == "s8"


def test_the_schema_is_json_schema(hw):
    schema = hw("profiles", "--schema").json
    assert schema["$schema"].startswith("https://json-schema.org/")
    assert "extend" in schema["properties"]
    assert set(schema["properties"]["backend"]["enum"]) >= {"onnxruntime", "openvino", "tensorrt"}


def test_an_unknown_one_has_a_suggestion(hw):
    ended = hw("profiles", "cpu-fp31")
    assert ended.code == 2
    assert "Did you mean 'cpu-fp32'" in ended.err


def test_what_a_profile_says_is_shown_as_it_is(hw, tmp_path):
    (tmp_path / "[bold].toml").write_text(
        'extend = "cpu-fp32"\nsummary = "[/none] [link=http://example.org]x[/link]"\n'
    )
    ended = hw("profiles", tmp_path / "[bold].toml")
    assert ended.code == 0
    assert "[bold]: [/none] [link=http://example.org]x[/link]" in ended.out
