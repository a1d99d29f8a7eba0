"""junit.xml: one test case per acceptance rule, so that CI systems show verdicts as they show tests."""

from __future__ import annotations

import socket
import xml.etree.ElementTree as ET  # only written, never parsed
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import polars as pl

from hwbench.report.format import plain, words
from hwbench.report.summary import limit_text, verdict_figure
from hwbench.report.view import BROKEN, View, settings
from hwbench.verdict import Verdict


def write_junit(run: Mapping[str, Any], table: pl.DataFrame, verdicts: Sequence[Verdict], path: Path) -> Path:
    """Write the verdicts as JUnit XML; arguments as in `hwbench.report.html.write_html`.

    A suite is a profile, a case one of its rules: fail becomes ``failure``, unavailable and inconclusive become
    ``skipped``. Jobs that ended in an error, and profiles that could not run and have no rules, get a case of their
    own.
    """
    view = View(run, table, verdicts)
    root = ET.Element("testsuites", name="hwbench")
    for profile in view.profiles:
        root.append(_suite(view, profile))
    for counted in ("tests", "failures", "errors"):
        root.set(counted, str(sum(int(suite.get(counted, 0)) for suite in root)))
    ET.indent(root)
    ET.ElementTree(root).write(path, encoding="utf-8", xml_declaration=True)
    return path


def _suite(view: View, profile: str) -> ET.Element:
    seconds = view.about(profile).get("seconds")
    time = f"{seconds:.3f}" if isinstance(seconds, int | float) else "0"
    suite = ET.Element("testsuite", name=plain(profile), time=time)
    for verdict in view.rules(profile):
        suite.append(_rule_case(profile, verdict))
    suite.extend(_error_cases(view, profile))
    if not len(suite) and view.outcome(profile) == "unavailable":
        case = _case(profile, "run")
        ET.SubElement(case, "skipped", message=plain(f"unavailable: {view.reason(profile)}"))
        suite.append(case)
    for attribute, tag in (("failures", "failure"), ("errors", "error"), ("skipped", "skipped")):
        suite.set(attribute, str(len(suite.findall(f"testcase/{tag}"))))
    suite.set("tests", str(len(suite)))
    suite.set("timestamp", str(view.run.get("created") or "1970-01-01T00:00:00")[:19])
    suite.set("hostname", socket.gethostname() or "localhost")
    return suite


def _case(profile: str, name: str) -> ET.Element:
    return ET.Element("testcase", classname=plain(profile), name=plain(name), time="0")


def _rule_case(profile: str, verdict: Verdict) -> ET.Element:
    case = _case(profile, verdict.rule)
    found = " ".join(verdict_figure(verdict)) or "no figure"
    sentence = f"{verdict.metric or verdict.rule} {found}, limit {limit_text(verdict)}"
    text = plain(f"{sentence}. {verdict.detail}" if verdict.detail else sentence)
    if verdict.outcome == "fail":
        ET.SubElement(case, "failure", message=text, type="AcceptanceRule").text = text
    elif verdict.outcome != "pass":
        ET.SubElement(case, "skipped", message=f"{verdict.outcome}: {text}")
    else:
        ET.SubElement(case, "system-out").text = text
    return case


def _error_cases(view: View, profile: str) -> list[ET.Element]:
    about = view.about(profile)
    found = {}
    if about.get("status") in BROKEN:
        found["run"] = (str(about["status"]), str(about.get("detail", "")))
    for row in view.broken(profile):
        where = words(settings(row.condition))
        found.setdefault(
            row.study, (row.status, f"{row.metric} {where}: {row.detail}" if where else f"{row.metric}: {row.detail}")
        )
    cases = []
    for name, (status, text) in found.items():
        case = _case(profile, name)
        ET.SubElement(case, "error", message=plain(text), type=status).text = plain(text)
        cases.append(case)
    return cases
