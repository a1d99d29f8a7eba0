"""What the tests of the command line share."""

import pytest
from shared_run import SharedRun, make_shared_run


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> SharedRun:
    return make_shared_run(tmp_path_factory.getbasetemp())
