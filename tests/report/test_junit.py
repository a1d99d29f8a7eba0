from __future__ import annotations

import re
import xml.etree.ElementTree as ET

import pytest
from synthetic_run import BUILDS, HOSTILE_PROFILE, UNAVAILABLE

from hwbench.report.format import plain
from hwbench.report.junit import write_junit
from hwbench.table import Row, to_frame

# What Jenkins' junit-10.xsd allows, the schema that CI systems share.
ALLOWED = {
    "testsuites": {"name", "time", "tests", "failures", "errors"},
    "testsuite": {"name", "tests", "failures", "errors", "time", "skipped", "timestamp", "hostname", "id", "package"},
    "testcase": {"name", "classname", "time", "assertions", "status"},
    "failure": {"type", "message"},
    "error": {"type", "message"},
    "skipped": {"type", "message"},
    "system-out": set(),
}
CHILDREN = {
    "testsuites": {"testsuite"},
    "testsuite": {"testcase"},
    "testcase": {"failure", "error", "skipped", "system-out"},
}


def read(path):
    return ET.parse(path).getroot()  # noqa: S314  # our own file


@pytest.fixture(scope="module")
def root(run, table, verdicts, tmp_path_factory):
    return read(write_junit(run, table, verdicts, tmp_path_factory.mktemp("junit") / "junit.xml"))


def case(root, profile, name):
    (found,) = root.findall(f"testsuite[@name='{profile}']/testcase[@name='{name}']")
    return found


def test_it_keeps_to_the_schema(root):
    for element in root.iter():
        assert set(element.attrib) <= ALLOWED[element.tag]
        assert {child.tag for child in element} <= CHILDREN.get(element.tag, set())
    for suite in root:
        assert int(suite.get("tests")) == len(suite)
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d", suite.get("timestamp"))
        assert all(found.get("classname") and found.get("name") for found in suite)


def test_counts_add_up(root, verdicts):
    assert [root.get(key) for key in ("failures", "errors")] == ["1", "1"]
    assert int(root.get("tests")) == len(verdicts) + 1  # the job that ran out of time has a case of its own
    assert sum(int(suite.get("skipped")) for suite in root) == 3


def test_outcomes_become_what_ci_systems_show(root):
    assert "0.0450 [0.0408, 0.0501], limit ≤ 0.01" in case(root, "cpu-int4", "max_accuracy_drop").find("failure").get(
        "message"
    )
    assert case(root, "openvino-int8", "max_accuracy_drop").find("skipped").get("message").startswith("inconclusive: ")
    assert case(root, UNAVAILABLE, "max_p99_ms").find("skipped").get("message").startswith("unavailable: ")
    assert {child.tag for child in case(root, "cpu-fp32", "max_p99_ms")} == {"system-out"}
    error = case(root, "cpu-int4", "noise").find("error")
    assert (error.get("type"), "600 s" in error.text) == ("timeout", True)


def test_hostile_names_survive_as_text(root):
    assert [suite.get("name") for suite in root] == [*map(plain, BUILDS), UNAVAILABLE]
    assert plain(HOSTILE_PROFILE) in {suite.get("name") for suite in root} - {HOSTILE_PROFILE}


def test_a_profile_without_rules_that_cannot_run_is_skipped(tmp_path):
    run = {"profiles": {"gpu": {"status": "unavailable", "detail": "no driver"}}}
    root = read(write_junit(run, to_frame([]), [], tmp_path / "junit.xml"))
    assert case(root, "gpu", "run").find("skipped").get("message") == "unavailable: no driver"


def test_a_broken_profile_is_an_error(tmp_path):
    run = {"profiles": {"p": {"status": "crash", "detail": "SIGSEGV"}}}
    rows = [Row("accuracy", "top1", status="crash", detail="SIGSEGV", profile="p")]
    root = read(write_junit(run, to_frame(rows), [], tmp_path / "junit.xml"))
    assert [found.get("name") for found in root.iter("testcase")] == ["run", "accuracy"]
    assert root.get("errors") == "2"
