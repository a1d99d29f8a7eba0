"""The contract between hwbench and a runtime: `Backend` compiles a build, `Session` runs it.

Public methods keep the lifecycle and check names, dtypes and shapes; a backend writes only the ``_impl`` ones. This module
also runs in workers, so it imports the standard library and numpy.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import MappingProxyType, TracebackType
from typing import Any, ClassVar, Self, TypeVar

import numpy as np

from hwbench.errors import InputError, ModelError, UnavailableError, UnsupportedError
from hwbench.patching import InitializerPatcher
from hwbench.registry import Registry
from hwbench.telemetry import silence_telemetry

Array = np.ndarray[Any, np.dtype[Any]]
Feeds = Mapping[str, Array]
ModelSource = Path | bytes
BatchAxes = Mapping[str, int | None]
T = TypeVar("T")


@dataclass(frozen=True)
class TensorSpec:
    """One input or output of a model.

    Attributes:
        name: Its name in the graph.
        dtype: The numpy name of its element type (``"float32"``, ``"bfloat16"``, ...).
        shape: Its dimensions; None where the size is only known at run time.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def check(self, value: Array) -> None:
        """Raise `InputError` unless ``value`` can be fed here."""
        if value.dtype.name != self.dtype:
            raise InputError(f"input {self.name!r} takes {self.dtype}, not {value.dtype.name}")
        fits = len(value.shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, value.shape, strict=True)
        )
        if not fits:
            raise InputError(f"input {self.name!r} takes shape {self.shape}, not {value.shape}")


@dataclass(frozen=True)
class Availability:
    """What a backend found on this machine.

    Attributes:
        available: Whether a session can be made here.
        reason: Why not; empty if it can.
        hint: The exact command that would help; empty if none is known.
        versions: Package or library name to version.
        devices: The devices that really work, in the backend's own words (``"CPU"``, ``"cuda"``).
        hints: Device to the command that would make it work, for devices this backend knows and this machine lacks.
        isa: Instruction-set extensions the runtime can use here, as far as it tells.
    """

    available: bool
    reason: str = ""
    hint: str = ""
    versions: Mapping[str, str] = field(default_factory=dict)
    devices: tuple[str, ...] = ()
    hints: Mapping[str, str] = field(default_factory=dict)
    isa: tuple[str, ...] = ()


@dataclass(frozen=True)
class NodeCoverage:
    """Whether, and where, a backend would run one ONNX node.

    Attributes:
        node: The node's name (or its first output's, where it has none).
        op_type: Its operator.
        supported: Whether the backend takes it.
        device: The device or provider it is assigned to; empty if none.
        reason: Why it is not supported; empty if it is.
    """

    node: str
    op_type: str
    supported: bool
    device: str = ""
    reason: str = ""


@dataclass(frozen=True)
class Coverage:
    """The answer of `Backend.coverage`, one entry per ONNX node in graph order."""

    nodes: tuple[NodeCoverage, ...]

    @property
    def supported(self) -> bool:
        """Whether every node is."""
        return all(node.supported for node in self.nodes)


@dataclass(frozen=True)
class ExecutedNode:
    """One node of the graph that really runs.

    Attributes:
        name: Its name in the compiled graph.
        op_type: What the runtime calls it.
        device: The provider or device that runs it.
        precision: The numeric format it computes in (``"fp32"``, ``"fp16"``, ``"bf16"``, ``"int8"``, ``"int4"``, ``""`` if the
            runtime does not tell).
        kernel: The kernel's name, with its instruction set where the runtime tells it.
        onnx_nodes: The ONNX nodes it stands for, where the runtime tells.
    """

    name: str
    op_type: str
    device: str
    precision: str = ""
    kernel: str = ""
    onnx_nodes: tuple[str, ...] = ()


class Session(ABC):
    """One compiled build, ready to run. A context manager.

    A subclass sets `inputs` and `outputs` in `_load_impl` and may be loaded again with a changed model.

    Args:
        options: The backend's options (an instance of its ``options_type``).
        mutable: Names of the initializers and other stored numbers (`hwbench.stored`) that will be changed by `update`.

    Attributes:
        batch_axes: Inputs and outputs of the graph whose batch is not on axis 0, to the axis; None for an input that is the
            same for all samples. Feeds and results have their samples on the first axis all the same.
    """

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def __init__(self, options: Any, mutable: Sequence[str] = ()) -> None:
        self.options = options
        self.mutable = frozenset(mutable)
        self._source: ModelSource = b""
        self._initializers: InitializerPatcher | None = None
        self._pending: dict[str, Array] = {}
        self._closed = False
        self.batch_axes: BatchAxes = {}

    def load(self, source: ModelSource) -> None:
        """Compile ``source``; called by `Backend.compile`, not by users."""
        self._source = source
        self._load_impl(source)

    def run(self, feeds: Feeds) -> dict[str, Array]:
        """Run the model once.

        Args:
            feeds: Every input's name to its value, of the dtype and shape `inputs` states, but for `batch_axes`.

        Returns:
            Every output's name to its value.

        Raises:
            InputError: A feed is missing, unknown, or does not fit.
        """
        placed = self._checked(feeds)
        self._apply_updates()
        made = self._run_impl(placed)
        for name, axis in self.batch_axes.items():
            if axis is not None and name in made:
                made[name] = np.moveaxis(made[name], axis, 0)
        return made

    def bind(self, feeds: Feeds) -> Callable[[], object]:
        """Check and place the inputs once; the callable returned only runs the model.

        This is what latency loops call, so a backend returns the barest call its runtime has.
        """
        placed = self._checked(feeds)
        self._apply_updates()
        return self._bind_impl(placed)

    def update(self, name: str, value: Array) -> None:
        """Replace the content of a mutable initializer from the next run on.

        Args:
            name: The initializer, one of those named ``mutable`` when compiling.
            value: Its new content, of the same dtype and shape; int4 as one element a byte (ml_dtypes).

        Raises:
            InputError: The name was not declared mutable.
        """
        if name not in self.mutable:
            raise InputError(f"initializer {name!r} was not declared mutable when this session was compiled")
        self._update_impl(name, value)

    def executed(self) -> tuple[ExecutedNode, ...]:
        """What really runs: provider, precision, kernel."""
        self._open()
        return self._executed_impl()

    def compiled(self) -> tuple[str, bytes] | None:
        """The compiled form as a file, its name and content; None where the runtime has none that can be kept."""
        self._open()
        return self._compiled_impl()

    def close(self) -> None:
        """Release the runtime's objects; further calls raise."""
        if not self._closed:
            self._closed = True
            self._close_impl()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _open(self) -> None:
        if self._closed:
            raise InputError("this session is closed")

    def _checked(self, feeds: Feeds) -> Feeds:
        """The feeds as the graph takes them, each of the right type and shape."""
        self._open()
        names = {spec.name for spec in self.inputs}
        if feeds.keys() != names:
            raise InputError(f"the model's inputs are {sorted(names)}, not {sorted(feeds)}")
        placed = place_batches(feeds, self.batch_axes)
        for spec in self.inputs:
            spec.check(placed[spec.name])
        return placed

    def _apply_updates(self) -> None:
        if self._pending:
            if self._initializers is None:
                self._initializers = InitializerPatcher(self._source, self.mutable)
            self._load_impl(self._initializers.patched(self._pending))
            self._pending = {}  # only now: a model the runtime refuses must not leave the old one running as the new

    def _update_impl(self, name: str, value: Array) -> None:
        """Default: collect the changes and compile again before the next run."""
        self._pending[name] = value

    def _compiled_impl(self) -> tuple[str, bytes] | None:
        """Default: the runtime keeps its compiled form to itself."""
        return None

    def _close_impl(self) -> None:
        """Default: nothing to release."""

    @abstractmethod
    def _load_impl(self, source: ModelSource) -> None:
        """Compile ``source`` in place and set `inputs` and `outputs`."""

    @abstractmethod
    def _run_impl(self, feeds: Feeds) -> dict[str, Array]: ...

    @abstractmethod
    def _bind_impl(self, feeds: Feeds) -> Callable[[], object]: ...

    @abstractmethod
    def _executed_impl(self) -> tuple[ExecutedNode, ...]: ...


class Backend(ABC):
    """A runtime that compiles and runs builds.

    Attributes:
        name: Its name, the same as its entry point's.
        options_type: A standard-library dataclass of the options a profile may set (in the backend's ``options.py``).
        threads_option: The field of ``options_type`` that sets the number of CPU threads; None if there is none.
        shared_options: Options, without effect on numbers, for jobs that share the machine with others.
        compile_bytes: Stored bytes of a model that runs on one input in the time that compiling a model takes, about; 0 where a
            change of weights needs no compilation worth counting. Sampling plans rest on it, since measured times would make
            them depend on the machine.
        runtime: The module of the runtime it drives.
        install: The command that installs what it needs.
        batch_axes: As in `Session`, for the sessions it makes.
    """

    name: ClassVar[str]
    options_type: ClassVar[type[Any]]
    threads_option: ClassVar[str | None] = None
    shared_options: ClassVar[Mapping[str, Any]] = {}
    compile_bytes: ClassVar[float] = 0.0
    runtime: ClassVar[str]
    install: ClassVar[str]
    batch_axes: BatchAxes = MappingProxyType({})

    def preload(self) -> None:
        """Import the runtime, so that what is measured next does not hold the loading of its libraries.

        Raises:
            UnavailableError: It is not installed.
        """
        silence_telemetry()
        self._guard(lambda: import_module(self.runtime))

    def probe(self) -> Availability:
        """What of this backend works on this machine. Call it in a child process: a missing driver may crash it."""
        silence_telemetry()
        try:
            return self._probe_impl()
        except ImportError as error:
            return Availability(False, f"the package {error.name!r} cannot be imported: {error}", self.install)

    def device(self, options: Mapping[str, Any]) -> str:
        """The device of `Availability.devices` that ``options`` ask for."""
        return self._device_impl(self.options_type(**options))

    def float_precision(self, options: Mapping[str, Any]) -> str | None:
        """The floating format that ``options`` make this backend compute in; None for the file's own."""
        return self._float_precision_impl(self.options_type(**options))

    def coverage(self, model: Path, options: Mapping[str, Any]) -> Coverage:
        """Which nodes of ``model`` this backend takes, and where it would run them.

        Raises:
            UnavailableError: The backend's package is missing.
        """
        silence_telemetry()
        return self._guard(lambda: self._coverage_impl(model, self.options_type(**options)))

    def compile(self, model: ModelSource, options: Mapping[str, Any], mutable: Sequence[str] = ()) -> Session:
        """Compile a model.

        Args:
            model: Path or bytes of an ONNX file.
            options: Fields of ``options_type``; those left out have its defaults.
            mutable: Names of the stored numbers whose content will be changed with `Session.update`.

        Raises:
            ModelError: There is no such file.
            UnsupportedError: The runtime refuses the model or the options.
            UnavailableError: The package, driver or device is missing.
        """
        silence_telemetry()
        if isinstance(model, Path) and not model.is_file():
            raise ModelError(f"{model}: no such model file")

        def load() -> Session:
            session = self._session_impl(self.options_type(**options), mutable)
            session.batch_axes = self.batch_axes
            session.load(model)
            return session

        return self._guard(load)

    def _guard(self, call: Callable[[], T]) -> T:
        try:
            return call()
        except ImportError as error:
            raise UnavailableError(f"the package {error.name!r} cannot be imported", self.install) from error

    @abstractmethod
    def _probe_impl(self) -> Availability: ...

    @abstractmethod
    def _device_impl(self, options: Any) -> str: ...

    def _float_precision_impl(self, options: Any) -> str | None:
        """Default: the runtime keeps to the file's types."""
        return None

    @abstractmethod
    def _coverage_impl(self, model: Path, options: Any) -> Coverage: ...

    @abstractmethod
    def _session_impl(self, options: Any, mutable: Sequence[str]) -> Session:
        """A session that is not loaded yet."""


def place_batches(feeds: Feeds, batch_axes: BatchAxes) -> Feeds:
    """Feeds as a graph takes them, from feeds that have their samples on the first axis.

    Args:
        feeds: Input name to ``[n, ...]``.
        batch_axes: As in `Session`.
    """
    placed = dict(feeds)
    for name in batch_axes.keys() & feeds.keys():
        axis, value = batch_axes[name], feeds[name]
        placed[name] = np.array(value[0] if axis is None else np.moveaxis(value, 0, axis), order="C")
    return placed


def node_name(node: Any) -> str:
    """What an ONNX ``NodeProto`` is called in `Coverage` and `ExecutedNode`: its name, or its first output's."""
    name: str = node.name or next(filter(None, node.output), "")
    return name


def load_backend(reference: str) -> Backend:
    """The backend a ``module:Class`` reference names, without entry-point metadata (a board may have none)."""
    module, _, attribute = reference.partition(":")
    backend: Backend = getattr(import_module(module), attribute)()
    return backend


backends: Registry[type[Backend]] = Registry("hwbench.backends", "backend")

__all__ = [
    "Array",
    "Availability",
    "Backend",
    "BatchAxes",
    "Coverage",
    "ExecutedNode",
    "Feeds",
    "ModelSource",
    "NodeCoverage",
    "Session",
    "TensorSpec",
    "UnsupportedError",
    "backends",
    "load_backend",
    "node_name",
    "place_batches",
    "silence_telemetry",
]
