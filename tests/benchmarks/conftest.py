"""Benchmarks are run with nothing beside them: the tests of this folder have the mark ``alone``.

Those that weigh processes by their resident memory need not: neighbours do not change it.
"""

from pathlib import Path

HERE = Path(__file__).parent
BESIDE_OTHERS = {"test_evaluation_memory.py", "test_fault_memory.py"}


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents and item.path.name not in BESIDE_OTHERS:
            item.add_marker("alone")
