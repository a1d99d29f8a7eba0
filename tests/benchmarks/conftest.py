"""Benchmarks are run with nothing beside them: every test of this folder has the mark ``alone``."""

from pathlib import Path

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents:
            item.add_marker("alone")
