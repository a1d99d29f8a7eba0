"""ONNX Runtime with defects that a campaign must survive or find out: a backend for every one of them."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Sequence
from typing import Any, ClassVar

import numpy as np
import onnx
from hwbench_onnxruntime import OnnxRuntimeBackend
from hwbench_onnxruntime.session import OnnxRuntimeSession

from hwbench.backend import Array, Feeds, ModelSource, Session
from hwbench.errors import UnsupportedError

DEADLY = np.float32(1e30)


class CrashingSession(OnnxRuntimeSession):
    """Dies of a segmentation fault when it is given a certain number as a weight."""

    def update(self, name: str, value: Array) -> None:
        if (value == DEADLY).any():
            os.kill(os.getpid(), signal.SIGSEGV)
        super().update(name, value)


class ForgetfulSession(OnnxRuntimeSession):
    """Takes no new numbers for a whole build, only for parts of it."""

    def update(self, name: str, value: Array) -> None:
        if not str(self._source).endswith("model.onnx"):
            super().update(name, value)


class StainedSession(OnnxRuntimeSession):
    """Gives other numbers once a session has been given a new one, in a part of the graph that was not."""

    stained: ClassVar[bool] = False

    def update(self, name: str, value: Array) -> None:
        StainedSession.stained = True
        super().update(name, value)

    def _run_impl(self, feeds: Feeds) -> dict[str, Array]:
        made = super()._run_impl(feeds)
        if self.stained and not self.mutable:
            made = {name: np.nextafter(value, np.float32(np.inf)) for name, value in made.items()}
        return made


class KeepingSession(OnnxRuntimeSession):
    """Keeps the first new content of every initializer: what is put back is not taken."""

    def update(self, name: str, value: Array) -> None:
        taken: set[str] = self.__dict__.setdefault("taken", set())
        if name not in taken:
            taken.add(name)
            super().update(name, value)


class CrashingBackend(OnnxRuntimeBackend):
    """See `CrashingSession`."""

    name: ClassVar[str] = "crashing"
    session_type: ClassVar[type[OnnxRuntimeSession]] = CrashingSession

    def _session_impl(self, options: Any, mutable: Sequence[str]) -> Session:
        return self.session_type(options, mutable)


class ForgetfulBackend(CrashingBackend):
    """See `ForgetfulSession`."""

    name: ClassVar[str] = "forgetful"
    session_type: ClassVar[type[OnnxRuntimeSession]] = ForgetfulSession


class StainedBackend(CrashingBackend):
    """See `StainedSession`."""

    name: ClassVar[str] = "stained"
    session_type: ClassVar[type[OnnxRuntimeSession]] = StainedSession


class KeepingBackend(CrashingBackend):
    """See `KeepingSession`."""

    name: ClassVar[str] = "keeping"
    session_type: ClassVar[type[OnnxRuntimeSession]] = KeepingSession


class DyingSession(OnnxRuntimeSession):
    """Dies of every model."""

    def _load_impl(self, source: ModelSource) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class DyingBackend(CrashingBackend):
    """See `DyingSession`."""

    name: ClassVar[str] = "dying"
    session_type: ClassVar[type[OnnxRuntimeSession]] = DyingSession


class MoodySession(OnnxRuntimeSession):
    """Does what the first letter of the producer's name says: hang, kill itself, want memory; or dies of external data."""

    def _load_impl(self, source: ModelSource) -> None:
        model = onnx.load(source, load_external_data=False)
        external = onnx.external_data_helper.uses_external_data
        if model.producer_name[0] == "k" or any(external(tensor) for tensor in model.graph.initializer):
            os.kill(os.getpid(), signal.SIGSEGV)
        while model.producer_name[0] == "h":
            time.sleep(1)
        if model.producer_name[0] == "m":
            np.ones(1 << 40)
        super()._load_impl(source)


class MoodyBackend(CrashingBackend):
    """See `MoodySession`."""

    name: ClassVar[str] = "moody"
    session_type: ClassVar[type[OnnxRuntimeSession]] = MoodySession


class RigidBackend(OnnxRuntimeBackend):
    """Compiles nothing whose numbers are to be changed."""

    name: ClassVar[str] = "rigid"

    def _session_impl(self, options: Any, mutable: Sequence[str]) -> Session:
        if mutable:
            raise UnsupportedError("this runtime cannot change a number once it is compiled")
        return super()._session_impl(options, mutable)


class SqueamishSession(OnnxRuntimeSession):
    """Dies of inputs that are beyond anything a sensor gives."""

    def _run_impl(self, feeds: Feeds) -> dict[str, Array]:
        if any(np.abs(value).max() > 50 for value in feeds.values()):
            os.kill(os.getpid(), signal.SIGSEGV)
        return super()._run_impl(feeds)


class SqueamishBackend(CrashingBackend):
    """See `SqueamishSession`."""

    name: ClassVar[str] = "squeamish"
    session_type: ClassVar[type[OnnxRuntimeSession]] = SqueamishSession


class BrittleSession(OnnxRuntimeSession):
    """Dies of weights that are beyond anything a model has."""

    def update(self, name: str, value: Array) -> None:
        if value.dtype == np.float32 and not np.abs(value).max() < 1e20:
            os.kill(os.getpid(), signal.SIGSEGV)
        super().update(name, value)


class BrittleBackend(CrashingBackend):
    """See `BrittleSession`."""

    name: ClassVar[str] = "brittle"
    session_type: ClassVar[type[OnnxRuntimeSession]] = BrittleSession


class FragileSession(OnnxRuntimeSession):
    """Dies of any new number, even of the one that is there."""

    def update(self, name: str, value: Array) -> None:
        os.kill(os.getpid(), signal.SIGSEGV)


class FragileBackend(CrashingBackend):
    """See `FragileSession`."""

    name: ClassVar[str] = "fragile"
    session_type: ClassVar[type[OnnxRuntimeSession]] = FragileSession
