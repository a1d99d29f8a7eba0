"""Two runs side by side, paired where they evaluated the same inputs, and gates that fail on a regression."""

from hwbench.comparison.directions import DIRECTIONS, Direction
from hwbench.comparison.figures import Figure
from hwbench.comparison.gates import Gate, GateOutcome, evaluate_gates, parse_gate
from hwbench.comparison.pairs import Results
from hwbench.comparison.tables import COMPARISON_SCHEMA, compare_runs, compare_tables

__all__ = [
    "COMPARISON_SCHEMA",
    "DIRECTIONS",
    "Direction",
    "Figure",
    "Gate",
    "GateOutcome",
    "Results",
    "compare_runs",
    "compare_tables",
    "evaluate_gates",
    "parse_gate",
]
