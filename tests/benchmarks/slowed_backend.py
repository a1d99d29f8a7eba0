"""ONNX Runtime under other names: one as it is, others slower by a known share."""

from __future__ import annotations

from collections.abc import Callable
from importlib.metadata import EntryPoint
from time import perf_counter_ns
from typing import ClassVar

from hwbench_onnxruntime import OnnxRuntimeBackend
from hwbench_onnxruntime.session import OnnxRuntimeSession

from hwbench.backend import Feeds, backends


class SlowedSession(OnnxRuntimeSession):
    """Burns a share of every run's own time after it."""

    share: float = 0.0

    def bind(self, feeds: Feeds) -> Callable[[], None]:
        call, share = super().bind(feeds), self.share
        if not share:
            return call

        def slowed() -> None:
            start = perf_counter_ns()
            call()
            end = perf_counter_ns()
            until = end + share * (end - start)
            while perf_counter_ns() < until:
                pass

        return slowed


class TwinBackend(OnnxRuntimeBackend):
    """The same runtime: what is measured of it is another measurement of the same thing."""

    name: ClassVar[str] = "twin"
    share: ClassVar[float] = 0.0

    def _session_impl(self, options, mutable):
        session = SlowedSession(options, mutable)
        session.share = self.share
        return session


class SlowBackend(TwinBackend):
    """A tenth slower."""

    name: ClassVar[str] = "slow"
    share: ClassVar[float] = 0.10


class HalfBackend(TwinBackend):
    """Half as fast."""

    name: ClassVar[str] = "half"
    share: ClassVar[float] = 1.0


def register() -> None:
    """Make these backends known to this process, as installed plugins are."""
    for kind in (TwinBackend, SlowBackend, HalfBackend):
        reference = f"slowed_backend:{kind.__name__}"
        backends._points[kind.name] = EntryPoint(kind.name, reference, backends.group)
