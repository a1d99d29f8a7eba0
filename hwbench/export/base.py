"""The contract between hwbench and a framework that models are exported from."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, ClassVar, TypeVar

from hwbench.errors import HwbenchError, InputError, ModelError, UnavailableError
from hwbench.export.inputs import Array, InputShape
from hwbench.registry import Registry

T = TypeVar("T")


class Exporter(ABC):
    """A framework whose models can be written as ONNX. A subclass writes only the ``_impl`` methods.

    Attributes:
        framework: Its name, the same as its entry point's.
        package: The top-level package whose import shows that the framework is there.
        model_class: The name of the class, somewhere in `package`, that all its models derive from.
        install: The command that installs what it needs.
    """

    framework: ClassVar[str]
    package: ClassVar[str]
    model_class: ClassVar[str]
    install: ClassVar[str]

    def recognises(self, kind: type) -> bool:
        """Whether ``kind`` is the framework's own model class; asked of each base of a model's class, nearest first.

        Goes by names: an object of the framework exists only if the framework is imported, so this never imports it.
        """
        return kind.__module__.partition(".")[0] == self.package and kind.__name__ == self.model_class

    def reference(self, model: Any, feeds: Mapping[str, Array]) -> list[Array]:
        """The framework's own outputs, in evaluation mode, in the order the exported model will have.

        Args:
            model: A model of this framework.
            feeds: Every input's name to its value, in the model's order.

        Raises:
            InputError: The model does not take these inputs.
            UnavailableError: The framework is not installed.
        """

        def call() -> list[Array]:
            return self._reference_impl(model, feeds)

        shapes = ", ".join(f"{name} {value.dtype} {value.shape}" for name, value in feeds.items())
        return self._guard(call, InputError, f"the model could not be run on {shapes}")

    def export(self, model: Any, inputs: Sequence[InputShape], path: Path, opset: int) -> None:
        """Write ``model`` as ONNX with a dynamic batch; external data may stand beside ``path``.

        Raises:
            ModelError: The framework's exporter refuses the model.
            UnavailableError: The framework or its exporter is not installed.
        """

        def call() -> None:
            self._export_impl(model, inputs, path, opset)

        self._guard(call, ModelError, f"{self.framework} could not export the model")

    def _guard(self, call: Callable[[], T], kind: type[HwbenchError], problem: str) -> T:
        try:
            return call()
        except HwbenchError:
            raise
        except ImportError as error:
            raise UnavailableError(f"{self.framework} export is not possible here: {error}", self.install) from error
        except Exception as error:  # a user's model and a framework's exporter may raise anything
            raise kind(f"{problem}: {summary(error)}") from error

    @abstractmethod
    def _reference_impl(self, model: Any, feeds: Mapping[str, Array]) -> list[Array]: ...

    @abstractmethod
    def _export_impl(self, model: Any, inputs: Sequence[InputShape], path: Path, opset: int) -> None: ...


def summary(error: BaseException) -> str:
    """An exception in one line: the type and first line of the root cause, which long chains of rethrows bury."""
    while error.__cause__ is not None:
        error = error.__cause__
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0]}" if lines else type(error).__name__


exporters: Registry[type[Exporter]] = Registry("hwbench.exporters", "exporter")
