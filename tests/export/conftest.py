"""What the tests of the exporters share: a current directory in which a user's module can be put."""

from __future__ import annotations

import itertools
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

NUMBERS = itertools.count()


@pytest.fixture
def user_module(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """Writes a module into a fresh current directory and returns its name, which no other test uses."""
    made: list[str] = []
    monkeypatch.chdir(tmp_path)

    def write(source: str) -> str:
        name = f"user_module_{next(NUMBERS)}"
        made.append(name)
        Path(tmp_path, f"{name}.py").write_text(textwrap.dedent(source))
        return name

    yield write
    for name in made:
        sys.modules.pop(name, None)
