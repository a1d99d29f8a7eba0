"""Switches off what the runtimes report about their use; must be called before one of them is imported."""

from __future__ import annotations

import os
import sys

NO_TELEMETRY = {"ORT_DISABLE_TELEMETRY": "1", "DO_NOT_TRACK": "1"}

# OpenVINO and NNCF report through this package when they are imported, and no variable stops them. Both do without it
# where it cannot be imported.
REPORTER = "openvino_telemetry"


def silence_telemetry() -> None:
    """Switch the runtimes' own reporting off: in this process, and as far as variables do it in its children."""
    os.environ.update(NO_TELEMETRY)
    sys.modules[REPORTER] = None  # type: ignore[assignment]  # how the import system is told that there is none
