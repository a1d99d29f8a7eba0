"""Switches off what the runtimes report about their use; must be called before one of them is imported."""

from __future__ import annotations

import os

NO_TELEMETRY = {
    "ORT_DISABLE_TELEMETRY": "1",
    "OPENVINO_TELEMETRY_OPTOUT": "1",
    "NNCF_TELEMETRY_OPTOUT": "1",
    "DO_NOT_TRACK": "1",
}


def silence_telemetry() -> None:
    """Switch the runtimes' own reporting off in this process and its children."""
    os.environ.update(NO_TELEMETRY)
