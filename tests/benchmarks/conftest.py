"""Benchmarks that read a clock are run with nothing beside them: their tests have the mark ``alone``.

Those that weigh processes by their resident memory need not: neighbours do not change it. Nor do those that hold CPU seconds
against CPU seconds taken at the same time and leave room for what neighbours do to caches.
"""

from pathlib import Path

HERE = Path(__file__).parent
BESIDE_OTHERS = {
    "test_evaluation_memory.py",
    "test_fault_engine.py",
    "test_fault_memory.py",
    "test_fault_peers.py",
}


def pytest_collection_modifyitems(items):
    for item in items:
        if HERE in item.path.parents and item.path.name not in BESIDE_OTHERS:
            item.add_marker("alone")
