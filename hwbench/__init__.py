"""hwbench: will this model still do its job on that hardware?

The public names are loaded when first used, so that importing the package loads no runtime and little else.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from hwbench.api import Run, compare, run
    from hwbench.errors import HwbenchError
    from hwbench.export import export_model
    from hwbench.profile import Profile, load_profile

__version__ = "0.1.0"

_HOMES = {
    "HwbenchError": "hwbench.errors",
    "Profile": "hwbench.profile",
    "Run": "hwbench.api",
    "compare": "hwbench.api",
    "export_model": "hwbench.export",
    "load_profile": "hwbench.profile",
    "run": "hwbench.api",
}

__all__ = ["HwbenchError", "Profile", "Run", "__version__", "compare", "export_model", "load_profile", "run"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'hwbench' has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)


def __dir__() -> list[str]:
    return list(__all__)
