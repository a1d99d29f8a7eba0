from __future__ import annotations

import re

import pytest
from synthetic_run import HOSTILE_PROFILE, REASON

from hwbench.report.markdown import escape, write_markdown
from hwbench.table import to_frame


@pytest.fixture(scope="module")
def text(run, table, verdicts, tmp_path_factory):
    return write_markdown(run, table, verdicts, tmp_path_factory.mktemp("md") / "report.md").read_text()


def test_every_table_row_has_as_many_cells_as_its_heading(text):
    tables = re.findall(r"(?:^\|.*\|\n)+", text, flags=re.MULTILINE)
    assert len(tables) > 15
    for table in tables:
        counts = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(counts) == 1, table


def test_no_html_but_our_own(text):
    assert set(re.findall(r"<[^>]*>", text)) == {
        "<br>",
        "<details>",
        "<summary>",
        "</summary>",
        "</details>",
        "<b>",
        "</b>",
    }


def test_it_holds_the_answer_and_the_reasons(text):
    assert text.startswith("# &lt;/script&gt;")
    assert "**4 of 7 profiles meet every acceptance rule." in text
    assert "0.983<br>[0.973, 0.989]<br>n" in text
    assert REASON in text
    assert "## Noise on inputs and weights" in text
    assert "- Processor: Intel(R) Xeon(R) Processor" in text


@pytest.mark.parametrize(
    ("name", "escaped"),
    [
        ("a|b", r"a\|b"),
        ("<script>", "&lt;script&gt;"),
        ("a\n\n# heading", r"a \# heading"),
        ("[x](http://evil)", r"[x\](http&#58;//evil)"),
        ("![x](y)", r"\![x\](y)"),
        ("[x]: y", r"[x\]: y"),
        ("@team *all* `now`", r"&#64;team \*all\* \`now\`"),
        ("&amp;", "&amp;amp;"),
        ("back\\|slash", r"back\\\|slash"),
        ("[0.970, 0.988]", "[0.970, 0.988]"),
        ("www.evil", "www&#46;evil"),
    ],
)
def test_escaping(name, escaped):
    assert escape(name) == escaped


def test_control_characters_do_not_reach_the_file(text):
    assert "\x1b" not in text
    assert escape(HOSTILE_PROFILE) in text


def test_an_empty_run_is_written(tmp_path):
    assert "No profile was run." in write_markdown({}, to_frame([]), [], tmp_path / "report.md").read_text()
