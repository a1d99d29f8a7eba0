"""Names from models and profiles in Markdown and JUnit, whatever they hold."""

from __future__ import annotations

import re
import xml.etree.ElementTree as ET

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rich.console import Console
from rich.text import Text

from hwbench.report.format import plain
from hwbench.report.junit import write_junit
from hwbench.report.markdown import escape
from hwbench.report.terminal import verdict_table
from hwbench.table import to_frame
from hwbench.verdict import Verdict

PARTS = (
    "<b>", "&lt;", "|", "`", "*", "[x](y)", "![", "]: z", "@all", "://", "www.", "\n", "\r", "\0", "\x1b[2J", "]]>", "<!--",
    "$x$", "~~", "\\", "\u202e", "\ud800", "\ufffe", "[bold]", "[/bold]", "[red", "'", '"', "=1", "é", "😀", " ", "a",
)  # fmt: skip
TEXTS = st.one_of(st.text(), st.lists(st.sampled_from(PARTS), max_size=8).map("".join))
PROFILES = TEXTS.filter(lambda name: name not in ("", "reference"))


@given(TEXTS)
def test_markdown_holds_no_html_no_cell_and_no_line_of_a_name(name):
    text = escape(name)
    assert not set(text) & set("<>@\n\r\0\x1b")
    assert not re.search(r"(?<!\\)(\\\\)*[|`*#~$]", re.sub(r"&#\d+;", "", text))
    assert not re.search(r"&(?!amp;|lt;|gt;|#\d+;)", text)
    assert "://" not in text
    text.encode()


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(PROFILES, TEXTS)
def test_junit_gives_names_and_reasons_back(tmp_path, name, reason):
    verdict = Verdict(name, "max_p99_ms", "fail", 1.0, "latency", "p99_ms", "{}", 2.0, detail=reason)
    run = {"profiles": {name: {"status": "ok"}}}
    root = ET.parse(write_junit(run, to_frame([]), [verdict], tmp_path / "j.xml")).getroot()  # noqa: S314  our own file
    (case,) = root.findall("testsuite/testcase")
    assert case.get("classname") == plain(name)
    assert plain(reason).split() == [] or plain(reason).split()[-1] in (case.find("failure").text or "")


@given(PROFILES)
def test_the_terminal_shows_no_markup_and_no_control_of_a_name(name):
    verdict = Verdict(name, "max_p99_ms", "fail", 1.0, "latency", "p99_ms", "{}", 2.0)
    table = verdict_table({"profiles": {name: {"status": "ok"}}}, to_frame([]), [verdict])
    out = Console(width=120, file=None, record=False)
    with out.capture() as captured:
        out.print(table)
    assert not set(captured.get()) & set("\0\x1b\r\u202e\ud800")
    assert isinstance(next(iter(table.columns[0].cells)), Text)
