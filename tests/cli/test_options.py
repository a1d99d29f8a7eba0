from __future__ import annotations

import pytest

from hwbench.cli.options import listed


@pytest.mark.parametrize(
    ("text", "items"),
    [(None, None), ("", []), ("a", ["a"]), ("a,b", ["a", "b"]), (" a , b ,", ["a", "b"]), (",", [])],
)
def test_lists_are_written_with_commas(text, items):
    assert listed(text) == items
