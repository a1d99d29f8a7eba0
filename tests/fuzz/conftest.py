from __future__ import annotations

from collections.abc import Iterator

import pytest
from fuzz_client import Fuzzer


@pytest.fixture(scope="module")
def fuzzer(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fuzzer]:
    with Fuzzer(tmp_path_factory.mktemp("fuzz") / "cases") as server:
        server.root.mkdir()
        yield server
        if server.ended.total() > 50:  # not one test of the module alone
            assert {0, 2} <= server.ended.keys(), "these cases reach either only what works or only the first check"
