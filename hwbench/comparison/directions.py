"""The direction in which each metric gets better."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

Direction = Literal["higher", "lower"]

DIRECTIONS: dict[str, Direction] = {
    **dict.fromkeys(("top1", "top5", "r2", "cosine", "sqnr_db", "top1_agreement", "nodes_as_asked"), "higher"),
    **dict.fromkeys(
        ("own_sqnr_db", "slice_sqnr_db", "worst_slice_sqnr_db", "value_agreement", "portable", "drop_avoided"), "higher"
    ),
    **dict.fromkeys(("samples_per_s", "samples_per_s_ratio", "scaling_efficiency", "sustained_ratio"), "higher"),
    **dict.fromkeys(("tolerated_ber", "flips_needed"), "higher"),
    **dict.fromkeys(
        ("rmse", "mae", "accuracy_drop", "max_abs_error", "mean_abs_error", "sdc_rate", "due_rate"), "lower"
    ),
    **dict.fromkeys(("p50_ms", "p90_ms", "p99_ms", "load_ms", "first_run_ms"), "lower"),
    **dict.fromkeys(("p50_ratio", "p99_ratio"), "lower"),
    **dict.fromkeys(("peak_mib", "least_mib", "model_bytes", "sqnr_loss_db", "findings"), "lower"),
}

ACCURACY_STUDIES = frozenset({"accuracy", "bit_flips", "noise"})
"""Studies in which a metric of the user's own counts as an accuracy: higher is better."""

_UNDIRECTED = frozenset({"mcnemar_p", "discordant"})


def direction_of(known: Mapping[str, Direction], study: str, metric: str) -> Direction | None:
    """The direction in which a metric gets better; None where it is unknown."""
    return known.get(metric) or ("higher" if study in ACCURACY_STUDIES and metric not in _UNDIRECTED else None)
