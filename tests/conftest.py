"""What all tests share: hypothesis without a deadline, a build cache of their own, runtimes that do not report their use."""

import pytest
from hypothesis import settings

from hwbench.telemetry import silence_telemetry

settings.register_profile("hwbench", deadline=None)
settings.load_profile("hwbench")
silence_telemetry()


@pytest.fixture(scope="session", autouse=True)
def own_cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HWBENCH_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield
