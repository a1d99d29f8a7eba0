"""From a source framework's model to an ONNX file that was shown to compute the same."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hwbench.errors import InputError
from hwbench.export.base import Exporter, exporters
from hwbench.export.inputs import Array, InputShape, named, parse_input, random_inputs
from hwbench.export.parity import max_difference, run_onnx
from hwbench.export.portable import IR_VERSION, MAX_OPSET, MIN_OPSET, make_portable
from hwbench.export.target import build_model, load_target

PARITY_BATCHES = (1, 3)


@dataclass(frozen=True)
class ExportReport:
    """What an export wrote and how close it came to the source framework.

    Attributes:
        path: The ONNX file.
        framework: The source framework's name.
        inputs: The graph's inputs; the first dimension of each is dynamic.
        outputs: The names of the graph's outputs.
        opset: The file's opset.
        ir_version: The file's ONNX IR version.
        size_bytes: The file's size.
        max_abs_error: Largest absolute difference between the framework's and ONNX Runtime's outputs on random inputs.
        atol: The absolute tolerance it was held to.
        rtol: The relative tolerance it was held to.
        batches: The batch sizes compared.
    """

    path: Path
    framework: str
    inputs: tuple[InputShape, ...]
    outputs: tuple[str, ...]
    opset: int
    ir_version: int
    size_bytes: int
    max_abs_error: float
    atol: float
    rtol: float
    batches: tuple[int, ...]

    def __str__(self) -> str:
        return (
            f"{self.path}: {self.framework} model, opset {self.opset}, {self.size_bytes} bytes; parity with "
            f"{self.framework} on batches {' and '.join(map(str, self.batches))}: "
            f"max abs difference {self.max_abs_error:.3g} (tolerance {self.atol:g} + {self.rtol:g} of the value)"
        )


def export_model(
    target: Any,
    inputs: Sequence[InputShape],
    out: Path,
    *,
    framework: str | None = None,
    output_names: Sequence[str] = (),
    opset: int = MIN_OPSET,
    atol: float = 1e-4,
    rtol: float = 1e-3,
    seed: int = 0,
) -> ExportReport:
    """Export a model to one ONNX file and check it against the source framework's own outputs.

    Args:
        target: A model, a callable that returns one, or the ``package.module:callable`` that names either.
        inputs: Every input of the model in its order; the first dimension is the batch.
        out: The file to write; replaced only by an export that passed the check.
        framework: The exporter to use; None finds it by the model's class.
        output_names: Names for the outputs, all of them; empty keeps the framework's.
        opset: The ONNX opset to write, from `MIN_OPSET` to `MAX_OPSET`.
        atol: Absolute tolerance of the check.
        rtol: Relative tolerance of the check.
        seed: Seed of the random inputs of the check.

    Raises:
        InputError: The target, an input or an option cannot be used.
        ModelError: The model cannot be exported, or the exported one computes something else.
        UnavailableError: The framework or ONNX Runtime is not installed.
    """
    if not MIN_OPSET <= opset <= MAX_OPSET:
        raise InputError(f"opset {opset} is not between {MIN_OPSET} and {MAX_OPSET}, which the supported runtimes read")
    if out.is_dir():
        raise InputError(f"{out} is a folder; name the ONNX file to write")
    specs = named(inputs)
    found, called = (load_target(target), target) if isinstance(target, str) else (target, "the target")
    model, exporter = build_model(found, called, framework)
    feeds = [random_inputs(specs, batch, seed) for batch in PARITY_BATCHES]
    expected = [exporter.reference(model, batch) for batch in feeds]
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out.parent) as scratch:
        raw, final = Path(scratch, "raw.onnx"), Path(scratch, "final.onnx")
        exporter.export(model, specs, raw, opset)
        graph = make_portable(raw, final, output_names)
        got = run_onnx(final, feeds)
        error = max(max_difference(e, g, atol, rtol) for e, g in zip(expected, got, strict=True))
        size = final.stat().st_size
        final.replace(out)
    return ExportReport(
        path=out,
        framework=exporter.framework,
        inputs=specs,
        outputs=tuple(str(value.name) for value in graph.graph.outputs),
        opset=graph.opset_imports[""],
        ir_version=IR_VERSION,
        size_bytes=size,
        max_abs_error=error,
        atol=atol,
        rtol=rtol,
        batches=PARITY_BATCHES,
    )


__all__ = ["Array", "ExportReport", "Exporter", "InputShape", "export_model", "exporters", "parse_input"]
